#!/usr/bin/env python3
"""The long run: 60 s at a constant 200 requests/s of 64 tokens against the simulated server.

It is `truth.py` with other numbers, and it fails where the load generator must not: an error, a send before its
time, sends off the schedule by 1 % or more, 100 MB of memory or more.
"""

import pathlib
import re
import subprocess
import sys

from common import Verdicts, parser


def main():
    # For --help; truth.py reads the options.
    parser(__doc__).parse_known_args()
    truth = pathlib.Path(__file__).resolve().with_name("truth.py")
    options = ["--rate", "200", "--duration", "60", "--ttft", "200ms", "--itl", "10ms", "--tokens", "64"]
    ended = subprocess.run([sys.executable, truth, *options, *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    print(ended.stdout, end="")
    if ended.returncode != 0:
        return 1
    number = lambda pattern: float(re.search(pattern, ended.stdout).group(1))
    verdicts = Verdicts()
    failed, early, memory = number(r"(\d+) failed"), number(r"(\d+) early"), number(r"(\d+) MiB,")
    off = number(r"due in [\d.]+ s \(([-+][\d.]+) %\)")
    verdicts.add("errors", failed == 0, f"{failed:.0f}", "0")
    verdicts.add("early sends", early == 0, f"{early:.0f}", "0")
    verdicts.add("schedule", abs(off) < 1, f"{off:+.3f} %", "within 1 %")
    verdicts.add("memory", memory < 100, f"{memory:.0f} MiB", "under 100 MiB")
    return verdicts.report()


if __name__ == "__main__":
    sys.exit(main())
