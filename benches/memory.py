#!/usr/bin/env python3
"""What llmdbench needs besides the load itself: memory, and time before the first request and after the last.

- Memory of a request under way, all token times kept: the largest resident set with many streams under way less that
  with few, divided by the difference of their numbers. It holds the connection, too.
- Memory must not grow with the length of a run, for records leave it when they are written. The beginnings of prompts
  that are remembered are bounded, and are full after some 70,000 requests.
- Time from the start of the program until the server has read the first request, with synthetic prompts and with a
  tokenizer.json made up here; the plugins are cached.
- Time from the last byte of 100,000 requests to the table on the terminal.
- Time and memory of analysing 1,000,000 requests, made by repeating a real run.
"""

import json
import os
import pathlib
import random
import re
import sys

from common import (
    Server,
    Verdicts,
    Watch,
    checked,
    command,
    folder,
    median,
    parse,
    parser,
    places,
    read_records,
    read_truth,
    save,
    size_of,
    window,
)

PARTS = ("flight", "length", "start", "end", "analysis")


def main():
    made = parser(__doc__)
    made.add_argument("--parts", default=",".join(PARTS), help="which of them (default: %(default)s)")
    made.add_argument("--vocabulary", type=int, default=32000, help="entries of the tokenizer (default: %(default)s)")
    made.add_argument("--finished", type=int, default=100_000, help="requests before the table (default: %(default)s)")
    made.add_argument("--analysed", type=int, default=1_000_000, help="requests analysed (default: %(default)s)")
    options = parse(made)
    verdicts, results = Verdicts(), {}
    for part in options.parts.split(","):
        if part not in PARTS:
            sys.exit(f"there is no part {part}; there are {', '.join(PARTS)}")
        results[part] = globals()[part](options, verdicts)
    print()
    save(options, results)
    return verdicts.report()


