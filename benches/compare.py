"""Runs two builds of each benchmark alternately and prints the ratio of the new build's times to the old one's.

A machine is faster in one second than in the next, so the builds alternate after each measurement, and only the two
measurements of one round are compared. `./dev bench --compare REF` calls this:

    compare.py ROUNDS NAME=OLD:NEW...
"""

import re
import statistics
import subprocess
import sys

UNITS = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}
TIME = re.compile(r"time:\s+\[\S+ \S+ (\S+) (\S+) \S+ \S+\]")
# Many short measurements instead of Criterion's long one.
BRIEF = ["--warm-up-time", "0.2", "--measurement-time", "0.6", "--sample-size", "20", "--discard-baseline"]


def run(program, *arguments):
    return subprocess.run([program, "--bench", *arguments], check=True, capture_output=True, text=True).stdout


def works(program):
    """The names of a program's benchmarks."""
    listed = (line.rsplit(": ", 1) for line in run(program, "--list").splitlines())
    return [name[0] for name in listed if name[-1] == "benchmark"]


def time(program, work):
    """The time of one benchmark in seconds: Criterion's middle estimate."""
    output = run(program, "--exact", work, *BRIEF)
    found = TIME.search(output) or sys.exit(f"compare: {program} has not measured {work}:\n{output}")
    return float(found[1]) * UNITS[found[2]]


def main():
    rounds = int(sys.argv[1])
    for argument in sys.argv[2:]:
        bench, programs = argument.split("=", 1)
        old, new = programs.split(":", 1)
        print(f"{bench}: new time / old time, median of {rounds} (middle half of them)", flush=True)
        before = works(old)
        for work in works(new):
            if work not in before:
                print(f"  {work:<48} is new")
                continue
            ratios, taken = [], []
            for turn in range(rounds):
                # Who goes first changes, for what heats up or wears off.
                order = [old, new] if turn % 2 == 0 else [new, old]
                times = {program: time(program, work) for program in order}
                ratios.append(times[new] / times[old])
                taken.append(times[new])
            low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
            now = statistics.median(taken) * 1e6
            print(f"  {work:<48} {middle:.2f} ({low:.2f} to {high:.2f})   now {now:.2f} µs", flush=True)


main()
