#!/usr/bin/env python3
"""llmdbench, the floor client and, where they are installed, other load generators: the same load into the same server.

Known are `vllm` (vllm bench serve), `vllm-rs` (the same in Rust, which lies in vllm's package), `guidellm`, `aiperf` and
`inference-perf`. They are taken from PATH, or from where `--peer NAME=COMMAND` says. What is not there is said to be
missing. README.md says how to install them.

Each drives two loads of 64 tokens: a closed loop at a server without delays, for the processor time of a request; and
an open loop against TTFT 20 ms and ITL 5 ms, for its error against the server's truth log, request by request.
Processor time is that of the client with all its children, from the moment the server read the first request until it
wrote the last byte; what is used before and after is printed beside it.

Lateness is what the server sees: how far its reads are off an even grid, counted from the earliest. inference-perf does
not send evenly (it draws gaps), so its lateness cannot be told from outside.
"""

import json
import os
import pathlib
import re
import shutil
import sys

from common import (
    MS,
    Server,
    Watch,
    checked,
    command,
    folder,
    need_floor,
    parse,
    parser,
    places,
    quantile,
    read_lines,
    read_records,
    save,
)
from memory import make_tokenizer

TOKENS = 64


def main():
    made = parser(__doc__)
    made.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="where another tool is")
    made.add_argument("--only", help="only these, with commas")
    made.add_argument("--concurrency", type=int, default=64, help="of the closed loop (default: %(default)s)")
    made.add_argument("--rate", type=float, default=50, help="of the open loop (default: %(default)s)")
    made.add_argument(
        "--requests",
        type=int,
        default=1000,
        help="of the closed loop (default: %(default)s; ours and the floor ten times that)",
    )
    made.add_argument("--seconds", type=float, default=8, help="of the open loop (default: %(default)s)")
    options = parse(made)
    need_floor(options)
    where = dict(peer.split("=", 1) for peer in options.peer)
    if unknown := set(where) - set(TOOLS):
        sys.exit(f"--peer: {', '.join(sorted(unknown))}: known are {', '.join(TOOLS)}")
    tools, missing = {}, []
    for name, tool in TOOLS.items():
        program = (
            {"floor": options.floor, "llmdbench": options.program}.get(name) or where.get(name) or shutil.which(name)
        )
        if options.only and name not in options.only.split(","):
            continue
        if program and shutil.which(program):
            tools[name] = tool(program)
        else:
            missing.append(name)
    print(f"missing: {', '.join(missing)}" if missing else "all are there")
    rows = {}
    with folder() as place:
        tokenizer = hub(pathlib.Path(place))
        for name, tool in tools.items():
            closed = {"concurrency": options.concurrency, "requests": options.requests * (10 if tool.quick else 1)}
            opened = {"rate": options.rate, "requests": round(options.rate * options.seconds)}
            rows[name] = {
                "closed": measure(options, tool, closed, tokenizer),
                "open": measure(options, tool, opened, tokenizer),
            }
            print(f"{name}: measured", flush=True)
    report(options, rows)
    save(options, {"tools": rows, "missing": missing})
    return 0


