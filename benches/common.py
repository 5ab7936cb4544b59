"""What the scripts here share: starting the simulated server and the clients, joining what a client measured with what
the server did, and statistics. Only python3's standard library is needed.

All times are nanoseconds on CLOCK_MONOTONIC unless a name says otherwise. `llmdbench` counts from the start of its run,
so its times are shifted by one offset that is found first (see `offset`).
"""

import argparse
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime

ROOT = pathlib.Path(__file__).resolve().parent.parent
MS = 1e6


# --- options, and what is said of the machine ---


def parser(description):
    """A parser with the options that all scripts have."""
    made = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    made.add_argument("--program", default=str(ROOT / "target/release/llmdbench"), help="default: %(default)s")
    made.add_argument("--floor", default=str(ROOT / "benches/floor/target/release/floor"), help="default: %(default)s")
    made.add_argument(
        "--pin", action="store_true", help="keep the server on the first processor, clients on the others"
    )
    made.add_argument("--json", metavar="FILE", help="write the results there as well")
    return made


def parse(made):
    """Reads the options; says at once what is not built."""
    options = made.parse_args()
    options.program = str(pathlib.Path(options.program).resolve())
    options.floor = str(pathlib.Path(options.floor).resolve())
    if not os.access(options.program, os.X_OK):
        sys.exit(f"there is no {options.program}: build it with `cargo xtask build`, or give --program")
    print(machine())
    return options


def need_floor(options):
    if not os.access(options.floor, os.X_OK):
        sys.exit(
            f"there is no {options.floor}: build it with `cargo build --release` in benches/floor, or give --floor"
        )


def machine():
    """One line on where this runs and how busy it is."""
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) / 1024**2
    name = names[0] if names else platform.machine()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} processors ({name}), {memory:.0f} GiB, Linux {platform.release()}, load average {load}"


def places(options):
    """Where server and clients run: what their processes do before they begin. None: the system decides."""
    if not options.pin:
        return None, None
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        sys.exit("--pin needs two processors")
    return lambda: os.sched_setaffinity(0, mine[:1]), lambda: os.sched_setaffinity(0, mine[1:])


def one_place():
    """The same, of a server and clients that share a processor. Clients do not interrupt the server by waking
    (SCHED_BATCH): it writes on until it waits or its slice of time ends, and then they read."""
    first = min(os.sched_getaffinity(0))
    take = lambda: os.sched_setaffinity(0, {first})
    return take, lambda: (take(), os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)))


def save(options, results):
    if options.json:
        document = {"machine": machine(), "when": datetime.now().isoformat(timespec="seconds"), "results": results}
        pathlib.Path(options.json).write_text(json.dumps(document, indent=1) + "\n")


class Verdicts:
    """What must hold, and whether it does."""

    def __init__(self):
        self.rows = []

    def add(self, name, holds, found, limit):
        self.rows.append({"name": name, "holds": bool(holds), "found": found, "limit": limit})

    def report(self):
        """Prints a line for each; gives the exit code."""
        for row in self.rows:
            print(f"{'PASS' if row['holds'] else 'FAIL'}  {row['name']}: {row['found']} (must be {row['limit']})")
        return 0 if all(row["holds"] for row in self.rows) else 1


def folder():
    """A folder of its own that is removed afterwards."""
    return tempfile.TemporaryDirectory(prefix="llmdbench-bench-")


# --- the server and the clients ---


class Server:
    """`llmdbench sim`, on a free port and with a truth log if it is wanted; to be used with `with`."""

    def __init__(self, program, *options, truth=None, where=None):
        command = [program, "sim", "--port", "0", "--max-running", "100000", *options]
        command += ["--truth-log", str(truth)] if truth else []
        self.truth = truth
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=where)
        line = self.process.stderr.readline()
        if " at http://" not in line:
            sys.exit(f"the server did not start: {line}{self.process.stderr.read()}")
        self.url = line.rsplit(" at ", 1)[1].strip()
        self.address = self.url.removeprefix("http://")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


