#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What a forecast of 58 layers of 256 experts costs moetap, statsmodels and R, in one table.

usage: tests/peers/cost.py [--bench build/tests/bench/bench-forecast] [--series N] [--blocks N]
Debian packages: python3-numpy python3-statsmodels r-cran-forecast

moetap's lines are those of bench-forecast: a step, and a forecast of all shares. The peers fit
anew for every forecast; they are timed on --series series of drifting shares, of --blocks means
over 100 steps each, and that is multiplied up to all 14,848. CPU time of one processor.
"""
import argparse
import subprocess

import numpy as np

from compare import Task, run_r, run_statsmodels

ALL = 58 * 256


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/tests/bench/bench-forecast", help="default %(default)s")
    parser.add_argument("--series", type=int, default=32, help="series that the peers get (default 32)")
    parser.add_argument("--blocks", type=int, default=30, help="blocks of each (default 30)")
    args = parser.parse_args()
    bench = subprocess.run([args.bench, "auto", "arima", "lstm"], stdout=subprocess.PIPE, text=True, check=True)
    print("method,step ms,forecast ms,MiB")
    for line in bench.stdout.splitlines()[2:]:
        name, step, _, _, forecast, _, mib = line.split()
        print(f"moetap {name},{step},{forecast},{mib}", flush=True)
    random = np.random.default_rng(1)
    shape = args.blocks, args.series
    values = np.exp(np.cumsum(0.03 * random.normal(size=shape), 0) + 0.01 * random.normal(size=shape)) / 256
    tasks = [Task(0, values, [10])]
    for run in (lambda: run_statsmodels(tasks, 1), lambda: run_r(tasks, 1)):
        for name, (_, seconds) in run().items():
            print(f"{name},,{1e3 * seconds * ALL / args.series:.0f},", flush=True)


if __name__ == "__main__":
    main()
