#!/usr/bin/env python3
"""Compares what llmdbench measured with what the simulated server did, request by request.

Starts `llmdbench sim` with a truth log, drives `llmdbench run` into it with the same options that a user would
type, joins the records with the truth log by the request id that both have, and prints how far the client is off.
Both read CLOCK_MONOTONIC; the client's times count from its start, so one offset is found first (see `offset`).
Only python3's standard library is needed.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server, url = serve(options, folder)
        try:
            client = run(options, folder, url)
        finally:
            server.terminate()
            server.wait()
        records, truth = read(folder)
    pairs = [(record, truth[record["id"]]) for record in records if not record.get("error")]
    report(options, records, pairs, client)
    return 0 if len(pairs) == len(records) else 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=str(ROOT / "target/release/llmdbench"))
    parser.add_argument("--rate", type=float, default=20, help="requests per second (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=30, help="seconds (default: %(default)s)")
    parser.add_argument("--ttft", default="200ms", help="the server's time to first token (default: %(default)s)")
    parser.add_argument("--itl", default="10ms", help="the server's time between tokens (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="output tokens (default: %(default)s)")
    parser.add_argument("--input-tokens", type=int, default=128, help="prompt tokens (default: %(default)s)")
    return parser.parse_args()


def serve(options, folder):
    command = [options.program, "sim", "--port", "0", "--model", "m", "--ttft", options.ttft, "--itl", options.itl]
    command += ["--truth-log", str(folder / "truth.jsonl")]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = server.stderr.readline()
    if " at http://" not in line:
        sys.exit(f"the server did not start: {line}{server.stderr.read()}")
    return server, line.rsplit(" at ", 1)[1].strip()


def run(options, folder, url):
    """Runs the one-liner; gives its exit code, its processor time and its largest memory."""
    command = [options.program, "run", "--endpoint", url, "--model", "m", "--rate", f"{options.rate:g}"]
    command += ["--duration", f"{options.duration:g}s", "--input-tokens", str(options.input_tokens)]
    command += ["--output-tokens", str(options.tokens), "--warmup", "0", "--workdir", str(folder / "w")]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 7):
        sys.exit(f"the run ended with {child.returncode}\n{said}")
    summary = json.loads((folder / "w/analysis/data/summary.json").read_text())
    return {
        "exit": child.returncode,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "rss_mib": usage.ru_maxrss / 1024,
        "health": summary["health"],
    }


def read(folder):
    """The records with absolute arrivals, and the truth by the record's number."""
    records = []
    for line in open(folder / "w/results/records.jsonl"):
        record = json.loads(line)
        if "id" in record:
            at = 0
            record["arrivals"] = [at := at + gap for gap in record.get("tokens", [])]
            records.append(record)
    truth = {}
    for line in open(folder / "truth.jsonl"):
        line = json.loads(line)
        name = line.get("x_request_id") or ""
        if name.startswith("llmdbench-"):
            truth[int(name.rsplit("-", 1)[1])] = line
    records.sort(key=lambda record: record["id"])
    return records, truth


def offset(pairs):
    """What to add to the client's times to get the server's, as a range.

    No request is read before the client began it, and no token arrives before it was written: the first
    bounds the offset from above, the second from below. The truth is the lower bound to within the time
    that the quickest of all tokens was under way.
    """
    most = min(line["read_ns"] - record["started"] for record, line in pairs)
    least = max(
        written - arrived
        for record, line in pairs
        for written, arrived in zip(line["tokens_ns"], record["arrivals"])
    )
    return least, most


def report(options, records, pairs, client):
    print(
        f"{options.rate:g}/s for {options.duration:g} s, TTFT {options.ttft}, ITL {options.itl}, "
        f"{options.tokens} tokens: {len(records)} requests, {len(records) - len(pairs)} failed"
    )
    ms = 1e6
    least, most = offset(pairs)
    print(f"clock offset known to {(most - least) / ms:.3f} ms" + (" (IMPOSSIBLE)" if most < least else ""))
    rows = {name: [] for name in ("TTFT", "ITL, mean of a request", "ITL, each gap", "latency", "arrival of a token")}
    for record, line in pairs:
        sent, arrivals, written = record["sent"], record["arrivals"], line["tokens_ns"]
        if len(arrivals) != len(written):
            sys.exit(f"request {record['id']}: {len(arrivals)} chunks arrived, {len(written)} were written")
        rows["TTFT"].append((arrivals[0] - sent) - (written[0] - line["read_ns"]))
        rows["latency"].append((record["finished"] - sent) - (line["finished_ns"] - line["read_ns"]))
        if len(arrivals) > 1:
            span = (arrivals[-1] - arrivals[0]) - (written[-1] - written[0])
            rows["ITL, mean of a request"].append(span / (len(arrivals) - 1))
        for i in range(1, len(arrivals)):
            rows["ITL, each gap"].append((arrivals[i] - arrivals[i - 1]) - (written[i] - written[i - 1]))
        rows["arrival of a token"] += [a + least - w for a, w in zip(arrivals, written)]
    print(f"{'measured - true, ms':<26}{'n':>8}" + "".join(f"{name:>10}" for name in ("p10", "p50", "p90", "p99", "max")))
    for name, values in rows.items():
        show(name, [value / ms for value in values])
    due = [record for record in records if record.get("due") is not None and record.get("sent") is not None]
    if due:
        show("lateness (sent - due)", [(record["sent"] - record["due"]) / ms for record in due])
        early = sum(record["sent"] < record["due"] for record in due)
        planned = (due[-1]["due"] - due[0]["due"]) / 1e9
        sent = sorted(record["sent"] for record in due)
        took = (sent[-1] - sent[0]) / 1e9
        if planned > 0:
            print(
                f"sends: {len(sent)} in {took:.4f} s, due in {planned:.4f} s ({100 * (took / planned - 1):+.3f} %); "
                f"{early} early"
            )
    reasons = "; ".join(reason["text"] for reason in client["health"]["reasons"])
    print(f"client: {client['cpu_s']:.2f} CPU s, {client['rss_mib']:.0f} MiB, exit {client['exit']}", end=", ")
    print(f"health {client['health']['verdict']}" + (f" ({reasons})" if reasons else ""))


def show(name, values):
    values = sorted(values)
    at = lambda share: values[min(len(values) - 1, int(share * len(values)))]
    cells = [at(0.10), at(0.50), at(0.90), at(0.99), values[-1]]
    print(f"{name:<26}{len(values):>8}" + "".join(f"{cell:>10.3f}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