class Watch:
    """A client that runs, and what is seen of it meanwhile: its processor time, what `probe(pid)` gives, and
    when it first wrote to standard output (`spoke_ns`)."""

    def __init__(self, command, probe=None, where=None, environment=None, interval_s=0.01):
        self.probe, self.interval_s = probe, interval_s
        self.samples = []
        self.spoke_ns, self.peak_rss_kib = None, 0
        self.output, self.said = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.begin_ns = time.monotonic_ns()
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=self.said, preexec_fn=where, env=environment
        )
        self.pid = self.process.pid
        self.ended = threading.Event()
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.sampler.start()

    def _sample(self):
        # The process's own clock of processor time, with all its threads, also those that ended: Linux makes the id
        # of that clock from the id of the process.
        clock = (~self.pid << 3) | 2
        while not self.ended.wait(self.interval_s):
            try:
                if self.spoke_ns is None and os.fstat(self.output.fileno()).st_size > 0:
                    self.spoke_ns = time.monotonic_ns()
                self.peak_rss_kib = peak_rss_kib(self.pid) or self.peak_rss_kib
                seen = self.probe(self.pid) if self.probe else None
                self.samples.append((time.monotonic_ns(), time.clock_gettime_ns(clock), seen))
            except OSError:
                return

    def wait(self):
        """Waits for its end; gives itself, with `exit`, `user_s`, `system_s`, `peak_rss_kib`, `stdout`, `stderr`."""
        _, status, usage = os.wait4(self.pid, 0)
        self.end_ns = time.monotonic_ns()
        self.ended.set()
        self.sampler.join()
        self.spoke_ns = self.spoke_ns or self.end_ns
        self.process.returncode = self.exit = os.waitstatus_to_exitcode(status)
        self.user_s, self.system_s = usage.ru_utime, usage.ru_stime
        self.cpu_s = self.user_s + self.system_s
        for name, file in (("stdout", self.output), ("stderr", self.said)):
            file.seek(0)
            setattr(self, name, file.read())
            file.close()
        return self

    def cpu_s_until(self, at_ns):
        """Processor seconds used until then, linear between samples."""
        before = (self.begin_ns, 0)
        for sample in self.samples:
            if sample[0] >= at_ns:
                (t0, c0), (t1, c1) = before, sample[:2]
                return (c0 + (c1 - c0) * max(0, at_ns - t0) / max(1, t1 - t0)) / 1e9
            before = sample[:2]
        return self.cpu_s


def peak_rss_kib(pid):
    """The most resident memory so far. `getrusage` has that of whoever forked the process in it, too."""
    found = re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{pid}/status").read())
    return int(found.group(1)) if found else None


def command(options, url, workdir, tokens=64, input_tokens=64, **flags):
    """The command line of `llmdbench run`; `rate=50` becomes `--rate 50`."""
    made = [options.program, "run", "--endpoint", url, "--model", "sim", "--warmup", "0", "--workdir", str(workdir)]
    made += ["--input-tokens", str(input_tokens), "--output-tokens", str(tokens)]
    for name, value in flags.items():
        made += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    return made


def planned(rate, duration):
    """How many requests a constant rate has due in so many seconds, the first at once. What was never sent has no
    record, so records are counted against this."""
    return math.ceil(rate * duration - 1e-6)


def checked(watch, exits=(0, 7)):
    """The client, ended; leaves the script if it failed. Exit code 7 says that the result is invalid."""
    watch.wait()
    if watch.exit not in exits:
        sys.exit(f"{' '.join(watch.process.args)}\nended with {watch.exit}\n{watch.stderr}")
    return watch


def run_floor(options, server, *flags, where=None):
    """Runs the floor client; gives what it printed."""
    ended = checked(Watch([options.floor, "--addr", server.address, *map(str, flags)], where=where), exits=(0,))
    return json.loads(ended.stdout)


# --- what was measured, and what was true ---


def read_lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def read_records(workdir):
    """Header and records of a run, with absolute `arrivals` of tokens, by the time they began."""
    header, *lines = read_lines(pathlib.Path(workdir) / "results/records.jsonl")
    records = [line for line in lines if "id" in line]
    for record in records:
        at = 0
        record["arrivals"] = [at := at + gap for gap in record.get("tokens", [])]
    records.sort(key=lambda record: record["id"])
    return header, records


def read_summary(workdir):
    return json.loads((pathlib.Path(workdir) / "analysis/data/summary.json").read_text())


def read_truth(path):
    """The truth log's lines of requests, by the number at the end of the request's id."""
    truth = {}
    for line in read_lines(path):
        number = (line.get("x_request_id") or "").rsplit("-", 1)[-1]
        if number.isdigit():
            truth[int(number)] = line
    return truth


