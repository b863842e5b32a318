"""Runs two builds of each benchmark by turns, and prints how the new one's times stand to the old one's.

A time alone tells of the machine; two builds that take turns have the same machine, whatever else it does. The
benchmarks print criterion's lines, of which the middle estimate counts. `./dev bench --compare REF` calls this:

    compare.py ROUNDS NAME=OLD:NEW...
"""

import re
import statistics
import subprocess
import sys

UNITS = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}
TIME = re.compile(r"time:\s+\[\S+ \S+ (\S+) (\S+) \S+ \S+\]")


def times(program):
    """The time of each of a program's benchmarks, in seconds."""
    output = subprocess.run([program, "--bench"], check=True, capture_output=True, text=True).stdout
    found, name = {}, None
    for line in output.splitlines():
        match = TIME.search(line)
        # A name that is too long for its column stands alone on the line before.
        before = line[: match.start()].strip() if match else line.strip()
        name = before or name
        if match:
            found[name] = float(match[1]) * UNITS[match[2]]
    return found


def main():
    rounds = int(sys.argv[1])
    for argument in sys.argv[2:]:
        bench, programs = argument.split("=", 1)
        old, new = programs.split(":", 1)
        ratios, last = {}, {}
        for turn in range(rounds):
            # Who goes first changes, for what heats up or wears off.
            order = [old, new] if turn % 2 == 0 else [new, old]
            taken = {program: times(program) for program in order}
            for name in taken[old].keys() & taken[new].keys():
                ratios.setdefault(name, []).append(taken[new][name] / taken[old][name])
                last[name] = taken[new][name]
        print(f"{bench}: new time / old time, median of {rounds} (least to most)")
        for name in sorted(ratios):
            values = ratios[name]
            spread = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            print(f"  {name:<55} {spread:<24} now {last[name] * 1e6:.2f} µs")


main()
