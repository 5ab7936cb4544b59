#!/usr/bin/env python3
"""The long run: 60 s at a constant 200 requests/s of 64 tokens against the simulated server.

It is `truth.py` with other numbers, and it fails where the load generator must not: an error, a send before its
time, sends off the schedule by 1 % or more, 100 MB of memory or more.
"""

import pathlib
import re
import subprocess
import sys


def main():
    truth = pathlib.Path(__file__).resolve().with_name("truth.py")
    options = ["--rate", "200", "--duration", "60", "--ttft", "200ms", "--itl", "10ms", "--tokens", "64"]
    ended = subprocess.run([sys.executable, truth, *options, *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    print(ended.stdout, end="")
    if ended.returncode != 0:
        return 1
    number = lambda pattern: float(re.search(pattern, ended.stdout).group(1))
    rules = [
        ("errors", number(r"(\d+) failed") == 0),
        ("early sends", number(r"(\d+) early") == 0),
        ("schedule", abs(number(r"due in [\d.]+ s \(([-+][\d.]+) %\)")) < 1),
        ("memory", number(r"(\d+) MiB") < 100),
    ]
    for name, holds in rules:
        print(f"{name}: {'holds' if holds else 'DOES NOT HOLD'}")
    return 0 if all(holds for _, holds in rules) else 1


if __name__ == "__main__":
    sys.exit(main())