def report(options, rows):
    base = rows.get("floor", {}).get("closed", {}).get("cpu_s_per_1000")
    print(f"\nclosed loop, C = {options.concurrency}, no delays; CPU s per 1,000 requests, and CPU s besides")
    print(f"{'':<16}{'requests':>9}{'CPU s/1k':>10}{'x floor':>9}{'before':>9}{'after':>8}{'requests/s':>12}{'MiB':>7}")
    for name, row in rows.items():
        row = row["closed"]
        times = f"{row['cpu_s_per_1000'] / base:.1f}" if base else "-"
        print(
            f"{name:<16}{row['requests']:>9}{row['cpu_s_per_1000']:>10.3f}{times:>9}{row['before_s']:>9.2f}"
            f"{row['after_s']:>8.2f}{row['requests_per_s']:>12.0f}{row['peak_mib']:>7.0f}"
        )
    print(f"\nopen loop, {options.rate:g}/s, TTFT 20 ms, ITL 5 ms; ms")
    print(
        f"{'':<16}{'requests':>9}{'CPU s/1k':>10}{'TTFT error p50':>16}{'p90':>8}{'p99':>8}"
        f"{'lateness p50':>14}{'p99':>8}{'start s':>9}"
    )
    for name, row in rows.items():
        row = row["open"]
        error = [f"{row['ttft_error_ms'][share]:.2f}" for share in ("p50", "p90", "p99")]
        late = row["lateness_ms"]
        late = [f"{late[share]:.2f}" for share in ("p50", "p99")] if late else ["-", "-"]
        print(
            f"{name:<16}{row['requests']:>9}{row['cpu_s_per_1000']:>10.2f}{error[0]:>16}{error[1]:>8}{error[2]:>8}"
            f"{late[0]:>14}{late[1]:>8}{row['start_s']:>9.2f}"
        )


def measure(options, tool, load, tokenizer):
    """Runs one tool once; gives its costs and errors."""
    server_place, client_place = places(options)
    delays = ["--ttft", "20ms", "--itl", "5ms"] if "rate" in load else ["--ttft", "0ms", "--itl", "0ms"]
    with folder() as place:
        place = pathlib.Path(place)
        truth = place / "truth.jsonl"
        with Server(options.program, *delays, truth=truth, where=server_place) as server:
            line, environment = tool.command(options, server, place, load, tokenizer)
            watch = checked(Watch(line, Tree().seen, client_place, environment, interval_s=0.02))
        lines = [line for line in read_lines(truth) if line.get("read_ns") and line["status"] == 200]
        # Some tools ask once before they begin, to see whether the server is there.
        lines = sorted(lines, key=lambda line: line["read_ns"])[-load["requests"] :]
        if len(lines) < 0.9 * load["requests"]:
            sys.exit(
                f"the server saw {len(lines)} of {load['requests']} requests\n"
                f"{watch.stdout[-2000:]}\n{watch.stderr[-2000:]}"
            )
        first, last = lines[0]["read_ns"], max(line["finished_ns"] or 0 for line in lines)
        used = lambda at: next((seen[0] for when, _, seen in watch.samples if when >= at), watch.samples[-1][2][0])
        total = watch.samples[-1][2][0]
        window = used(last) - used(first)
        found = {
            "requests": len(lines),
            "cpu_s_per_1000": window / len(lines) * 1000,
            "before_s": used(first),
            "after_s": total - used(last),
            "requests_per_s": len(lines) / ((last - first) / 1e9),
            "peak_mib": max(seen[1] for _, _, seen in watch.samples) / 1024,
            "start_s": (first - watch.begin_ns) / 1e9,
        }
        if "rate" in load:
            found["ttft_error_ms"] = percentiles(join(tool.requests(place), lines))
            found["lateness_ms"] = percentiles(off_grid(lines, load["rate"])) if tool.even else None
        return found


def percentiles(values):
    return {f"p{share * 100:g}": quantile(values, share) for share in (0.5, 0.9, 0.99)}


def join(requests, lines):
    """TTFT as the tool says less as the server knows, in ms, by an id that both have, or else in order of sending."""
    true = lambda line: (line["tokens_ns"][0] - line["read_ns"]) / MS
    keys = {line[name]: line for line in lines for name in ("x_request_id", "id") if line[name]}
    if all(key in keys for key, _ in requests):
        return [ttft - true(keys[key]) for key, ttft in requests]
    if any(key is not None for key, _ in requests):
        sys.exit("the ids that the tool reports are not those that the server saw")
    return [ttft - true(line) for (_, ttft), line in zip(requests, lines)]


def off_grid(lines, rate):
    """How far each read is behind an even grid that starts as early as it can, in ms."""
    behind = [line["read_ns"] - i * 1e9 / rate for i, line in enumerate(lines)]
    return [(value - min(behind)) / MS for value in behind]


