#!/usr/bin/env python3
"""High rates on this machine: 500/s and 1,000/s of 64 tokens for 60 s, beside the simulated server.

Either the sends keep to the schedule within 1 %, or the run says itself that it is invalid and why. What must not be is
a rate that sags and a result that is called valid, nor a request that fails. The server (TTFT 20 ms, ITL 5 ms) shares
the processors.
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
    folder,
    parse,
    parser,
    planned,
    places,
    read_records,
    read_summary,
    save,
    show,
    show_head,
)


def main():
    made = parser(__doc__)
    made.add_argument("--rates", default="500,1000", help="requests per second (default: %(default)s)")
    made.add_argument("--duration", type=float, default=60, help="seconds of each (default: %(default)s)")
    options = parse(made)
    verdicts = Verdicts()
    results = [measure(options, float(rate), verdicts) for rate in options.rates.split(",")]
    print()
    save(options, results)
    return verdicts.report()


def measure(options, rate, verdicts):
    server_place, client_place = places(options)
    with folder() as place:
        workdir = pathlib.Path(place) / "w"
        with Server(options.program, "--ttft", "20ms", "--itl", "5ms", where=server_place) as server:
            flags = {"rate": rate, "duration": f"{options.duration:g}s", "arrival": "constant"}
            client = checked(Watch(command(options, server.url, workdir, **flags), where=client_place))
        _, records = read_records(workdir)
        health = read_summary(workdir)["health"]
    wanted = planned(rate, options.duration)
    sent = [record for record in records if record.get("sent") is not None]
    # Of what was to be sent, the share that was out when the last one was due, a mean gap later at most.
    end = min(record["due"] for record in records) + wanted * 1e9 / rate
    share = sum(record["sent"] <= end for record in sent) / wanted
    failed = sum(bool(record.get("error")) for record in records)
    print(
        f"\n{rate:g}/s for {options.duration:g} s: {wanted} due, {len(sent)} sent, {failed} failed; by the end of "
        f"the schedule {100 * share:.2f} % were out; {client.cpu_s / len(records) * 1000:.3f} CPU s per 1,000, all in"
    )
    show_head("ms")
    show("lateness (sent - due)", [(record["sent"] - record["due"]) / MS for record in sent])
    reasons = "; ".join(reason["text"] for reason in health["reasons"])
    print(f"health {health['verdict']}, exit {client.exit}: {reasons or 'no reason'}")
    punctual = share >= 0.99 and len(sent) == wanted
    told = health["verdict"] == "invalid" and bool(reasons)
    text = f"{len(sent)} of {wanted} sent, {100 * share:.2f} % in time, health {health['verdict']}"
    verdicts.add(f"{rate:g}/s: sends", punctual or told, text, "all, within 1 %, or called invalid with a reason")
    verdicts.add(f"{rate:g}/s: failed requests", failed == 0, failed, "0")
    return {
        "rate": rate,
        "due": wanted,
        "sent": len(sent),
        "failed": failed,
        "sent_in_time": share,
        "cpu_s_per_1000": client.cpu_s / len(records) * 1000,
        "verdict": health["verdict"],
        "reasons": reasons,
    }


if __name__ == "__main__":
    sys.exit(main())
