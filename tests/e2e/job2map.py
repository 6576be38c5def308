#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A map from what a job of DeepEP's low-latency layout knows (job.json).

usage: job2map.py JOB.json --layers L [--name NAME] [--pattern P] [--tap heads] > MAP.yaml
"""
import argparse
import json
import os
import sys

COUNT_WIDTH = 8     # bytes of one count cell


def preamble(name, layers, experts_per_rank, ranks, pattern="inference", micro_batches=1, tap="all",
             idle_gap_us=None, atomic_form=None):
    """Everything of a map before its rules. ranks: list of (rank, [addresses], base or None), and where
    there are other bases, {name: base} as well."""
    lines = ["# SPDX-License-Identifier: BSD-3-Clause", "moetap-map: 1", f"job: {name}",
             f"pattern: {pattern}", f"layers: {layers}"]
    if micro_batches != 1:
        lines.append(f"micro-batches: {micro_batches}")
    lines.append(f"tap: {tap}")
    if atomic_form:
        lines.append(f"atomic-form: {atomic_form}")
    if idle_gap_us:
        lines.append(f"idle-gap-us: {idle_gap_us}")
    lines += [f"experts-per-rank: {experts_per_rank}", "ranks:"]
    for rank, addresses, base, *bases in ranks:
        shown = addresses[0] if len(addresses) == 1 else "[" + ", ".join(addresses) + "]"
        if ":" in shown:
            shown = shown if shown.startswith("[") else f'"{shown}"'
        tail = "" if base is None else f", base: {base:#x}"
        if bases and bases[0]:
            tail += ", bases: {" + ", ".join(f"{name}: {at:#x}" for name, at in bases[0].items()) + "}"
        lines.append(f"  - {{rank: {rank}, address: {shown}{tail}}}")
    return lines


def low_latency_rules(ranks, experts, tokens, message, combine, parity, counts, with_counts=True,
                      width=COUNT_WIDTH):
    """Rules of the layout in docs/wire-formats: parity areas, in each tokens and combine, then counts.

    parity: distance of the two areas in bytes, None where one area serves all rounds.
    """
    def buffers():
        return [] if parity is None else [f"    parity: {{stride: {parity}, count: 2}}"]

    lines = ["rules:",
             "  - name: token", "    rule: va", "    phase: dispatch", f"    length: {message}",
             "    offset: 0", f"    size: {experts * ranks * tokens * message}", *buffers(),
             f"    expert: {{stride: {ranks * tokens * message}, count: {experts}, of: dst}}",
             f"    source: {{stride: {tokens * message}, count: {ranks}}}",
             f"    token-bytes: {message}",
             "  - name: combine", "    rule: va", "    phase: combine", f"    length: {combine}",
             "    offset: 0", f"    size: {experts * ranks * tokens * combine}", *buffers()]
    if with_counts:
        lines += ["  - name: count", "    rule: atomic", "    phase: count", f"    offset: {counts}",
                  f"    size: {experts * ranks * COUNT_WIDTH}", *buffers(),
                  f"    expert: {{stride: {ranks * COUNT_WIDTH}, count: {experts}, of: dst}}",
                  f"    source: {{stride: {COUNT_WIDTH}, count: {ranks}}}",
                  f"    value: {{scale: -1, add: -1, width: {width}}}"]
    return lines


def make(job, name, layers, **settings):
    """The text of the map of a job.json (already read)."""
    ranks = [(r["rank"], [r["ip"]], int(r["base"], 16)) for r in job["ranks"]]
    lines = preamble(name, layers, job["experts_per_rank"], ranks, **settings)
    lines += low_latency_rules(job["num_ranks"], job["experts_per_rank"], job["max_tokens_per_rank"],
                               job["dispatch_message"], job["combine_message"],
                               job["parity_stride"], job["count_offset"])
    return "\n".join(lines) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("job")
    ap.add_argument("--layers", type=int, required=True)
    ap.add_argument("--name")
    ap.add_argument("--pattern", default="inference")
    ap.add_argument("--tap", default="all", choices=("all", "heads"))
    a = ap.parse_args()
    with open(a.job) as f:
        job = json.load(f)
    name = a.name or os.path.basename(os.path.dirname(os.path.abspath(a.job)))
    sys.stdout.write(make(job, name, a.layers, pattern=a.pattern, tap=a.tap))


if __name__ == "__main__":
    main()