class Tree:
    """Processor time and resident memory of a process with its descendants, also of those that ended meanwhile."""

    def __init__(self):
        self.used, self.family = {}, set()

    def seen(self, root):
        parents, resident = {}, {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    fields = open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                parents[int(name)] = int(fields[1])
                resident[int(name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // 1024
                self.used[int(name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        family = {root}
        while more := {child for child, parent in parents.items() if parent in family} - family:
            family |= more
        self.family |= family
        return sum(self.used.get(pid, 0) for pid in self.family), sum(resident.get(pid, 0) for pid in family)


def hub(place):
    """A folder like the cache of the Hugging Face hub with a tokenizer named local/tok; gives both folders."""
    snapshot = place / "hub/models--local--tok/snapshots/0"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").write_text(json.dumps(make_tokenizer(8000)))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 131072}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(names))
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    refs = place / "hub/models--local--tok/refs"
    refs.mkdir()
    (refs / "main").write_text("0")
    return place, snapshot


class Tool:
    # Whether ten times the requests are affordable; whether it sends at even gaps.
    quick, even = False, True

    def __init__(self, program):
        self.program = program

    def python(self, tokenizer):
        return {**os.environ, "HF_HOME": str(tokenizer[0]), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Floor(Tool):
    quick = True

    def command(self, options, server, place, load, tokenizer):
        line = [self.program, "--addr", server.address, "--n", str(load["requests"]), "--parse", "full"]
        if "rate" in load:
            return [*line, "--rate", str(load["rate"]), "--conc", "32", "--times", str(place / "times.jsonl")], None
        return [*line, "--conc", str(load["concurrency"])], None

    def requests(self, place):
        return [
            (f"floor-{line['id']:012}", (line["first"] - line["sent"]) / MS)
            for line in read_lines(place / "times.jsonl")
        ]


class Ours(Tool):
    quick = True

    def command(self, options, server, place, load, tokenizer):
        return (
            command(options, server.url, place / "w", **load, **({"arrival": "constant"} if "rate" in load else {})),
            None,
        )

    def requests(self, place):
        header, records = read_records(place / "w")
        key = lambda record: f"llmdbench-{header['run']}-{record['id']:012}"
        return [
            (key(record), (record["arrivals"][0] - record["sent"]) / MS) for record in records if record["arrivals"]
        ]


class Aiperf(Tool):
    def command(self, options, server, place, load, tokenizer):
        line = [
            self.program,
            "profile",
            "--model",
            "sim",
            "--url",
            server.url,
            "--endpoint-type",
            "chat",
            "--streaming",
        ]
        line += [
            "--tokenizer",
            "local/tok",
            "--isl",
            "64",
            "--isl-stddev",
            "0",
            "--osl",
            str(TOKENS),
            "--osl-stddev",
            "0",
        ]
        line += ["--extra-inputs", "ignore_eos:true", "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"]
        line += [
            "--random-seed",
            "1",
            "--request-count",
            str(load["requests"]),
            "--artifact-dir",
            str(place / "aiperf"),
        ]
        line += (
            ["--request-rate", str(load["rate"]), "--arrival-pattern", "constant"]
            if "rate" in load
            else ["--concurrency", str(load["concurrency"])]
        )
        return line, self.python(tokenizer)

    def requests(self, place):
        lines = read_lines(place / "aiperf/profile_export.jsonl")
        return [(line["metadata"]["x_request_id"], line["metrics"]["time_to_first_token"]["value"]) for line in lines]


class InferencePerf(Tool):
    even = False

    def command(self, options, server, place, load, tokenizer):
        lengths = {"min": TOKENS, "max": TOKENS, "mean": TOKENS, "std_dev": 0, "total_count": load["requests"] + 50}
        if "rate" in load:
            stages = {
                "type": "constant",
                "stages": [{"rate": load["rate"], "duration": load["requests"] / load["rate"]}],
            }
        else:
            stages = {
                "type": "concurrent",
                "stages": [{"num_requests": load["requests"], "concurrency_level": load["concurrency"]}],
            }
        config = {
            # Its random data refuses the chat API.
            "api": {"type": "completion", "streaming": True},
            "data": {"type": "random", "input_distribution": lengths, "output_distribution": lengths},
            "load": {**stages, "interval": 0},
            "server": {"type": "vllm", "model_name": "sim", "base_url": server.url, "ignore_eos": True},
            "tokenizer": {"pretrained_model_name_or_path": str(tokenizer[1])},
            "report": {"request_lifecycle": {"summary": True, "per_stage": True, "per_request": "rate" in load}},
            "storage": {"local_storage": {"path": str(place / "inference-perf")}},
        }
        # JSON is YAML.
        (place / "inference-perf.yml").write_text(json.dumps(config))
        return [self.program, "--config_file", str(place / "inference-perf.yml")], self.python(tokenizer)

    def requests(self, place):
        found = []
        for request in json.loads((place / "inference-perf/per_request_lifecycle_metrics.json").read_text()):
            response = request["info"]["response_metrics"]
            key = re.search(r'"id":\s*"([^"]+)"', request["response"]).group(1)
            found.append((key, (response["chunk_times"][0] - request["start_time"]) * 1000))
        return found


class Guidellm(Tool):
    def command(self, options, server, place, load, tokenizer):
        line = [
            self.program,
            "run",
            "--backend",
            f"kind=openai_http,target={server.url},model=sim,request_format=/v1/chat/completions",
        ]
        line += ["--tokenizer", f"kind=huggingface_auto,model={tokenizer[1]}"]
        line += ["--data", f"kind=synthetic_text,prompt_tokens=64,output_tokens={TOKENS}"]
        line += [
            "--profile",
            (
                f"kind=constant,rate={load['rate']}"
                if "rate" in load
                else f"kind=concurrent,streams={load['concurrency']}"
            ),
        ]
        line += [
            "--constraint",
            f"kind=max_requests,count={load['requests']}",
            "--output",
            f"kind=json,path={place}/guidellm.json",
        ]
        return [*line, "--disable-console-interactive"], self.python(tokenizer)

    def requests(self, place):
        done = json.loads((place / "guidellm.json").read_text())["benchmarks"][0]["requests"]["successful"]
        return [(request["response_id"], request["time_to_first_token_ms"]) for request in done]


class Vllm(Tool):
    prefix = "peer-"

    def command(self, options, server, place, load, tokenizer):
        line = [self.program, "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
        line += ["--base-url", server.url, "--model", "sim", "--tokenizer", str(tokenizer[1])]
        line += ["--dataset-name", "random", "--random-input-len", "64", "--random-output-len", str(TOKENS)]
        line += ["--ignore-eos", "--num-prompts", str(load["requests"]), "--request-id-prefix", self.prefix]
        line += ["--save-result", "--save-detailed", "--result-dir", str(place), "--result-filename", "vllm.json"]
        # Gaps of infinite burstiness are even.
        line += (
            ["--request-rate", str(load["rate"]), "--burstiness", "inf"]
            if "rate" in load
            else ["--max-concurrency", str(load["concurrency"])]
        )
        return line, self.python(tokenizer)

    def requests(self, place):
        ttfts = json.loads((place / "vllm.json").read_text())["ttfts"]
        return [(f"{self.prefix}{number}", ttft * 1000) for number, ttft in enumerate(ttfts)]


class VllmRs(Vllm):
    quick = True


TOOLS = {
    "floor": Floor,
    "llmdbench": Ours,
    "vllm": Vllm,
    "vllm-rs": VllmRs,
    "inference-perf": InferencePerf,
    "aiperf": Aiperf,
    "guidellm": Guidellm,
}


if __name__ == "__main__":
    sys.exit(main())
