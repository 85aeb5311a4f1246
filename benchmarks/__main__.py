"""`scripts/bench [NAME…] [--rounds N]`: run the benchmarks and print one table of ratios."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from benchmarks.common import Row, render, say

ALL = ("up", "pods", "memory", "scale", "throughput", "routing", "cni", "proxy")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="nsk8s against Mininet and against `ip` by hand.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="each figure is the median of so many (default 5)")
    options = parser.parse_args()
    unknown = [n for n in options.names if n not in ALL]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(ALL)}")
    if os.geteuid() != 0:
        print("bench: error: benchmarks start clusters: run sudo scripts/bench", file=sys.stderr)
        return 1
    rows: list[Row] = []
    failed = False
    for name in options.names or ALL:
        say(f"{name} …")
        try:
            rows += importlib.import_module(f"benchmarks.{name}").measure(options.rounds)
        except (RuntimeError, TimeoutError, OSError) as e:
            failed = True
            say(f"{name} failed: {e}")
    if rows:
        print(render(rows))
    return 1 if failed else 0


sys.exit(main())
