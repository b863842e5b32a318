"""Runs two builds of each benchmark alternately and prints the ratio of the new build's figures to the old one's.

A machine is faster in one second than in the next, so the builds alternate after each measurement, and only the two
measurements of one round are compared. `./dev bench --compare REF` calls this:

    compare.py ROUNDS NAME=OLD:NEW...

Of a benchmark with Criterion, each measurement is one of its times. A program that prints figures of its own runs as
a whole, in a third of the rounds, because each run has rounds of its own; every figure that it prints is compared.
"""

import pathlib
import re
import statistics
import subprocess
import sys

UNITS = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}
TIME = re.compile(r"time:\s+\[\S+ \S+ (\S+) (\S+) \S+ \S+\]")
FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")
# Many short measurements instead of Criterion's long one.
BRIEF = ["--warm-up-time", "0.2", "--measurement-time", "0.6", "--sample-size", "20", "--discard-baseline"]

NOT_COMPARED = {
    "instructions": "it prints no figures; ./dev instructions compares them with the recorded ones",
    "live": "both builds would run the same target/release/callsight",
    "sizing": "both builds would run the same target/release/callsight",
}


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


def figures(program):
    """The lines that a program prints, and the figures in each. A line is known by its text and how often it came."""
    found = {}
    for line in run(program).splitlines():
        text, times = FIGURE.sub("#", line), 0
        while (text, times) in found:
            times += 1
        found[text, times] = (line, [float(figure) for figure in FIGURE.findall(line)])
    return {key: (line, numbers) for key, (line, numbers) in found.items() if numbers}


def alternately(rounds, old, new, measure):
    """What each of the two measures in each round. Who goes first changes, for what heats up or wears off."""
    measured = []
    for turn in range(rounds):
        order = [old, new] if turn % 2 == 0 else [new, old]
        found = {program: measure(program) for program in order}
        measured.append((found[old], found[new]))
    return measured


def spread(pairs):
    """The median of new / old and the middle half, such as `0.90 (0.86 to 0.93)`."""
    ratios = [new / old if old else float(new == old) for old, new in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def compare_criterion(rounds, bench, old, new):
    print(f"{bench}: new time / old time, median of {rounds} (middle half of them)", flush=True)
    before = works(old)
    for work in works(new):
        if work not in before:
            print(f"  {work:<48} is new")
            continue
        pairs = alternately(rounds, old, new, lambda program: time(program, work))
        now = statistics.median(new for _, new in pairs) * 1e6
        print(f"  {work:<48} {spread(pairs)}   now {now:.2f} µs", flush=True)


def compare_figures(rounds, bench, old, new):
    rounds = max(1, rounds // 3)
    print(f"{bench}: new figure / old figure, median of {rounds} (middle half of them)", flush=True)
    measured = alternately(rounds, old, new, figures)
    last = measured[-1][1]
    if not last:
        print("  not compared: it prints no figures")
    for key, (line, numbers) in last.items():
        print(f"  {line}")
        in_all = all(key in run for pair in measured for run in pair)
        for index in range(len(numbers)) if in_all else []:
            print(f"    {numbers[index]:<12g} {spread([(o[key][1][index], n[key][1][index]) for o, n in measured])}")
        if not in_all:
            print("    is new")


def main():
    rounds = int(sys.argv[1])
    for argument in sys.argv[2:]:
        bench, programs = argument.split("=", 1)
        old, new = programs.split(":", 1)
        source = pathlib.Path(__file__).with_name(f"{bench}.rs")
        if bench in NOT_COMPARED:
            print(f"{bench}: not compared: {NOT_COMPARED[bench]}")
        elif source.exists() and "criterion_main!" in source.read_text():
            compare_criterion(rounds, bench, old, new)
        else:
            compare_figures(rounds, bench, old, new)


main()