def resident_kib(pid):
    """Resident memory of the process now."""
    return int(open(f"/proc/{pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def flight(options, verdicts):
    """The same requests and tokens a second, with streams of 1.3 s and of 12.8 s: ten times as many are under way.

    Whatever goes with the rate, as requests that are made ahead and records that are being written, is the same.
    """
    found = {}
    # The first run of a new program compiles the plugins, which takes more memory than streams do.
    peak_under_load(options, ["--ttft", "0ms", "--itl", "0ms"], concurrency=1, requests=20)
    for itl in ("20ms", "200ms"):
        rss, streams = peak_under_load(options, ["--ttft", "20ms", "--itl", itl], rate=500.0, duration="15s")
        found[streams] = rss
        print(f"{streams} streams under way: {rss / 1024:.1f} MiB")
    (few, small), (many, large) = sorted(found.items())
    each = (large - small) * 1024 / (many - few)
    limit = "more than 0, else nothing was measured, and 1,024 at most"
    verdicts.add("memory of a stream under way", 0 < each <= 1024, f"{each:.0f} bytes", limit)
    return {"bytes_each": each, "peak_kib": found}


def length(options, verdicts):
    found = {}
    for requests in (100_000, 300_000):
        rss, _ = peak_under_load(
            options, ["--ttft", "0ms", "--itl", "0ms", "--one-write"], concurrency=64, requests=requests
        )
        found[requests] = rss
        print(f"{requests} requests, 64 at a time: {rss / 1024:.1f} MiB until the last was written")
    short, long = found.values()
    more = (long - short) * 1024 / 200_000
    # Both runs fill what is remembered of prompts. Equal runs differ by some 0.5 MiB, which is 3 bytes, for allocators
    # keep some of what bursts took.
    text = f"{more:+.1f} bytes for each of 200,000 more"
    verdicts.add("memory by length of run", more < 5, text, "under 5 bytes")
    return {"peak_kib": found}


def peak_under_load(options, behavior, **flags):
    """The largest resident set in KiB until all records were written, and the most requests under way."""
    server_place, client_place = places(options)
    with folder() as place, Server(options.program, *behavior, where=server_place) as server:
        workdir = pathlib.Path(place) / "w"
        file = workdir / "results/records.jsonl"
        size = size_of(file)
        watch = Watch(
            command(options, server.url, workdir, **flags), lambda pid: (size(pid), resident_kib(pid)), client_place
        )
        checked(watch)
        whole = file.stat().st_size
        rss = max(seen[1] for _, _, seen in watch.samples if seen[0] < whole)
        steps = []
        with open(file) as lines:
            # One at a time, for there may be hundreds of thousands.
            for record in map(json.loads, lines):
                steps += [(record["sent"], 1), (record["finished"], -1)] if "id" in record else []
        most = now = 0
        for _, step in sorted(steps):
            now += step
            most = max(most, now)
        return rss, most


def start(options, verdicts):
    found = {}
    with folder() as place:
        tokenizer = pathlib.Path(place) / "tokenizer.json"
        tokenizer.write_text(json.dumps(make_tokenizer(options.vocabulary)))
        size = tokenizer.stat().st_size / 2**20
        for name, flags, limit in (
            ("synthetic prompts", {}, 0.1),
            (f"tokenizer.json, {options.vocabulary} entries, {size:.1f} MiB", {"tokenizer": tokenizer}, 0.3),
        ):
            times = [first_request(options, flags) for _ in range(6)][1:]
            found[name] = times
            text = f"{median(times):.3f} s (of 5: {min(times):.3f} to {max(times):.3f})"
            print(f"start to first request, {name}: {text}")
            verdicts.add(f"start to first request, {name}", median(times) < limit, text, f"under {limit} s")
    return found


def first_request(options, flags):
    server_place, client_place = places(options)
    with folder() as place:
        truth = pathlib.Path(place) / "truth.jsonl"
        with Server(options.program, "--ttft", "0ms", "--itl", "0ms", truth=truth, where=server_place) as server:
            line = command(options, server.url, pathlib.Path(place) / "w", concurrency=1, requests=20, **flags)
            watch = checked(Watch(line, where=client_place))
        return (min(line["read_ns"] for line in read_truth(truth).values()) - watch.begin_ns) / 1e9


def end(options, verdicts):
    server_place, client_place = places(options)
    behavior = ["--ttft", "0ms", "--itl", "0ms", "--one-write"]
    with folder() as place, Server(options.program, *behavior, where=server_place) as server:
        workdir = pathlib.Path(place) / "w"
        file = workdir / "results/records.jsonl"
        line = command(options, server.url, workdir, concurrency=64, requests=options.finished)
        watch = checked(Watch(line, size_of(file), client_place))
        header, records = read_records(workdir)
        split = window(watch, header, records, file)
    last, table = split["last_ns"], watch.spoke_ns
    ended = (watch.end_ns - last) / 1e9
    text = f"{(table - last) / 1e9:.2f} s (to the end of the program {ended:.2f} s; {split['after']:.2f} CPU s)"
    print(f"last byte of {options.finished} requests to the table: {text}")
    verdicts.add("last byte to the table", table - last < 0.5e9, text, "under 0.5 s")
    return {"table_s": (table - last) / 1e9, "exit_s": ended, "cpu_s": split["after"]}


def analysis(options, verdicts):
    with folder() as place:
        place = pathlib.Path(place)
        with Server(options.program, "--ttft", "20ms", "--itl", "5ms", "--jitter", "0.2") as server:
            checked(Watch(command(options, server.url, place / "w", rate=100.0, duration="10s")))
        file = place / "many/results/records.jsonl"
        file.parent.mkdir(parents=True)
        repeat(place / "w/results/records.jsonl", file, options.analysed)
        watch = checked(Watch([options.program, "analyze", str(file)]))
        took, rss = (watch.end_ns - watch.begin_ns) / 1e9, watch.peak_rss_kib / 1024
        size = file.stat().st_size / 2**30
    print(
        f"analysing {options.analysed} requests ({size:.2f} GiB): {took:.1f} s, {watch.cpu_s:.1f} CPU s, {rss:.0f} MiB"
    )
    verdicts.add("analysis: time", took < 10, f"{took:.1f} s ({watch.cpu_s:.1f} CPU s)", "under 10 s")
    verdicts.add("analysis: memory", rss < 1000, f"{rss:.0f} MiB", "under 1 GB")
    return {"requests": options.analysed, "s": took, "cpu_s": watch.cpu_s, "peak_mib": rss}


def repeat(source, target, requests):
    """Writes a longer run: the records of a short one again and again, each time that much later."""
    header, *lines = source.read_text().splitlines()
    records = [line for line in lines if line.startswith('{"id"')]
    begin = next(line for line in lines if '"phase":"begin"' in line)
    ending = [line for line in lines if '"phase":"end"' in line or '"event":"end"' in line]
    span = max(json.loads(line)["finished"] for line in records)
    # What differs between repetitions: the numbers, and the times that count from the start of the run.
    shifted = re.compile(
        r'"(id|session|user|due|started|sent|first_byte|first_answer|finished)":(\d+)|"tokens":\[(\d+)'
    )
    parts = []
    for line in records:
        fixed, numbers = [], []
        at = 0
        for match in shifted.finditer(line):
            group = 2 if match.group(2) else 3
            fixed.append(line[at : match.start(group)])
            numbers.append((int(match.group(group)), match.group(1) in ("id", "session", "user")))
            at = match.end(group)
        parts.append((fixed, numbers, line[at:]))
    rounds = -(-requests // len(records))
    later = lambda line: re.sub(
        r'"(at|window_end)":(\d+)', lambda m: f'"{m[1]}":{int(m[2]) + (rounds - 1) * span}', line
    )
    with open(target, "w") as out:
        out.write(header + "\n" + begin + "\n")
        left = requests
        for round_number in range(rounds):
            shift, count = round_number * span, round_number * len(records)
            for fixed, numbers, rest in parts[:left]:
                out.write(
                    "".join(
                        f"{text}{value + (count if counts else shift)}" for text, (value, counts) in zip(fixed, numbers)
                    )
                    + rest
                    + "\n"
                )
            left -= len(parts)
        out.write("\n".join(map(later, ending)) + "\n")


def make_tokenizer(entries):
    """A byte-level BPE tokenizer of made-up words, in the form of the Hugging Face library."""
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in letters}
    for byte in range(256):
        names.setdefault(byte, chr(256 + sum(other not in letters for other in range(byte))))
    vocabulary = {names[byte]: byte for byte in range(256)}
    merges, draw = [], random.Random(1)
    while len(vocabulary) < entries:
        length = draw.randint(2, 9)
        word = names[32] + "".join(draw.choice("etaoinshrdlucmfwypvbgkjqxz") for _ in range(length))
        for i in range(1, len(word)):
            if word[: i + 1] not in vocabulary and len(vocabulary) < entries:
                merges.append(f"{word[:i]} {word[i]}")
                vocabulary[word[: i + 1]] = len(vocabulary)
    level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **level},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
