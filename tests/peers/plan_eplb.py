#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Plans of libmoetap beside those of deepseek-ai/EPLB, on the same loads in one run.

Needs python3-torch and a checkout of https://github.com/deepseek-ai/EPLB; of that nothing is in this repository.

  tests/peers/plan_eplb.py --eplb EPLB/eplb.py --library build/host-lib/libmoetap.so [COUNTS.json | TRACE.csv ...]

COUNTS.json is what SGLang records ({"logical_count": [layers][experts]}; layers without tokens are left out). Without
files, random loads are drawn: lognormal, Zipf, Dirichlet and uniform. Exit status 1 if a plan of ours is less balanced
than EPLB's, puts two replicas of an expert on a rank or leaves one out.
"""
import argparse
import csv
import importlib.util
import sys
import time

import numpy
import torch

from plans import Shape, balancedness, doubles, draw, planner, recorded


def peer(path):
    spec = importlib.util.spec_from_file_location("eplb", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def plan(loads, shape):
        return module.rebalance_experts(torch.from_numpy(loads), shape.slots, shape.groups, shape.nodes,
                                        shape.ranks)[0].numpy()
    return plan


def read(path):
    if path.endswith(".json"):
        return recorded(path)
    with open(path) as f:
        rows = list(csv.reader(f))
    names = [n for n in rows[0] if n.startswith("l") and "_e" in n]
    layers = 1 + max(int(n[1:].split("_e")[0]) for n in names)
    total = numpy.array([[float(r[rows[0].index(n)]) for n in names] for r in rows[1:]]).sum(0)
    return total.reshape(layers, -1)


def random_cases(count, seed):
    rng = numpy.random.default_rng(seed)
    shapes = [(256, 32, 1, 288, 1), (256, 32, 4, 288, 8), (256, 64, 8, 320, 8), (256, 64, 1, 320, 1), (64, 8, 1, 72, 1),
              (64, 16, 2, 96, 4), (128, 16, 1, 144, 1), (32, 8, 2, 48, 4)]
    for i in range(count):
        for kind in ("lognormal", "zipf", "dirichlet", "uniform"):
            experts, ranks, nodes, slots, groups = shapes[i % len(shapes)]
            loads = numpy.round(draw(rng, kind, 4, experts) * 1e6)
            yield kind, loads, Shape(ranks=ranks, nodes=nodes, slots=slots, groups=groups)


def file_cases(paths):
    for path in paths:
        loads = read(path)
        for ranks, nodes, slots, groups in ((32, 1, 288, 1), (32, 4, 288, 8), (36, 1, 288, 1), (64, 8, 320, 8)):
            yield "files", loads, Shape(ranks=ranks, nodes=nodes, slots=slots, groups=groups)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--eplb", required=True)
    a.add_argument("--library", required=True)
    a.add_argument("--count", type=int, default=64, help="random cases of each kind (64)")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("files", nargs="*")
    a = a.parse_args()
    torch.set_num_threads(1)
    ours, theirs, lines, bad = planner(a.library), peer(a.eplb), {}, 0
    for kind, loads, shape in file_cases(a.files) if a.files else random_cases(a.count, a.seed):
        begun = time.process_time()
        mine = ours(loads, shape)
        middle = time.process_time()
        other = theirs(loads, shape)
        ended = time.process_time()
        b, c = balancedness(loads, mine, shape.ranks), balancedness(loads, other, shape.ranks)
        key = (kind, f"{shape.slots}/{shape.ranks}, {shape.nodes} nodes, {shape.groups} groups")
        lines.setdefault(key, []).append((b.mean(), c.mean(), b.min(), c.min(), middle - begun, ended - middle,
                                          (b < c - 1e-9).sum(), doubles(mine, shape.ranks),
                                          doubles(other, shape.ranks)))
        bad += (b < c - 1e-9).sum() + doubles(mine, shape.ranks)
    print("loads      shape                          moetap   EPLB     worst of both  CPU ms      ms  below  doubled")
    for (kind, name), rows in sorted(lines.items()):
        r = numpy.array(rows)
        print(f"{kind:10} {name:28} {r[:, 0].mean():8.4f} {r[:, 1].mean():8.4f} {r[:, 2].min():7.3f} {r[:, 3].min():6.3f}"
              f" {1e3 * r[:, 4].mean():9.1f} {1e3 * r[:, 5].mean():7.1f} {int(r[:, 6].sum()):6} {int(r[:, 7].sum()):4}"
              f" {int(r[:, 8].sum()):4}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
