#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How much of the error of `moetap backtest` is left to be had, and how much nobody could know.

usage: tests/peers/left.py [options] TRACE.csv     (see --help)
Debian package: python3-numpy

CSV columns, errors in percent of `rel`:
  window, best     the fixed window with the least error over all origins, and that error
  oracle           the window that errs least, chosen in hindsight for each origin and layer
  noise            scatter of steps in the mean of the horizon, from successive differences of steps:
                   left if the level over the horizon were known
  drift            left, beside that noise, if the level at the origin were known: the move of the
                   mean from the steps around the origin (an eighth of the horizon on either side)
                   to the horizon, less the noise in it
  told             percent of that move's squares that the last move (over as many steps) and the
                   distance to equal shares explain, with slopes fitted in hindsight
  then             `rel`, `norm` and coverage of `moetap backtest --method METHOD`
"""
import argparse
import csv
import json
import subprocess
import sys

import numpy as np

from compare import read_trace

WINDOWS = (10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)


class Trace:
    def __init__(self, path):
        self.steps, tokens = read_trace(path)
        self.shares = tokens / tokens.sum(2, keepdims=True)
        self.experts = tokens.shape[2]
        self.total = np.concatenate([np.zeros_like(self.shares[:1]), np.cumsum(self.shares, 0)])

    def at(self, step):
        """Rows up to a step."""
        return int(np.searchsorted(self.steps, step, "right"))

    def mean(self, a, b):
        return (self.total[b] - self.total[a]) / (b - a)


def parts(trace, origin, horizon):
    """Sums of relative errors at one origin: of windows [windows][layers], noise, drift, terms
    [layers]; and the move and what may tell it [cells], as parts of the share."""
    a, b = trace.at(origin), trace.at(origin + horizon)
    actual = trace.mean(a, b)
    counts = actual >= 0.05 / trace.experts
    scale = np.where(counts, 1 / np.maximum(actual, 1e-12), 0)
    levels = np.stack([trace.mean(min(trace.at(origin - w), a - 1), a) for w in WINDOWS])
    errors = (abs(levels - actual) * scale).sum(2)
    # A step is far longer than most drifts: half the square of a difference is its noise.
    near = slice(max(a - (b - a), 0), b)
    variance = (np.diff(trace.shares[near], axis=0) ** 2).mean(0) / 2
    noise = (np.sqrt(2 / np.pi * variance / (b - a)) * scale).sum(1)
    side = max((b - a) // 8, 1)
    now = trace.mean(a - side, a + side)
    move = (actual - now) * scale
    # The noise of the shared steps is in both means: what remains is that of 2 * side steps.
    left = 1 - (variance / (2 * side) * scale ** 2).sum(1) / np.maximum((move ** 2).sum(1), 1e-30)
    drift = abs(move).sum(1) * np.sqrt(np.maximum(left, 0))
    last = (now - trace.mean(max(a - side - (b - a), 0), max(a - side, 1))) * scale
    equal = (1 / trace.experts - now) * scale
    return errors, noise, drift, counts.sum(1), move.ravel(), np.stack([last.ravel(), equal.ravel()])


def told(move, by):
    """Percent of the squares that the best slopes explain."""
    slopes = np.linalg.lstsq(by.T, move, rcond=None)[0]
    return 100 * (1 - ((move - slopes @ by) ** 2).sum() / (move ** 2).sum())


def method_error(args, horizon):
    text = subprocess.run([args.moetap, "backtest", "--horizon", str(horizon), "--method", args.method, "--from",
                           str(args.start), "--every", str(args.every), "--format", "json", args.trace],
                          stdout=subprocess.PIPE, check=True).stdout
    return next(r for r in json.loads(text)["backtest"] if r["state"] == "all")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", metavar="TRACE.csv")
    parser.add_argument("--moetap", default="build/tools/moetap", help="the program (default %(default)s)")
    parser.add_argument("--method", default="auto", help="default %(default)s")
    parser.add_argument("--horizons", default="100,500,1000,2000", help="steps (default %(default)s)")
    parser.add_argument("--from", dest="start", type=int, default=500, help="first origin (default 500)")
    parser.add_argument("--every", type=int, default=250, help="steps between origins (default 250)")
    args = parser.parse_args()
    trace = Trace(args.trace)
    out = csv.writer(sys.stdout)
    out.writerow(["horizon", "origins", "window", "best", "oracle", "noise", "drift", "told", args.method, "norm", "coverage"])
    for horizon in map(int, args.horizons.split(",")):
        origins = range(args.start, int(trace.steps[-1]) - horizon + 1, args.every)
        all_parts = list(zip(*(parts(trace, o, horizon) for o in origins)))
        errors, noise, drift, terms = (np.stack(x) for x in all_parts[:4])
        fixed = errors.sum((0, 2))
        sums = fixed.min(), errors.min(1).sum(), noise.sum(), drift.sum()
        line = method_error(args, horizon)
        out.writerow([horizon, len(origins), WINDOWS[fixed.argmin()]] + [f"{100 * x / terms.sum():.2f}" for x in sums] +
                     [f"{told(np.concatenate(all_parts[4]), np.concatenate(all_parts[5], 1)):.0f}"] +
                     [f"{100 * line[k]:.2f}" for k in ("rel", "norm", "coverage")])


if __name__ == "__main__":
    main()
