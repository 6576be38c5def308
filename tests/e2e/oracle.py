#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Counts of a capture by plain arithmetic, independent of moetap: every PSN of a flow once, sorted.

Reads the job's own numbers (job.json, DeepEP's low-latency layout). A cell is (source, destination,
local expert); all its packets ride one flow, tokens first, then the atomic that announces their
number, so the atomics seen so far in PSN order say which round a token belongs to.
usage: oracle.py JOB.json CAPTURE [--layers L]  > CSV step,layer,src,dst,expert,tokens
"""
import argparse
import collections
import ipaddress
import json
import sys

import roce


LIFE = 1 << 14      # packets: no retransmission and no reordering goes back so far


class Job:
    def __init__(self, path):
        with open(path) as f:
            j = json.load(f)
        self.addresses = {ipaddress.ip_address(r["ip"]): r["rank"] for r in j["ranks"]}
        self.base = {r["rank"]: int(r["base"], 16) for r in j["ranks"]}
        self.ranks, self.experts = j["num_ranks"], j["experts_per_rank"]
        self.tokens, self.message = j["max_tokens_per_rank"], j["dispatch_message"]
        self.combine = j["combine_message"]
        self.parity, self.counts = j["parity_stride"], j["count_offset"]

    def place(self, dst, va):
        """(parity, offset inside the parity area) of an address at the destination."""
        offset = va - self.base[dst]
        if not 0 <= offset < 2 * self.parity:
            raise ValueError(f"address {va:#x} is outside of rank {dst}'s buffer")
        return divmod(offset, self.parity)


def requests(packets, addresses):
    """flow → {unwrapped PSN: Roce}, each PSN once; a jump of LIFE begins a new life."""
    flows, last, life = collections.defaultdict(dict), {}, collections.Counter()
    for p in packets:
        r = roce.parse(p.data)
        if r is None or r.op >= 0x20 or r.op in roce.RESPONSES:
            continue
        if r.src not in addresses or r.dst not in addresses:
            continue
        name = r.flow
        psn = roce.serial_near(r.psn, last.get(name, r.psn))
        if abs(psn - last.get(name, psn)) > LIFE:
            life[name] += 1
        last[name] = psn
        flows[name + (life[name],)].setdefault(psn, r)
    return flows


def gaps(flows):
    """flow → number of PSNs that are missing between the first and the last one seen."""
    out = {}
    for name, seen in flows.items():
        psns = sorted(seen)
        missing, end = 0, psns[0]
        for psn in psns:
            missing += max(0, psn - end)
            end = max(end, psn + 1)
        if missing:
            out[name] = missing
    return out


def count(job, packets, check=True):
    """{(round, src, dst, global expert): tokens}; with check, the atomics must say the same."""
    loads, closed = collections.Counter(), collections.Counter()
    for name, seen in sorted(requests(packets, job.addresses).items(), key=lambda x: x[0][3]):
        src, dst = job.addresses[name[0]], job.addresses[name[1]]
        for psn in sorted(seen):
            r = seen[psn]
            if r.va is None:
                continue
            parity, offset = job.place(dst, r.va)
            if r.op in roce.WITH_ATOMICETH:
                local, source = divmod((offset - job.counts) // 8, job.ranks)
                cell = (src, dst, dst * job.experts + local)
                turn, said = closed[cell], -r.add - 1
                closed[cell] += 1
                loads[(turn,) + cell] += 0
                if check and loads[(turn,) + cell] != said:
                    raise ValueError(f"round {turn} {cell}: {loads[(turn,) + cell]} tokens, "
                                     f"the atomic says {said}")
            elif r.length == job.message:
                slot = offset // job.message
                local, source = divmod(slot // job.tokens, job.ranks)
                cell = (src, dst, dst * job.experts + local)
                turn = closed[cell]
                loads[(turn,) + cell] += 1
            else:
                continue
            if check and (source != src or parity != turn % 2 or not local < job.experts):
                raise ValueError(f"round {turn} {cell}: parity {parity}, source {source}")
    return loads


def read_truth(path):
    """{(step, layer, src, dst, expert): tokens} of what crossed the wire."""
    truth = {}
    with open(path) as f:
        names = f.readline().strip().split(",")
        for line in f:
            row = dict(zip(names, line.strip().split(",")))
            key = tuple(int(row[n]) for n in ("step", "layer", "src", "dst", "expert"))
            if key[2] != key[3]:
                truth[key] = int(row["tokens"])
    return truth


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("job")
    ap.add_argument("capture")
    ap.add_argument("--layers", type=int, default=2)
    ap.add_argument("--truth", help="compare with this truth.csv instead of printing")
    ap.add_argument("--no-check", action="store_true", help="captures with removed packets")
    a = ap.parse_args()
    job, packets = Job(a.job), roce.read_pcap(a.capture)
    loads = {divmod(k[0], a.layers) + k[1:]: n
             for k, n in count(job, packets, not a.no_check).items()}
    if a.truth:
        truth = read_truth(a.truth)
        wrong = {k for k in truth.keys() | loads.keys() if truth.get(k) != loads.get(k)}
        for k in sorted(wrong)[:10]:
            print(f"{k}: truth {truth.get(k)}, capture {loads.get(k)}", file=sys.stderr)
        lost = sum(gaps(requests(packets, job.addresses)).values())
        print(f"{len(truth)} cells, {len(wrong)} differences, {lost} PSNs not seen")
        sys.exit(1 if wrong else 0)
    print("step,layer,src,dst,expert,tokens")
    for k in sorted(loads):
        print(",".join(map(str, k + (loads[k],))))


if __name__ == "__main__":
    main()
