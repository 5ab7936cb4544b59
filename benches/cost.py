#!/usr/bin/env python3
"""What a streamed request costs the client in processor time, llmdbench against the floor client.

Both drive the same closed loop into the same simulated server, by turns (floor first, then llmdbench first, and so on).
llmdbench keeps the times of all tokens and writes all records; the floor keeps nothing.

Compared is the processor time, user and system, of all threads of the client from its first send until the last answer
was read and, for llmdbench, until its last record was in the file. The time is read off the process's own clock every
10 ms, so it needs no second run. What llmdbench uses before (plugins, counting tokens, sessions made ahead) and after
(analysis, report) is printed beside it.
"""

import pathlib
import sys

from common import (
    Server,
    Verdicts,
    Watch,
    checked,
    command,
    folder,
    median,
    need_floor,
    one_place,
    parse,
    parser,
    places,
    ratio,
    read_records,
    run_floor,
    save,
    size_of,
    window,
)

# What the server does, its options, what the floor does, how many requests at C = 64 and 256, the most that the ratio
# may be (None: its interval includes 1 or lies below).
CASES = {
    "a": (
        "each event its own write, against counting",
        ["--ttft", "0ms", "--itl", "0ms"],
        "count",
        (12000, 12000),
        0.75,
    ),
    "b": (
        "whole response in one write, against parsing",
        ["--ttft", "0ms", "--itl", "0ms", "--one-write"],
        "full",
        (30000, 30000),
        0.5,
    ),
    "c": (
        "live, TTFT 20 ms, ITL 5 ms, against counting",
        ["--ttft", "20ms", "--itl", "5ms"],
        "count",
        (6000, 8000),
        None,
    ),
    "d": (
        "each event its own write, read when the server is done, against counting",
        ["--ttft", "0ms", "--itl", "0ms"],
        "count",
        (12000, 12000),
        None,
    ),
}
# Cases in which server and clients share a processor, and the server goes first.
SHARED = "d"
CONCURRENCIES = (64, 256)


def main():
    made = parser(__doc__)
    made.add_argument("--pairs", type=int, default=5, help="default: %(default)s")
    made.add_argument("--cases", default="abcd", help="which cases (default: %(default)s)")
    made.add_argument("--concurrency", type=int, choices=CONCURRENCIES, help="only this one")
    made.add_argument("--scale", type=float, default=1, help="requests, as a share of the usual (default: %(default)s)")
    options = parse(made)
    need_floor(options)
    verdicts, results = Verdicts(), []
    for case in options.cases:
        for index, concurrency in enumerate(CONCURRENCIES):
            if options.concurrency in (None, concurrency):
                results.append(measure(options, case, concurrency, index, verdicts))
    print()
    save(options, results)
    return verdicts.report()


def measure(options, case, concurrency, index, verdicts):
    title, behavior, parse_as, counts, limit = CASES[case]
    requests = max(concurrency, int(counts[index] * options.scale))
    print(f"\n{case}, C = {concurrency}: {title}; {requests} requests a run")
    print(f"{'CPU s per 1,000 requests':<26}{'floor':>9}{'llmdbench':>11}{'ratio':>8}   requests/s   beside it, CPU s")
    server_place, client_place = one_place() if case in SHARED else places(options)
    pairs = []
    with Server(options.program, *behavior, where=server_place) as server:
        floor = lambda: run_floor(
            options, server, "--n", requests, "--conc", concurrency, "--parse", parse_as, where=client_place
        )
        ours = lambda: run(options, server, requests, concurrency, client_place)
        for number in range(options.pairs):
            order = (floor, ours) if number % 2 == 0 else (ours, floor)
            found = {which: which() for which in order}
            theirs, mine = found[floor], found[ours]
            if theirs["failed"]:
                sys.exit(f"{theirs['failed']} requests of the floor failed")
            pairs.append((mine, theirs))
            cost = (
                per_thousand(theirs["user_s"] + theirs["system_s"], requests),
                per_thousand(mine["window"], requests),
            )
            print(
                f"  pair {number + 1:<19}{cost[0]:>9.4f}{cost[1]:>11.4f}{cost[1] / cost[0]:>8.3f}"
                f"   {theirs['requests_per_s']:.0f} {requests / mine['wall_s']:.0f}"
                f"   before {mine['before']:.2f}, after {mine['after']:.2f}, {mine['peak_rss_kib'] / 1024:.0f} MiB"
            )
    costs = [(mine["window"], theirs["user_s"] + theirs["system_s"]) for mine, theirs in pairs]
    found = ratio(costs)
    text = f"{found['median']:.3f}, mean {found['mean']:.3f} (95 % {found['low']:.3f} to {found['high']:.3f})"
    medians = [per_thousand(median([pair[i] for pair in costs]), requests) for i in (1, 0)]
    print(f"  {'median':<24}{medians[0]:>9.4f}{medians[1]:>11.4f}{found['median']:>8.3f}   {text}")
    name = f"{case}, C = {concurrency}, median ratio of CPU"
    if limit:
        verdicts.add(name, found["median"] <= limit, text, f"{limit} or less")
    else:
        verdicts.add(name, found["low"] <= 1, text, "an interval that includes 1 or lies below")
    return {
        "case": case,
        "title": title,
        "concurrency": concurrency,
        "requests": requests,
        "ratio": found,
        "floor_cpu_s_per_1000": medians[0],
        "llmdbench_cpu_s_per_1000": medians[1],
        "pairs": [{"llmdbench": mine, "floor": theirs} for mine, theirs in pairs],
    }


def per_thousand(seconds, requests):
    return seconds / requests * 1000


def run(options, server, requests, concurrency, where):
    """One run of llmdbench; checks that it kept everything."""
    with folder() as place:
        workdir = pathlib.Path(place) / "w"
        file = workdir / "results/records.jsonl"
        flags = {"concurrency": concurrency, "requests": requests}
        watch = checked(Watch(command(options, server.url, workdir, **flags), size_of(file), where))
        header, records = read_records(workdir)
        whole = sum(len(record["arrivals"]) == 64 and not record.get("error") for record in records)
        if whole != requests:
            sys.exit(f"llmdbench kept {whole} whole records of {requests} requests\n{watch.stderr}")
        return window(watch, header, records, file) | {"peak_rss_kib": watch.peak_rss_kib, "exit": watch.exit}


if __name__ == "__main__":
    sys.exit(main())
