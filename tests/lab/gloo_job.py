#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A rank of an expert-parallel job on PyTorch over Gloo: ranks tell each other how many tokens go to each expert
(all_to_all_single of int64), then move them, then back, and sum up gradients. Each rank writes its own truth.

usage: gloo_job.py RANK RANKS ADDRESS PORT STEPS LAYERS EXPERTS TOKENS HIDDEN TRUTH.csv
"""
import random
import sys

import torch
import torch.distributed as dist


def main():
    rank, ranks, port, steps, layers, experts, tokens, hidden = (int(sys.argv[i]) for i in (1, 2, 4, 5, 6, 7, 8, 9))
    dist.init_process_group("gloo", init_method=f"tcp://{sys.argv[3]}:{port}", rank=rank, world_size=ranks)
    draw = random.Random(rank + 1)
    rows = ["step,layer,src,dst,expert,tokens"] if rank == 0 else []
    for step in range(steps):
        for layer in range(layers):
            counts = torch.zeros(ranks * experts, dtype=torch.int64)
            for _ in range(tokens):     # the smaller of two: some experts are hot
                counts[min(draw.randrange(ranks * experts), draw.randrange(ranks * experts))] += 1
            told = torch.empty_like(counts)
            dist.all_to_all_single(told, counts)
            sent, got = (c.view(ranks, experts).sum(1).tolist() for c in (counts, told))
            held = torch.empty(sum(got), hidden, dtype=torch.float32)
            dist.all_to_all_single(held, torch.rand(tokens, hidden), got, sent)
            dist.all_to_all_single(torch.empty(tokens, hidden), held, sent, got)
            rows += [f"{step},{layer},{rank},{e // experts},{e},{n}" for e, n in enumerate(counts.tolist())]
        dist.all_reduce(torch.rand(5000))
    dist.barrier()
    with open(sys.argv[10], "w") as f:
        f.write("\n".join(rows) + "\n")


main()