def offset(pairs):
    """What to add to llmdbench's times to get the server's, as a range.

    No request is read before the client began it, and no token arrives before it was written: the first
    bounds the offset from above, the second from below. The truth is the lower bound to within the time
    that the quickest of all tokens was under way.
    """
    most = min(line["read_ns"] - record["started"] for record, line in pairs)
    least = max(
        written - arrived for record, line in pairs for written, arrived in zip(line["tokens_ns"], record["arrivals"])
    )
    return least, most


ERRORS = ("TTFT", "ITL, mean of a request", "ITL, each gap", "latency")


def errors(pairs):
    """Measured less true in ms: lists by the names of `ERRORS`. A pair is a request as the client saw it (`sent`,
    `arrivals`, `finished`) and its line of the truth log; intervals only, so no offset is needed."""
    rows = {name: [] for name in ERRORS}
    for record, line in pairs:
        sent, arrivals, written = record["sent"], record["arrivals"], line["tokens_ns"]
        if len(arrivals) != len(written):
            sys.exit(f"request {record['id']}: {len(arrivals)} chunks arrived, {len(written)} were written")
        rows["TTFT"].append(((arrivals[0] - sent) - (written[0] - line["read_ns"])) / MS)
        rows["latency"].append(((record["finished"] - sent) - (line["finished_ns"] - line["read_ns"])) / MS)
        if len(arrivals) > 1:
            span = (arrivals[-1] - arrivals[0]) - (written[-1] - written[0])
            rows["ITL, mean of a request"].append(span / (len(arrivals) - 1) / MS)
        for i in range(1, len(arrivals)):
            rows["ITL, each gap"].append(((arrivals[i] - arrivals[i - 1]) - (written[i] - written[i - 1])) / MS)
    return rows


def window(watch, header, records, records_file):
    """Splits a run's processor seconds: before its first send, until all records were written, after that.

    `watch` must have been probed with the size of the records file. The header says when the run began by the
    calendar, to better than a millisecond.
    """
    shift = time.time_ns() - time.monotonic_ns()
    begun = header["started"].rstrip("Z")
    seconds, _, fraction = begun.partition(".")
    epoch = datetime.fromisoformat(seconds + "+00:00").timestamp()
    zero_ns = int(epoch) * 1_000_000_000 + int((fraction or "0").ljust(9, "0")) - shift
    first = zero_ns + min(record["sent"] for record in records if record.get("sent") is not None)
    last = zero_ns + max(record["finished"] for record in records if record.get("finished") is not None)
    size = os.stat(records_file).st_size
    written = next((at for at, _, seen in watch.samples if seen == size), watch.end_ns)
    begin, end = watch.cpu_s_until(first), watch.cpu_s_until(max(last, written))
    wall_s = (last - first) / 1e9
    return {"before": begin, "window": end - begin, "after": watch.cpu_s - end, "wall_s": wall_s, "last_ns": last}


def size_of(path):
    """A probe of how large a file is."""
    return lambda _: os.stat(path).st_size if os.path.exists(path) else 0


# --- statistics ---


def quantile(values, share):
    """The smallest value that at least this share of all does not exceed."""
    values = sorted(values)
    return values[min(len(values) - 1, max(0, math.ceil(share * len(values)) - 1))]


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


# Student's t, two-sided 95 %, for 1 degree of freedom and up.
T_95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]
T_95 += [2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]


def ratio(pairs):
    """Of pairs (ours, theirs): the median ratio, the geometric mean, and the 95 % interval of the latter."""
    logs = [math.log(ours / theirs) for ours, theirs in pairs]
    mean = sum(logs) / len(logs)
    made = {"median": math.exp(median(logs)), "mean": math.exp(mean), "low": 0.0, "high": math.inf}
    if len(logs) > 1:
        error = math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1) / len(logs))
        reach = T_95[min(len(logs) - 1, len(T_95)) - 1] * error
        made |= {"low": math.exp(mean - reach), "high": math.exp(mean + reach)}
    return made


def show_head(title):
    print(f"{title:<34}{'n':>8}" + "".join(f"{name:>10}" for name in ("p10", "p50", "p90", "p99", "max")))


def show(name, values):
    cells = [quantile(values, share) for share in (0.10, 0.50, 0.90, 0.99, 1)]
    print(f"{name:<34}{len(values):>8}" + "".join(f"{cell:>10.3f}" for cell in cells))
