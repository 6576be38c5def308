#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Plans of libmoetap beside the best ones: of up to 24 experts, an integer program gives the placement whose busiest
rank is lightest, of all that put no two replicas of an expert on a rank and, with groups, keep each on one node.

Needs python3-scipy (HiGHS).

  tests/peers/plan_optimum.py --library build/host-lib/libmoetap.so [--count 300] [--values FILE.h]

Exit status 1 if a plan of ours is more than 1 % less balanced than the best one. With --values, the instances whose
optimum was found are written as C, for the test host-lib/plan_optimum.
"""
import argparse
import sys
import time

import numpy
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

from plans import Shape, balancedness, draw, planner

KINDS = ("lognormal", "zipf", "dirichlet", "uniform")


class Program:
    """Rows of an integer program."""

    def __init__(self, variables):
        self.variables, self.rows, self.low, self.high = variables, [], [], []

    def add(self, terms, low, high):
        self.rows.append(terms)
        self.low.append(low)
        self.high.append(high)

    def constraint(self):
        a = lil_matrix((len(self.rows), self.variables))
        for i, terms in enumerate(self.rows):
            for column, factor in terms:
                a[i, column] += factor
        return LinearConstraint(a.tocsr(), self.low, self.high)


def best(load, shape, seconds, gap):
    """(lightest busiest rank found, bound below it), None where none was found in time.

    y[e, r, c]: rank r holds one of c replicas of expert e; z[e, c]: e has c replicas; g[k, n]: group k is on node n.
    """
    experts, ranks = len(load), shape.ranks
    kept = shape.groups > 1 and shape.groups % shape.nodes == 0
    nodes, groups = (shape.nodes, shape.groups) if kept else (1, 1)
    most = min(ranks // nodes, shape.slots - experts + 1)
    y = numpy.arange(experts * ranks * most).reshape(experts, ranks, most)
    z = y.size + numpy.arange(experts * most).reshape(experts, most)
    g = y.size + z.size + numpy.arange(groups * nodes).reshape(groups, nodes)
    busiest = y.size + z.size + g.size
    p = Program(busiest + 1)
    for e in range(experts):
        p.add([(c, 1) for c in z[e]], 1, 1)
        for c in range(most):
            p.add([(y[e, r, c], 1) for r in range(ranks)] + [(z[e, c], -(c + 1))], 0, 0)
            for r in range(ranks):
                p.add([(y[e, r, c], 1), (z[e, c], -1)], -numpy.inf, 0)
        for r in range(ranks):
            home = g[e // (experts // groups), r // (ranks // nodes)]
            p.add([(y[e, r, c], 1) for c in range(most)] + [(home, -1)], -numpy.inf, 0)
    for k in range(groups):
        p.add([(n, 1) for n in g[k]], 1, 1)
    for n in range(nodes):
        p.add([(k, 1) for k in g[:, n]], groups // nodes, groups // nodes)
    for r in range(ranks):
        cells = [(y[e, r, c], load[e] / (c + 1)) for e in range(experts) for c in range(most)]
        p.add([(column, 1) for column, _ in cells], shape.slots // ranks, shape.slots // ranks)
        p.add(cells + [(busiest, -1)], -numpy.inf, 0)
    cost, kind = numpy.zeros(busiest + 1), numpy.ones(busiest + 1)
    cost[busiest], kind[busiest] = 1, 0
    top = numpy.ones(busiest + 1)
    top[busiest] = numpy.inf
    low = numpy.zeros(busiest + 1)
    low[busiest] = load.sum() / ranks
    found = milp(cost, constraints=p.constraint(), integrality=kind, bounds=Bounds(low, top),
                 options={"time_limit": seconds, "mip_rel_gap": gap})
    return None if found.x is None else (found.fun, max(found.mip_dual_bound, low[busiest]))


def instance(rng, i):
    """Loads of 4 to 24 experts, and a shape that has room for them."""
    while True:
        nodes = int(rng.choice((1, 1, 2)))
        groups = nodes * int(rng.integers(1, 4)) if nodes > 1 and rng.random() < 0.7 else 1
        ranks = nodes * int(rng.integers(1 if nodes > 1 else 2, 5))
        experts = groups * int(rng.integers(2, 25 // groups + 1))
        slots = ranks * int(rng.integers(1, 9))
        if 4 <= experts <= 24 and experts <= slots <= 2 * experts and slots // ranks <= experts // (nodes if groups > 1 else 1):
            loads = numpy.round(draw(rng, KINDS[i % len(KINDS)], 1, experts) * 1000)
            if loads.sum() > 0:
                return loads, Shape(ranks=ranks, nodes=nodes, slots=slots, groups=groups)


def write(path, kept):
    with open(path, "w") as f:
        f.write("/* SPDX-License-Identifier: BSD-3-Clause */\n/* Made by tests/peers/plan_optimum.py --values: loads, and"
                " the busiest rank of the best placement. */\n")
        for loads, shape, optimum in kept:
            f.write(f"{{{{{shape.ranks}, {shape.nodes}, {shape.slots}, {shape.groups}}}, {loads.size}, {optimum:.6f},\n"
                    f"\t{{{', '.join(f'{x:.0f}' for x in loads[0])}}}}},\n")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--library", required=True)
    a.add_argument("--count", type=int, default=300)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--seconds", type=float, default=20, help="for each integer program (20)")
    a.add_argument("--values", metavar="FILE.h")
    a = a.parse_args()
    rng, ours = numpy.random.default_rng(a.seed), planner(a.library)
    kept, gaps, undecided, took = [], [], 0, [0, 0]
    for i in range(a.count):
        loads, shape = instance(rng, i)
        begun = time.perf_counter()
        mine = loads.sum() / shape.ranks / balancedness(loads, ours(loads, shape), shape.ranks)[0]
        middle = time.perf_counter()
        found = best(loads[0], shape, a.seconds, 1e-5)
        took = [took[0] + middle - begun, took[1] + time.perf_counter() - middle]
        # Not decided within the time: what is known is that nothing is below the bound.
        if found is None or (found[0] > found[1] * 1.001 and mine > found[1] * 1.01):
            undecided += 1
            continue
        known = min(found[0], mine)
        gaps.append(mine / known - 1)
        if found[0] <= found[1] * 1.00001:
            kept.append((loads, shape, found[0]))
        if mine > known * 1.01:
            print(f"{100 * gaps[-1]:.2f} % above: {shape.ranks} ranks, {shape.nodes} nodes, {shape.slots} slots, "
                  f"{shape.groups} groups, loads {loads[0].tolist()}")
    gaps = numpy.array(gaps)
    print(f"{len(gaps)} instances, {undecided} undecided in {a.seconds} s; busiest rank above the best: mean "
          f"{100 * gaps.mean():.4f} %, most {100 * gaps.max():.3f} %; the best itself in {(gaps < 1e-6).sum()}; "
          f"{1e3 * took[0] / a.count:.2f} ms a plan, {1e3 * took[1] / a.count:.0f} ms an integer program")
    if a.values:
        write(a.values, kept)
    sys.exit(1 if (gaps > 0.01).any() else 0)


if __name__ == "__main__":
    main()
