#!/usr/bin/env python3
"""Stands in for every image registry and for the model hub, their refusals included.

Usage: standins.py ADDRESS PORT FOLDER

Registry: FOLDER/NAME/TAG holds an unpacked OCI archive. Of images whose name has one of these words as a part,
`private` wants a login, `denied` refuses, and `limited` has been asked too often; all others that are not in the
folder do not exist.
Hub: models of the organisation `gated` want the token `hf_good`; with `hf_stranger`, which has not accepted the
licence, and without one they are refused. Models of `missing` do not exist. All others have two small files.
"""

import hashlib
import http.server
import json
import pathlib
import sys

GOOD, STRANGER = "hf_good", "hf_stranger"
FILES = {"config.json": b'{"model_type": "test"}', "model.safetensors": b"weights"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSED = {
    "private": (401, "UNAUTHORIZED", "authentication required"),
    "denied": (403, "DENIED", "requested access to the resource is denied"),
    "limited": (429, "TOOMANYREQUESTS", "You have reached your pull rate limit."),
}


class StandIn(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = pathlib.Path()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/").split("/")
        if path[0] == "v2":
            self.registry(path[1:])
        else:
            self.hub(path)

    do_HEAD = do_GET

    def registry(self, path):
        if len(path) < 3:
            return self.answer(200, b"{}")
        *name, kind, reference = path
        for word, (status, code, message) in REFUSED.items():
            if word in name:
                headers = {"WWW-Authenticate": 'Basic realm="stand-in"'} if status == 401 else {}
                return self.answer(status, problem(code, message), headers)
        image = self.folder.joinpath(*name)
        if kind == "manifests" and not reference.startswith("sha256:"):
            index = image / reference / "index.json"
            if not index.exists():
                return self.answer(404, problem("MANIFEST_UNKNOWN", "manifest unknown"))
            reference = json.loads(index.read_text())["manifests"][0]["digest"]
        algorithm, _, digest = reference.partition(":")
        blob = next(image.glob(f"*/blobs/{algorithm}/{digest}"), None)
        if blob is None:
            code = "BLOB_UNKNOWN" if kind == "blobs" else "MANIFEST_UNKNOWN"
            return self.answer(404, problem(code, "manifest unknown"))
        data = blob.read_bytes()
        media_type = "application/octet-stream"
        if kind == "manifests":
            media_type = json.loads(data).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
        self.answer(200, data, {"Content-Type": media_type, "Docker-Content-Digest": reference})

    def hub(self, path):
        model = path[2:4] if path[:2] == ["api", "models"] else path[:2]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if model[0] == "missing":
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if model[0] == "gated" and token != GOOD:
            text = f"Access to model {'/'.join(model)} is restricted and you are not in the authorized list."
            return self.refuse(403 if token == STRANGER else 401, "GatedRepo", text)
        headers = {"X-Repo-Commit": COMMIT}
        if path[0] == "api":
            files = [listed(name, data) for name, data in FILES.items()]
            about = {"id": "/".join(model), "sha": COMMIT, "siblings": files}
            about["gated"] = "manual" if model[0] == "gated" else False
            return self.answer(200, json.dumps(about).encode(), {**headers, "Content-Type": "application/json"})
        data = FILES.get(path[-1])
        if "resolve" not in path or data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        self.answer(200, data, {**headers, "ETag": f'"{path[-1]}"'})

    def refuse(self, status, code, message):
        self.answer(status, message.encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def answer(self, status, data, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def listed(name, data):
    """A file as the hub lists it: weights are large files, all others are git's own."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    file = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(".safetensors"):
        file["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 127}
    return file


def problem(code, message):
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def main():
    address, port, folder = sys.argv[1:]
    StandIn.folder = pathlib.Path(folder)
    http.server.ThreadingHTTPServer((address, int(port)), StandIn).serve_forever()


if __name__ == "__main__":
    main()
