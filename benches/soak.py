#!/usr/bin/env python3
"""A soak: 30 min at 100/s against a server that misbehaves in 2 % of its answers, in every way it knows.

Each request's record must say what the server's truth log says of it: the failure that was injected and no other. And
nothing may pile up: memory, descriptors, sockets and threads at the end are compared with those in the middle.
The fault `crash` is left out, for it ends the server. `--duration 60` is a quick look.
"""

import collections
import os
import pathlib
import sys

from common import (
    MS,
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
    read_summary,
    read_truth,
    save,
)

PAUSE_MS = 300
# The program remembers which beginnings of prompts it has sent: two generations, of so many requests of this length each.
# A new generation takes the place of the older one, so that memory rises and falls by some MiB.
GENERATION = 35_000

# What the record of a request must say for each fault of the server: the kind of failure, and the status.
FAULTS = {
    "http:400": ("http_status", 400),
    "http:429": ("http_status", 429),
    "http:500": ("http_status", 500),
    "http:503": ("http_status", 503),
    "cut": ("stream_cut", 200),
    "reset": ("stream_cut", 200),
    "stream_error": ("server_error", 200),
    "empty": ("empty_answer", 200),
    f"stall:{PAUSE_MS}": (None, 200),
    f"slow_headers:{PAUSE_MS}": (None, 200),
    "no_done": (None, 200),
    "close_idle": (None, 200),
}


def main():
    made = parser(__doc__)
    made.add_argument("--rate", type=float, default=100, help="requests per second (default: %(default)s)")
    made.add_argument("--duration", type=float, default=1800, help="seconds (default: %(default)s)")
    made.add_argument("--faulty", type=float, default=0.02, help="share of faulty answers (default: %(default)s)")
    options = parse(made)
    server_place, client_place = places(options)
    behavior = ["--ttft", "20ms", "--itl", "5ms"]
    for fault in FAULTS:
        behavior += ["--faults", f"{fault}={options.faulty / len(FAULTS):.8f}"]
    verdicts = Verdicts()
    with folder() as place:
        place = pathlib.Path(place)
        truth = place / "truth.jsonl"
        with Server(options.program, *behavior, truth=truth, where=server_place) as server:
            line = command(options, server.url, place / "w", rate=options.rate, duration=f"{options.duration:g}s")
            watch = checked(Watch(line, state, client_place, interval_s=max(0.05, options.duration / 6000)))
        _, records = read_records(place / "w")
        health = read_summary(place / "w")["health"]
        true = read_truth(truth)
    counts = compare(records, true, verdicts)
    leaks = grown(watch, records, options, verdicts)
    print(f"health {health['verdict']}: " + ("; ".join(reason["text"] for reason in health["reasons"]) or "no reason"))
    print()
    save(options, {"rate": options.rate, "duration_s": options.duration, "counts": counts, "state": leaks})
    return verdicts.report()


def compare(records, truth, verdicts):
    """Counts what was injected and what was recorded."""
    print(f"\n{'fault':<18}{'injected':>9}{'recorded':>9}   as")
    counts, wrong, unknown = {}, [], []
    injected, recorded = collections.Counter(), collections.Counter()
    for record in records:
        line = truth.get(record["id"])
        if line is None:
            unknown.append(record["id"])
            continue
        fault = line["fault"]
        expected = FAULTS.get(fault, (None, 200))
        found = ((record.get("error") or {}).get("kind"), record.get("status"))
        injected[fault] += 1
        if found == expected and paused(fault, record):
            recorded[fault] += 1
        else:
            wrong.append(f"request {record['id']}: {fault} became {found}")
    for fault in [*FAULTS, None]:
        kind, status = FAULTS.get(fault, (None, 200))
        print(f"{fault or 'none':<18}{injected[fault]:>9}{recorded[fault]:>9}   {kind or 'no failure'}, {status}")
        counts[fault or "none"] = {"injected": injected[fault], "recorded": recorded[fault]}
    for text in wrong[:10]:
        print(text)
    verdicts.add("failures recorded as injected", not wrong, f"{len(wrong)} of {len(records)} differ", "0")
    verdicts.add(
        "every kind injected", all(injected[fault] for fault in FAULTS), f"{len(injected) - 1} kinds", len(FAULTS)
    )
    text = f"{len(records)} records, {len(truth)} requests at the server, {len(unknown)} records unknown to it"
    verdicts.add("records and requests", not unknown and len(records) == len(truth), text, "the same")
    return counts


def paused(fault, record):
    """Whether a pause that the server made can be seen in the record."""
    arrivals = record["arrivals"]
    if fault == f"stall:{PAUSE_MS}":
        return max(b - a for a, b in zip(arrivals, arrivals[1:])) >= 0.9 * PAUSE_MS * MS
    if fault == f"slow_headers:{PAUSE_MS}":
        return record["first_byte"] - record["sent"] >= PAUSE_MS * MS
    return True


def state(pid):
    """What could pile up: resident KiB without what is read from files (the program itself), descriptors, sockets among
    them, threads."""
    resident, of_files = map(int, open(f"/proc/{pid}/statm").read().split()[1:3])
    resident = (resident - of_files) * os.sysconf("SC_PAGE_SIZE") // 1024
    descriptors = sockets = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            sockets += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
            descriptors += 1
        except FileNotFoundError:
            # Closed since it was listed.
            pass
    return resident, descriptors, sockets, len(os.listdir(f"/proc/{pid}/task"))


def grown(watch, records, options, verdicts):
    """Compares the middle of the run, when what is bounded has filled up, with its last quarter: the most memory, and the
    medians of what else could pile up."""
    begin = watch.begin_ns
    span = options.duration * 1e9
    middle = [seen for at, _, seen in watch.samples if 0.4 * span <= at - begin < 0.65 * span]
    late = [seen for at, _, seen in watch.samples if 0.74 * span <= at - begin < 0.99 * span]
    requests = options.duration * options.rate
    # Both generations are full before the middle, and each quarter holds a whole one.
    is_full = 0.4 * requests >= 2 * GENERATION and 0.25 * requests >= GENERATION
    resident = 512 if is_full else 4096
    # At most as many sockets as were needed at once, and what faults left to be closed.
    limits = {"resident KiB": resident, "descriptors": 8, "sockets": 8, "threads": 0}
    leak = resident * 1024 / (0.34 * requests)
    print(f"\n{'':<18}{'middle':>10}{'end':>10}   a leak of {leak:.0f} bytes for each request would show")
    if not is_full:
        print("too short a run for less: what is remembered of prompts was not full in the middle")
    found = {}
    for index, (name, limit) in enumerate(limits.items()):
        of = max if index == 0 else median
        before, after = (of([seen[index] for seen in part]) for part in (middle, late))
        print(f"{name:<18}{before:>10.0f}{after:>10.0f}")
        verdicts.add(
            f"no leak of {name}", after - before <= limit, f"{before:.0f} to {after:.0f}", f"{limit} more at most"
        )
        found[name] = {"middle": before, "end": after}
    return found


if __name__ == "__main__":
    sys.exit(main())
