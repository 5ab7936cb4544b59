#!/usr/bin/env python3
"""How true and how punctual an open loop is, llmdbench against the floor client, request by request.

Both send 50 requests/s of 64 tokens into the same simulated server (TTFT 20 ms, ITL 5 ms) by turns, and both are joined
with the server's truth log. Then llmdbench is stopped (SIGSTOP) for 500 ms in the middle of a run: that must show as
lateness, the schedule must stay where it was, and every request must be sent.
"""

import os
import pathlib
import signal
import sys
import time

from common import (
    ERRORS,
    MS,
    Server,
    Verdicts,
    Watch,
    checked,
    command,
    errors,
    folder,
    median,
    need_floor,
    parse,
    parser,
    places,
    quantile,
    read_lines,
    read_records,
    read_summary,
    read_truth,
    run_floor,
    save,
    show,
    show_head,
)

BEHAVIOR = ["--ttft", "20ms", "--itl", "5ms"]
LATENESS = "lateness (sent - due)"
STALL_S = 0.5


def main():
    made = parser(__doc__)
    made.add_argument("--rate", type=float, default=50, help="requests per second (default: %(default)s)")
    made.add_argument("--duration", type=float, default=20, help="seconds of each run (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=4, help="runs of each, by turns (default: %(default)s)")
    options = parse(made)
    need_floor(options)
    requests = round(options.rate * options.duration)
    verdicts = Verdicts()
    rounds = {"floor": [], "llmdbench": []}
    for number in range(options.rounds):
        order = ["floor", "llmdbench"] if number % 2 == 0 else ["llmdbench", "floor"]
        for name in order:
            rounds[name].append((floor if name == "floor" else ours)(options, requests))
    pooled = {name: {row: [v for one in all for v in one[row]] for row in all[0]} for name, all in rounds.items()}
    for name, rows in pooled.items():
        show_head(f"{name}: measured - true, ms")
        for row, values in rows.items():
            show(row, values)
        print(f"{'early sends':<34}{sum(value < 0 for value in rows[LATENESS]):>8}")
    judge(pooled, rounds, verdicts)
    stalled = stall(options, requests, verdicts)
    print()
    quantiles = {
        name: {
            row: {f"p{share * 100:g}": quantile(values, share) for share in (0.5, 0.9, 0.99)}
            for row, values in rows.items()
        }
        for name, rows in pooled.items()
    }
    save(
        options,
        {"rate": options.rate, "requests": requests, "rounds": options.rounds, "ms": quantiles, "stall": stalled},
    )
    return verdicts.report()


def judge(pooled, rounds, verdicts):
    """By the sizes of errors, so that nobody gains by erring the other way. The way there and back makes TTFT and
    latency longer than they were, never shorter; a mean ITL comes out a little shorter as often as longer."""
    mine, theirs = pooled["llmdbench"], pooled["floor"]
    for row in ("TTFT", "ITL, mean of a request", "latency"):
        middle, ours, floors = quantile(mine[row], 0.5), absolute(mine[row], 0.5), absolute(theirs[row], 0.5)
        text = f"{middle:.3f} ms, without signs {ours:.3f} ms, the floor's {floors:.3f} ms"
        holds = middle >= -0.05 and ours <= floors + 0.1
        verdicts.add(f"{row}, median error", holds, text, "-0.05 ms or more; at most 0.1 ms over the floor's")
    for row in ("TTFT", "latency", LATENESS):
        # The tails are the machine's as much as the client's: the median over rounds holds against one bad round.
        ours, floors = (median([absolute(one[row], 0.99) for one in rounds[name]]) for name in ("llmdbench", "floor"))
        what = "p99" if row == LATENESS else "p99 error"
        text = f"{ours:.3f} ms, the floor's {floors:.3f} ms ({ours / floors:.2f} times)"
        verdicts.add(f"{row}, {what}, median over rounds", ours <= 1.5 * floors, text, "1.5 times the floor's or less")
    for row in ("TTFT", "latency"):
        shorter = sum(value < 0 for value in mine[row])
        verdicts.add(f"{row} measured shorter than it was", shorter == 0, shorter, "0")
    early = sum(value < 0 for value in mine[LATENESS])
    verdicts.add("sends before their time", early == 0, early, "0")


def absolute(values, share):
    return quantile([abs(value) for value in values], share)


def floor(options, requests):
    server_place, client_place = places(options)
    with folder() as place:
        truth, times = pathlib.Path(place) / "truth.jsonl", pathlib.Path(place) / "times.jsonl"
        with Server(options.program, *BEHAVIOR, truth=truth, where=server_place) as server:
            flags = ["--n", requests, "--rate", options.rate, "--conc", 32, "--parse", "full", "--times", times]
            run_floor(options, server, *flags, where=client_place)
        clients = [line | {"arrivals": line["tokens"]} for line in read_lines(times)]
        return rows(clients, read_truth(truth), requests)


def ours(options, requests):
    _, records, truth, _ = run(options, requests)
    return rows(records, truth, requests)


def rows(clients, truth, requests):
    whole = [client for client in clients if not client.get("error")]
    if len(whole) != requests:
        sys.exit(f"{len(whole)} of {requests} requests were answered")
    made = errors([(client, truth[client["id"]]) for client in whole])
    return {name: made[name] for name in ERRORS} | {LATENESS: [(c["sent"] - c["due"]) / MS for c in whole]}


def run(options, requests, meanwhile=lambda watch, truth: None):
    """One run of llmdbench with a truth log; gives the client, its records, the truth and its health."""
    server_place, client_place = places(options)
    with folder() as place:
        place = pathlib.Path(place)
        truth = place / "truth.jsonl"
        with Server(options.program, *BEHAVIOR, truth=truth, where=server_place) as server:
            flags = {"rate": options.rate, "requests": requests, "arrival": "constant"}
            watch = Watch(command(options, server.url, place / "w", **flags), where=client_place)
            meanwhile(watch, truth)
            checked(watch)
        _, records = read_records(place / "w")
        return watch, records, read_truth(truth), read_summary(place / "w")["health"]


def stall(options, requests, verdicts):
    """Stops the client in the middle, and looks at what its records and its verdict say of that."""

    def stop(watch, truth):
        # Not before load is under way: the first answers are in the log.
        while watch.process.poll() is None and not (truth.exists() and truth.read_bytes().count(b"\n") > 2):
            time.sleep(0.01)
        time.sleep(options.duration / 2)
        os.kill(watch.pid, signal.SIGSTOP)
        time.sleep(STALL_S)
        os.kill(watch.pid, signal.SIGCONT)

    _, records, truth, health = run(options, requests, stop)
    gap = 1e9 / options.rate
    due = sorted(record["due"] for record in records if record.get("due") is not None)
    sent = sorted((record for record in records if record.get("sent") is not None), key=lambda record: record["due"])
    late = [(record["sent"] - record["due"]) / MS for record in sent]
    drift = max((abs(at - due[0] - i * gap) for i, at in enumerate(due)), default=0) / MS
    print(f"\nstopped for {STALL_S * 1000:.0f} ms in the middle: {len(late)} sent, {len(truth)} seen by the server")
    show_head("ms")
    show(LATENESS, late)
    reasons = "; ".join(reason["text"] for reason in health["reasons"]) or "no reason"
    print(f"health {health['verdict']}: {reasons}")
    verdicts.add("stalled: requests sent", len(late) == requests == len(truth), f"{len(late)} of {requests}", "all")
    behind, expected = sum(value > 5 for value in late), STALL_S * options.rate
    text = f"{max(late):.0f} ms at most, {behind} requests late by more than 5 ms"
    shows = STALL_S * 1000 * 0.9 <= max(late) and behind >= 0.8 * expected
    verdicts.add(
        "stalled: shows as lateness", shows, text, f"about {STALL_S * 1000:.0f} ms and {expected:.0f} requests"
    )
    verdicts.add("stalled: schedule", drift < 0.001, f"off its grid by {drift:.6f} ms at most", "where it was")
    after = quantile(late[-requests // 4 :], 0.99)
    verdicts.add("stalled: after it", after < 50, f"p99 lateness of the last quarter {after:.2f} ms", "under 50 ms")
    return {"sent": len(late), "latest_ms": max(late), "late": behind, "verdict": health["verdict"], "reasons": reasons}


if __name__ == "__main__":
    sys.exit(main())
