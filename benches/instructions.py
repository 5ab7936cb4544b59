#!/usr/bin/env python3
"""Whether load that a plugin feeds costs the measured path more than a list that was ready before.

The same number of requests is sent twice under valgrind's callgrind, which counts instructions in user space: once by
the program with its workload plugin, once by `load_cost` of host/load, which has all sessions in a list. Both use the
same code of `load`. Compared are the threads between a request's due time and its record: load threads, pacer, writer
of records. Start-up is taken out: two lengths are run, and the difference is divided by the further requests. Each
answer comes in one write, so that how many reads it takes is not left to chance.

Needs valgrind, the program as it is shipped, and the list's, built the same way:
`cargo xtask build && cargo build --release -p load --example load_cost`.
"""

import collections
import os
import pathlib
import re
import shutil
import sys

from common import ROOT, Server, Verdicts, Watch, checked, command, folder, median, parse, parser, save

# What a thread does, by a function that only it calls.
ROLES = {
    "load::journal::Journal": "records",
    "load::conductor::Conductor::run": "pacer",
    "load::worker::": "load threads",
}
PATH = ("load threads", "pacer", "records")
CONCURRENCY = 16


def main():
    made = parser(__doc__)
    made.add_argument("--list", default=str(ROOT / "target/release/examples/load_cost"), help="default: %(default)s")
    made.add_argument("--requests", type=int, default=1000, help="further requests (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="runs of each length (default: %(default)s)")
    options = parse(made)
    for needed in (options.list, shutil.which("valgrind")):
        if not needed or not os.access(needed, os.X_OK):
            sys.exit(f"there is no {needed or 'valgrind'}; this script says at its top what it needs")
    verdicts = Verdicts()
    clients = {"prepared list": from_list, "workload plugin": from_plugin}
    with Server(options.program, "--ttft", "0ms", "--itl", "0ms", "--one-write") as server:
        # The first run under valgrind compiles the plugins for the processor that valgrind shows.
        from_plugin(options, server, CONCURRENCY)
        found = {name: collections.defaultdict(list) for name in clients}
        for _ in range(options.rounds):
            for name, client in clients.items():
                few, many = (
                    client(options, server, count) for count in (CONCURRENCY * 4, CONCURRENCY * 4 + options.requests)
                )
                for role in many | few:
                    found[name][role].append((many.get(role, 0) - few.get(role, 0)) / options.requests)
    print(f"\ninstructions per request, median of {options.rounds} rounds, 64 tokens, {CONCURRENCY} at a time")
    roles = [*PATH, *sorted({role for rows in found.values() for role in rows} - set(PATH))]
    print(f"{'':<34}" + "".join(f"{name:>18}" for name in found))
    table = {role: [median(rows[role]) if rows[role] else 0 for rows in found.values()] for role in roles}
    for role, row in table.items():
        print(f"{role:<34}" + "".join(f"{value:>18,.0f}" for value in row))
    sums = [[sum(rows[role][i] for role in PATH) for i in range(options.rounds)] for rows in found.values()]
    path, whole = [median(values) for values in sums], [sum(column) for column in zip(*table.values())]
    print(f"{'measured path':<34}" + "".join(f"{value:>18,.0f}" for value in path))
    print(f"{'whole process':<34}" + "".join(f"{value:>18,.0f}" for value in whole))
    print("(the program's whole process also makes the sessions, analyses, and writes the report; the list's does not)")
    print()
    more = 100 * (path[1] / path[0] - 1)
    spread = ", ".join(f"{100 * (ours / theirs - 1):+.1f} %" for theirs, ours in zip(*sums))
    verdicts.add(
        "measured path, plugin against list", more <= 3, f"{more:+.1f} % (rounds: {spread})", "3 % more at most"
    )
    save(options, {"per_request": table, "path": path, "more_percent": more})
    return verdicts.report()


def from_list(options, server, requests):
    return count([options.list, server.url, f"c{CONCURRENCY}", f"n{requests}"])


def from_plugin(options, server, requests):
    with folder() as place:
        return count(
            command(options, server.url, pathlib.Path(place) / "w", concurrency=CONCURRENCY, requests=requests)
        )


def count(line):
    """Instructions by what the thread does."""
    with folder() as place:
        out = pathlib.Path(place) / "callgrind"
        watch = Watch(["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={out}", *line])
        checked(watch)
        if " 0 ok" in watch.stdout:
            sys.exit(f"no request succeeded: {watch.stdout}")
        found = collections.Counter()
        for file in pathlib.Path(place).glob("callgrind-*"):
            text = file.read_text(errors="replace")
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
            first = file.name.endswith("-01")
            role = (
                "first thread"
                if first
                else next((role for name, role in ROLES.items() if name in text), "other threads")
            )
            found[role] += int(total.group(1)) if total else 0
    missing = [role for role in PATH if role not in found]
    if missing:
        sys.exit(f"no thread calls what {', '.join(missing)} is known by: has a function been renamed? See ROLES.")
    return found


if __name__ == "__main__":
    sys.exit(main())
