#!/usr/bin/env python3
"""Writes an archive with the image of one static program. Usage: image.py NAME:TAG PROGRAM ARCHIVE"""

import hashlib
import io
import json
import platform
import sys
import tarfile


def main():
    reference, program, archive = sys.argv[1:]
    with open(program, "rb") as file:
        layer = archive_of({"program": (file.read(), 0o755)})
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = as_json({
        "architecture": machine,
        "os": "linux",
        "config": {"Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    })
    manifest = as_json([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}])
    files = {"config.json": config, "layer.tar": layer, "manifest.json": manifest}
    with open(archive, "wb") as file:
        file.write(archive_of({name: (data, 0o644) for name, data in files.items()}))


def as_json(value):
    return json.dumps(value).encode()


def archive_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


main()
