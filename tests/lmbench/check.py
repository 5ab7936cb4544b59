"""Reckons the statistics of LMBench*.csv files from scratch and compares them with a stats.txt.

Usage: check.py FOLDER STATS. Needs Python alone. Ends with 1 and says which number differs.
"""

import csv
import statistics
import sys
from pathlib import Path


def rate_of(path):
    return float(path.stem.rsplit("_", 1)[-1].replace("qps", ""))


def number(text):
    return float(text) if text.strip() else None


def four(value):
    return "-" if value is None else f"{value:.4f}"


def describe(values):
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return [statistics.fmean(values), deviation, min(values), max(values)]


def main():
    folder, stats = Path(sys.argv[1]), Path(sys.argv[2]).read_text()
    rows = []
    for path in sorted(folder.rglob("LMBench*.csv")):
        with path.open(newline="") as file:
            rows += [dict(row, qps=rate_of(path)) for row in csv.DictReader(file)]

    def column(name, some):
        return [number(row[name]) for row in some if number(row[name]) is not None]

    users = {float(row["user_id"]) for row in rows if row.get("user_id")}
    rates = sorted({row["qps"] for row in rows})
    expected = {
        "Total number of requests:": str(len(rows)),
        "Number of unique users:": str(len(users)) if users else "none (these files name no users)",
        "Number of QPS levels tested:": str(len(rates)),
    }
    wrong = []
    lines = stats.splitlines()
    for start, value in expected.items():
        if f"{start} {value}" not in lines:
            wrong.append(f"{start} {value}")

    def table(word, numbers):
        found = [line.split()[1:] for line in lines if line.split()[:1] == [word]]
        if [four(value) for value in numbers] not in found:
            wrong.append(f"{word}: {[four(value) for value in numbers]} is not among {found}")

    for rate in rates:
        some = [row for row in rows if row["qps"] == rate]
        table(
            str(rate),
            describe(column("ttft", some))
            + describe(column("generation_time", some))
            + [
                statistics.fmean(column("prompt_tokens", some)),
                statistics.fmean(column("generation_tokens", some)),
            ],
        )
    prompt, answer = (describe(column(f"{name}_tokens", rows)) for name in ("prompt", "generation"))
    for word, *numbers in zip(("mean", "std", "min", "max"), prompt, answer):
        table(word, numbers)
    print("\n".join(wrong) or f"{len(rows)} rows at {len(rates)} rates agree")
    sys.exit(1 if wrong else 0)


main()
