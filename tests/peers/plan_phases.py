#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Plans kept by phase, on recorded loads: each of the workloads given has its plan; how even is that of another one,
and is the right one found again for other tokens of the same shares?

Needs python3-numpy; nothing of the recordings is in this repository.

  tests/peers/plan_phases.py --library build/host-lib/libmoetap.so PHASE_NAME.json ...

Each file is what SGLang records ({"logical_count": [layers][experts]}); what is before the first _ of its name is the
phase. Exit status 1 if a wrong plan is picked, or the right one is below 0.99.
"""
import argparse
import os
import sys

import numpy

from plans import Shape, balancedness, planner, recorded

ENOUGH = 0.99   # MOETAP_PICK_ENOUGH


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--library", required=True)
    a.add_argument("--ranks", type=int, default=32)
    a.add_argument("--slots", type=int, default=288)
    a.add_argument("--draws", type=int, default=5, help="of tokens, for each workload (5)")
    a.add_argument("files", nargs="+")
    a = a.parse_args()
    plan, shape = planner(a.library), Shape(ranks=a.ranks, nodes=1, slots=a.slots, groups=1)
    loads = {os.path.basename(path): recorded(path) for path in a.files}
    plans = {name: plan(x, shape) for name, x in loads.items()}

    def even(x, name):
        return balancedness(x, plans[name], a.ranks).mean()

    pairs = [(even(loads[x], y), x == y, x.split("_")[0] == y.split("_")[0]) for x in loads for y in plans]
    for title, of in (("its own", [b for b, own, _ in pairs if own]),
                      ("another workload of the phase", [b for b, own, same in pairs if same and not own]),
                      ("another phase", [b for b, _, same in pairs if not same])):
        if of:
            print(f"plan of {title:30} balancedness mean {numpy.mean(of):.4f}, {min(of):.4f} to {max(of):.4f}")
    rng, bad = numpy.random.default_rng(1), 0
    for tokens in (4e6, 1.5e7, 1e8):
        found = []
        for name, x in loads.items():
            for _ in range(a.draws):
                drawn = rng.poisson(tokens * x / x.sum(1, keepdims=True)).astype(float)
                best = max(plans, key=lambda y: even(drawn, y))
                found.append((even(drawn, best), best == name))
        least, right = min(b for b, _ in found), sum(r for _, r in found)
        print(f"{tokens:.1e} tokens a layer: the right plan picked in {right} of {len(found)}, balancedness at least "
              f"{least:.4f}")
        bad += right < len(found) or least < ENOUGH
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
