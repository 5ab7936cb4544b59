#!/usr/bin/env python3
"""Compares what llmdbench measured with what the simulated server did, request by request.

Starts `llmdbench sim` with a truth log, drives `llmdbench run` into it with the same options that a user would
type, joins the records with the truth log by the request id that both have, and prints how far the client is off.
"""

import pathlib
import sys

from common import (
    MS,
    Server,
    Verdicts,
    Watch,
    checked,
    command,
    errors,
    folder,
    offset,
    parse,
    parser,
    planned,
    places,
    read_records,
    read_summary,
    read_truth,
    save,
    show,
    show_head,
)


def main():
    made = parser(__doc__)
    made.add_argument("--rate", type=float, default=20, help="requests per second (default: %(default)s)")
    made.add_argument("--duration", type=float, default=30, help="seconds (default: %(default)s)")
    made.add_argument("--ttft", default="200ms", help="the server's time to first token (default: %(default)s)")
    made.add_argument("--itl", default="10ms", help="the server's time between tokens (default: %(default)s)")
    made.add_argument("--tokens", type=int, default=64, help="output tokens (default: %(default)s)")
    made.add_argument("--input-tokens", type=int, default=128, help="prompt tokens (default: %(default)s)")
    options = parse(made)
    server_place, client_place = places(options)
    with folder() as place:
        place = pathlib.Path(place)
        truth = place / "truth.jsonl"
        with Server(
            options.program, "--ttft", options.ttft, "--itl", options.itl, truth=truth, where=server_place
        ) as server:
            asked = {"rate": options.rate, "duration": f"{options.duration:g}s", "arrival": "constant"}
            line = command(options, server.url, place / "w", options.tokens, options.input_tokens, **asked)
            client = checked(Watch(line, where=client_place))
        _, records = read_records(place / "w")
        health = read_summary(place / "w")["health"]
        truth = read_truth(truth)
    pairs = [(record, truth[record["id"]]) for record in records if not record.get("error")]
    least, most = offset(pairs)
    report(options, records, pairs, (least, most), client, health)
    wanted, verdicts = planned(options.rate, options.duration), Verdicts()
    complete = len(pairs) == len(records) == wanted
    verdicts.add("requests sent and answered", complete, f"{len(records)} sent, {len(pairs)} answered", f"{wanted}")
    text = f"known to {(most - least) / MS:.3f} ms"
    verdicts.add("one clock offset fits all", least <= most, text, "0 ms or more: nothing arrived before it was sent")
    save(options, verdicts.rows)
    return verdicts.report()


def report(options, records, pairs, offsets, client, health):
    print(
        f"{options.rate:g}/s for {options.duration:g} s, TTFT {options.ttft}, ITL {options.itl}, "
        f"{options.tokens} tokens: {len(records)} requests, {len(records) - len(pairs)} failed"
    )
    least, most = offsets
    print(f"clock offset known to {(most - least) / MS:.3f} ms" + (" (IMPOSSIBLE)" if most < least else ""))
    show_head("measured - true, ms")
    for name, values in errors(pairs).items():
        show(name, values)
    arrivals = [
        (arrived + least - written) / MS
        for record, line in pairs
        for arrived, written in zip(record["arrivals"], line["tokens_ns"])
    ]
    show("arrival of a token", arrivals)
    due = [record for record in records if record.get("due") is not None and record.get("sent") is not None]
    if due:
        show("lateness (sent - due)", [(record["sent"] - record["due"]) / MS for record in due])
        early = sum(record["sent"] < record["due"] for record in due)
        planned = (due[-1]["due"] - due[0]["due"]) / 1e9
        sent = sorted(record["sent"] for record in due)
        took = (sent[-1] - sent[0]) / 1e9
        if planned > 0:
            print(
                f"sends: {len(sent)} in {took:.4f} s, due in {planned:.4f} s ({100 * (took / planned - 1):+.3f} %); "
                f"{early} early"
            )
    reasons = "; ".join(reason["text"] for reason in health["reasons"])
    print(f"client: {client.cpu_s:.2f} CPU s, {client.peak_rss_kib / 1024:.0f} MiB, exit {client.exit}", end=", ")
    print(f"health {health['verdict']}" + (f" ({reasons})" if reasons else ""))


if __name__ == "__main__":
    sys.exit(main())
