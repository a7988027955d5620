"""How cost grows. Started by `run`; see bench/results/growth.md."""

import argparse
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys

import data
import day
import history
import replicas
import reports
import waiting
from place import Place, log

PARTS = {"history": history, "queue": waiting, "reports": reports, "replicas": replicas, "day": day}
# It takes as long as all others together.
UNASKED = {"day"}
BASE = "base"


def first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["?"])[0]


def arguments():
    parser = argparse.ArgumentParser(prog="bench/growth/run", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0,
                        help="share of the runs, connections and hints of the tables, such as 0.01 for a quick look")
    parser.add_argument("--only", default=",".join(name for name in PARTS if name not in UNASKED),
                        help="parts, joined by commas: " + ", ".join(PARTS))
    parser.add_argument("--reps", type=int, default=3, help="alternating rounds, besides one that warms up")
    parser.add_argument("--runs", type=int, help="runs that one drain has (6000, less with a small --scale)")
    parser.add_argument("--requests", type=int, default=20, help="repetitions of each request")
    parser.add_argument("--seconds", type=float, default=6, help="for which sweeps are watched")
    parser.add_argument("--write", metavar="FILE.md", help="puts the tables between the marks in this file")
    parser.add_argument("--keep", action="store_true", help="keeps the databases until the end, to look at them")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.runs = options.runs or max(400, int(6000 * min(1, options.scale * 4)))
    options.connections = max(200, int(1000 * min(1, options.scale * 4)))
    return options


def main():
    options = arguments()
    place = Place(options.folder, os.environ["VERIFYD_BENCH_BINARY"])
    sections, plans = [], {}
    try:
        asked = {name: part for name, part in PARTS.items() if name in options.only}
        if set(asked) - UNASKED:
            data.base(place, BASE, options.connections)
        places = {name: part.prepare(place, options, BASE, options.connections) for name, part in asked.items()}
        prepared()
        for name, part in asked.items():
            text = part.measure(place, options, places[name], options.connections)
            if name == "history":
                text, plans = text
            sections.append((name, text))
            print(f"\n## {name}\n\n{text}\n", flush=True)
    finally:
        place.close()
    if plans:
        sections.append(("plans", "\n\n".join(
            f"**{name}** ({ms:.2f} ms)\n\n```text\n{plan}\n```" for name, (ms, plan) in plans.items())))
    redis = first_line("redis-server", "--version").split(" sha")[0]
    postgres = first_line(os.path.join(os.environ["VERIFYD_TEST_PG_BIN"], "postgres"), "--version")
    when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    sections.append(("about", f"{when}, {os.cpu_count()} cores, {postgres}, {redis}, Python "
                     f"{platform.python_version()}; medians of {options.reps} alternating rounds, "
                     f"{options.connections:,} connections, drains of {options.runs:,} runs;\n"
                     f"`{shlex.join(['bench/growth/run', *given()])}`."))
    for name, text in sections[len(asked):]:
        print(f"\n## {name}\n\n{text}")
    if options.write:
        write(options.write, sections)


def prepared():
    """All data is there, and nothing is measured yet."""
    log("measuring")


def given():
    """What the user said."""
    words = sys.argv[1:]
    at = words.index("--folder")
    return words[:at] + words[at + 2:]


def write(path, sections):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for name, section in sections:
        marks = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", flags=re.S)
        if not marks.search(text):
            log(f"{path} has no mark for {name}")
        text = marks.sub(lambda found, s=section: f"{found[1]}\n{s}\n\n{found[2]}", text)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
