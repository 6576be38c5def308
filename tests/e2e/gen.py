#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Traffic of made-up jobs, for what real captures do not have. Deterministic by seed.

Every rank sends its messages over its queue pairs in random order, a queue pair in its own order;
a rank combines when all its tokens of the round are there, and dispatches again when all its
combines are. Ranks run ahead of each other as far as that allows, as real ones do.
usage: gen.py --out DIR [--seed N] [options]: writes DIR/capture.pcap.gz, truth.csv,
map.yaml, job.json
"""
import argparse
import collections
import heapq
import ipaddress
import json
import math
import os
import random

import job2map
import roce

PORT_BASE = 49152
CHUNK = 131072      # bytes of the largest message of rule length
SNAP = 160


class Form:
    """An atomic that no standard tells, from "opcode,length,address,operand,width,order", all of them
    bytes behind the BTH. The rest of it is masks: ones, then zeros."""

    def __init__(self, text):
        *numbers, self.order = text.split(",")
        self.opcode, self.length, self.address, self.operand, self.width = (int(n, 0) for n in numbers)

    def body(self, va, add):
        body = bytearray(b"\xff" * (self.length // 2) + bytes(self.length - self.length // 2))
        body[self.address:self.address + 8] = va.to_bytes(8, "big")
        operand = (add % (1 << 8 * self.width)).to_bytes(self.width, self.order)
        body[self.operand:self.operand + self.width] = operand
        return bytes(body)

    def stated(self):
        return (f"{{opcode: {self.opcode:#x}, length: {self.length}, address: {self.address}, operand: "
                f"{self.operand}, width: {self.width}, order: {self.order}}}")


def passes(pattern, layers):
    """(pass, layer) of the rounds of one micro-batch, in order."""
    forward = [("dispatch", l) for l in range(layers)]
    if pattern == "inference":
        return forward
    back = []
    for l in reversed(range(layers)):
        back += [("recompute", l)] if pattern == "training-recompute" else []
        back.append(("backward", l))
    return forward + back


class QueuePair:
    """One direction of a connection: PSNs, and the packets already sent for going back N."""

    def __init__(self, src, dst, sport, qpn, answer_qpn, psn):
        self.src, self.dst, self.sport = src, dst, sport
        self.qpn, self.answer_qpn, self.psn = qpn, answer_qpn, psn
        self.queue, self.sent, self.msn = collections.deque(), collections.deque(maxlen=64), 0

    def post_integers(self, values):
        """A WRITE of one packet whose payload is there: 32-bit integers."""
        body = b"".join(v.to_bytes(4, "little") for v in values)
        head = bytes(8) + b"\0\0\2\2" + len(body).to_bytes(4, "big") + body
        self.queue.append((roce.WRITE_ONLY, head, 0, True, self.psn))
        self.psn += 1

    def post(self, op_kind, va, length, add=0, mtu=4096, imm=False, form=None):
        """Cut a message into packets (opcode, headers after the BTH, payload, is it the last)."""
        reth = va.to_bytes(8, "big") + b"\0\0\2\2" + length.to_bytes(4, "big")
        if op_kind == "atomic":
            body = va.to_bytes(8, "big") + b"\0\0\2\2" + (add & (2**64 - 1)).to_bytes(8, "big") + bytes(8)
            self.queue.append((roce.FETCH_ADD, body, 0, True, self.psn) if form is None else
                              (form.opcode, form.body(va, add), 0, True, self.psn))
            self.psn += 1
            return
        count = max(1, math.ceil(length / mtu))
        for n in range(count):
            size = min(mtu, length - n * mtu)
            first, last = n == 0, n == count - 1
            if first and last:
                op = roce.WRITE_ONLY_IMM if imm else roce.WRITE_ONLY
            elif first:
                op = roce.WRITE_FIRST
            elif last:
                op = roce.WRITE_LAST_IMM if imm else roce.WRITE_LAST
            else:
                op = roce.WRITE_MIDDLE
            head = (reth if first else b"") + (b"\0\0\0\7" if imm and last else b"")
            self.queue.append((op, head, size, last, self.psn))
            self.psn += 1


class Traffic:
    def __init__(self, a, seed):
        self.a, self.rng = a, random.Random(seed)
        self.packets, self.order, self.round = [], 0, -1
        prefix = "fd00:77::" if a.ipv6 else "10.77.0."
        text = (lambda r: f"{prefix}{r + 1:x}") if a.ipv6 else (lambda r: f"{prefix}{r + 1}")
        self.address = [ipaddress.ip_address(text(r // a.share)) for r in range(a.ranks)]
        self.base = [0x7F0000000000 + self.rng.randrange(1 << 28) * 4096 for _ in range(a.ranks)]
        combine = a.ranks * a.experts_per_rank * a.tokens * a.combine_message
        dispatch = a.ranks * a.experts_per_rank * a.tokens * a.message
        self.counts = (max(combine, dispatch) + 4095) // 4096 * 4096
        self.stride = self.counts + 4096
        self.experts = a.ranks * a.experts_per_rank
        self.weights = [[self.rng.expovariate(1) + 0.05 for _ in range(self.experts)]
                        for _ in range(a.layers)]
        self.connect()

    def connect(self):
        """(Re)create all queue pairs: the same QPNs, new PSNs."""
        a, self.qps = self.a, {}
        number = {(d, s, i): 0x11 + d % a.share * a.ranks * a.qps + n for d in range(a.ranks)
                  for n, (s, i) in enumerate((s, i) for s in range(a.ranks) if not self.meet(s, d)
                                             for i in range(a.qps))}
        for (d, s, i), qpn in number.items():
            self.qps[s, d, i] = QueuePair(s, d, PORT_BASE + self.rng.randrange(16384), qpn,
                                          number[s, d, i], self.rng.randrange(1 << 24))

    def route(self, layer):
        """{(src, expert): tokens}: every token of every rank picks top-k different experts."""
        loads = collections.Counter()
        for src in range(self.a.ranks):
            for _ in range(self.a.tokens):
                keys = [(self.rng.expovariate(w), e) for e, w in enumerate(self.weights[layer])]
                for _, e in heapq.nsmallest(self.a.top_k, keys):
                    loads[src, e] += 1
        return loads

    def meet(self, src, dst):
        """Whether what one rank sends the other passes no NIC: they share one, or are the same."""
        return src // self.a.share == dst // self.a.share

    def lies(self, src, dst, local):
        """Whether a token is told and not sent: of the first expert of rank 1, in one round."""
        return self.a.lie == self.round and (src, dst, local) == (0, 1, 0)

    def area(self, rank, parity):
        return self.base[rank] + (0 if self.a.no_parity else parity * self.stride)

    def post_dispatch(self, src, loads, parity):
        a = self.a
        for dst in range(a.ranks):
            if a.told and not self.meet(src, dst):
                self.qps[src, dst, 0].post_integers(
                    loads[src, dst * a.experts_per_rank + e] for e in range(a.experts_per_rank))
            for local in range(a.experts_per_rank):
                if self.meet(src, dst):
                    continue
                n = loads[src, dst * a.experts_per_rank + local]
                qp, cell = self.qps[src, dst, local % a.qps], local * a.ranks + src
                area = self.area(dst, parity)
                if a.rule == "length":
                    left = n * a.message
                    while left:
                        size = min(left, CHUNK)
                        qp.post("write", self.rng.randrange(1 << 40), size, mtu=a.mtu, imm=True)
                        left -= size
                    continue
                if a.told and self.lies(src, dst, local):
                    n -= 1
                for slot in range(n):
                    va = area + (cell * a.tokens + slot) * a.message
                    if a.rule == "qp":
                        va = self.rng.randrange(1 << 40)
                    qp.post("write", va, a.message, mtu=a.mtu, imm=a.immediates)
                if a.rule == "va" and not a.no_counts and not a.told:
                    qp.post("atomic", area + self.counts + 8 * cell, 8, add=-n - 1, form=a.atomic)

    def post_combine(self, src, loads, parity):
        """Rank src gives the results of its experts back to where the tokens came from."""
        a = self.a
        for dst in range(a.ranks):
            if self.meet(src, dst) or a.rule == "length":
                continue
            for local in range(a.experts_per_rank):
                e = src * a.experts_per_rank + local
                tokens = self.rng.sample(range(a.tokens), min(a.tokens, loads[dst, e]))
                for token in sorted(tokens):
                    va = self.area(dst, parity) + (e * a.tokens + token) * a.combine_message
                    self.qps[src, dst, local % a.qps].post("write", va, a.combine_message, mtu=a.mtu)

    def emit(self, ns, qp, packet):
        op, body, size, last, psn = packet
        head = roce.bth(op, qp.qpn, psn, ack_request=last, pad=-size % 4) + body
        data, wire = roce.frame(self.address[qp.src], self.address[qp.dst], qp.sport, head,
                                size + -size % 4, SNAP)
        self.put(ns, data, wire)
        if last:
            qp.msn += 1
            atomic = op == roce.FETCH_ADD or (self.a.atomic and op == self.a.atomic.opcode)
            answer = roce.ATOMIC_ACK if atomic else roce.ACK
            body = b"\x1f" + qp.msn.to_bytes(3, "big") + (bytes(8) if answer != roce.ACK else b"")
            data, wire = roce.frame(self.address[qp.dst], self.address[qp.src], qp.sport,
                                    roce.bth(answer, qp.answer_qpn, psn) + body, 0, SNAP)
            self.put(ns + self.rng.randrange(2000, 9000), data, wire)

    def put(self, ns, data, wire):
        self.order += 1
        self.packets.append((ns, self.order, data, wire))

    def drain(self, src, ns):
        """Send all that rank src has posted, from time ns on; returns when each peer had its last."""
        busy = [qp for qp in self.qps.values() if qp.src == src and qp.queue]
        arrived = {d: ns for d in range(self.a.ranks)}
        while busy:
            qp = self.rng.choice(busy)
            packet = qp.queue.popleft()
            ns += 1 + int(self.rng.expovariate(1 / self.a.packet_ns))
            self.emit(ns, qp, packet)
            qp.sent.append(packet)
            if self.rng.random() < self.a.retransmit:
                again = list(qp.sent)[-self.rng.randint(1, 20):]
                for old in again:
                    ns += 1 + int(self.rng.expovariate(1 / self.a.packet_ns))
                    self.emit(ns, qp, old)
            arrived[qp.dst] = ns
            if not qp.queue:
                busy.remove(qp)
        return ns, arrived

    def all_to_all(self, post, ready):
        """One all-to-all: every rank sends from its time in `ready`; returns when each may go on."""
        last = [0] * self.a.ranks
        for src in range(self.a.ranks):
            post(src)
            done, arrived = self.drain(src, ready[src])
            last[src] = max(last[src], done)
            for d, ns in arrived.items():
                last[d] = max(last[d], ns)
        return [t + 1000 + self.rng.randrange(20000) for t in last]

    def run(self):
        """Returns {(step, layer, pass, src, dst, expert): tokens}."""
        a, truth = self.a, collections.Counter()
        ready, turn = [1_700_000_000 * 10**9] * a.ranks, 0
        for step in range(a.steps):
            if step == a.restart_at:
                self.connect()
                ready, turn = [max(ready) + 10**9] * a.ranks, 0
            for _ in range(a.micro_batches):
                routes = [self.route(l) for l in range(a.layers)]
                for kind, layer in passes(a.pattern, a.layers):
                    loads, parity = routes[layer], turn % 2
                    for src in range(a.ranks):
                        for e in range(self.experts):
                            dst = e // a.experts_per_rank
                            if src == dst or not self.meet(src, dst):
                                truth[step, layer, kind, src, dst, e] += loads[src, e]
                    self.round += 1
                    ready = self.all_to_all(lambda s: self.post_dispatch(s, loads, parity), ready)
                    ready = self.all_to_all(lambda s: self.post_combine(s, loads, parity), ready)
                    turn += 1
                    pause = a.round_gap_us * 1000
                    ready = [max(ready) + pause] * a.ranks if pause else ready
        return truth

    def job(self):
        """What the job knows, as job.json of the real captures."""
        a = self.a
        return {"ranks": [{"rank": r, "ip": str(self.address[r]), "base": hex(self.base[r])}
                          for r in range(a.ranks)],
                "num_ranks": a.ranks, "experts_per_rank": a.experts_per_rank,
                "max_tokens_per_rank": a.tokens, "parity_stride": self.stride,
                "count_offset": self.counts, "dispatch_message": a.message,
                "combine_message": a.combine_message, "path_mtu": a.mtu}

    def flows(self):
        return [(qp.src, qp.dst, qp.qpn, qp.dst * self.a.experts_per_rank + i)
                for (_, _, i), qp in sorted(self.qps.items())]

    def sources(self, rules):
        """The same rules, and where in the place of a result its source is."""
        a, at = self.a, rules.index("  - name: combine")
        stride = a.experts_per_rank * a.tokens * a.combine_message
        at += 1 + rules[at:].index(next(r for r in rules[at:] if r.startswith("    size: ")))
        return rules[:at] + [f"    source: {{stride: {stride}, count: {a.ranks}}}"] + rules[at:]

    def map_lines(self):
        a = self.a
        lines = job2map.preamble(
            "generated", a.layers, a.experts_per_rank,
            [(r, [str(self.address[r])], self.base[r] if a.rule == "va" else None)
             for r in range(a.ranks)],
            pattern=a.pattern, micro_batches=a.micro_batches,
            idle_gap_us=a.round_gap_us // 4 if a.round_gap_us else None, atomic_form=a.atomic_form)
        if a.share > 1 and (a.told or a.rule == "length"):
            lines.append("flows:")
            lines += [f"  - {{src: {s}, dst: {d}, qpn: {q:#x}}}" for s, d, q, _ in self.flows()]
        if a.told:
            lines += ["rules:", "  - name: told", "    rule: payload-counts", "    phase: dispatch",
                      f"    length: {4 * a.experts_per_rank}", "    payload: {width: 4}"]
            return lines + job2map.low_latency_rules(
                a.ranks, a.experts_per_rank, a.tokens, a.message, a.combine_message,
                None if a.no_parity else self.stride, self.counts, False)[1:]
        if a.immediates:
            rules = job2map.low_latency_rules(
                a.ranks, a.experts_per_rank, a.tokens, a.message, a.combine_message,
                None if a.no_parity else self.stride, self.counts, not a.no_counts)
            for name, word in ("token", "with"), ("combine", "without"):
                rules.insert(rules.index(f"  - name: {name}") + 1, f"    immediate: {word}")
            return lines + [f"path-mtu: {a.mtu}"] + rules
        if a.rule == "va":
            rules = job2map.low_latency_rules(
                a.ranks, a.experts_per_rank, a.tokens, a.message, a.combine_message,
                None if a.no_parity else self.stride, self.counts, not a.no_counts,
                a.atomic.width if a.atomic else job2map.COUNT_WIDTH)
            return lines + (self.sources(rules) if a.share > 1 else rules)
        if a.rule == "qp":
            lines.append("flows:")
            lines += [f"  - {{src: {s}, dst: {d}, qpn: {q:#x}, expert: {e}}}"
                      for s, d, q, e in self.flows()]
            return lines + ["rules:",
                            "  - name: token", "    rule: qp", "    phase: dispatch",
                            f"    length: {a.message}", f"    token-bytes: {a.message}",
                            "  - name: combine", "    rule: length", "    phase: combine",
                            f"    length: {a.combine_message}"]
        return lines + ["rules:", "  - name: stream", "    rule: length", "    phase: dispatch",
                        f"    length: [1, {CHUNK}]",
                        "    expert: {fixed: 0}", f"    token-bytes: {a.message}"]


def options():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int)
    ap.add_argument("--ranks", type=int, default=2)
    ap.add_argument("--experts-per-rank", type=int, default=4)
    ap.add_argument("--tokens", type=int, default=16, help="a rank and round")
    ap.add_argument("--top-k", type=int, default=2)
    ap.add_argument("--layers", type=int, default=2)
    ap.add_argument("--steps", type=int, default=3)
    ap.add_argument("--micro-batches", type=int, default=1)
    ap.add_argument("--pattern", default="inference",
                    choices=("inference", "training", "training-recompute"))
    ap.add_argument("--rule", default="va", choices=("va", "qp", "length"))
    ap.add_argument("--qps", type=int, help="queue pairs a (src, dst); default: one an expert")
    ap.add_argument("--no-parity", action="store_true", help="one buffer for all rounds")
    ap.add_argument("--no-counts", action="store_true", help="no atomics")
    ap.add_argument("--told", action="store_true",
                    help="counts in payloads before the tokens; in place of atomics")
    ap.add_argument("--immediates", action="store_true",
                    help="tokens have an immediate, results none; nothing else need tell them")
    ap.add_argument("--share", type=int, default=1, help="ranks that share an address")
    ap.add_argument("--lie", type=int, default=-1,
                    help="with --told: a round in which a token is told and not sent")
    ap.add_argument("--atomic", type=Form, metavar="OPCODE,LENGTH,ADDRESS,OPERAND,WIDTH,ORDER",
                    help="atomics of another form than the standard one")
    ap.add_argument("--atomic-form", help="what the map says of it")
    ap.add_argument("--ipv6", action="store_true")
    ap.add_argument("--mtu", type=int, default=4096)
    ap.add_argument("--message", type=int, default=544)
    ap.add_argument("--combine-message", type=int, default=1040)
    ap.add_argument("--packet-ns", type=int, default=2000, help="mean distance of a rank's packets")
    ap.add_argument("--round-gap-us", type=int, default=0, help="silence between rounds")
    ap.add_argument("--retransmit", type=float, default=0.0, help="chance a packet to go back N")
    ap.add_argument("--restart-at", type=int, default=-1, help="step before which the job restarts")
    return ap


def generate(arguments):
    """Writes the files; returns the options, complete."""
    a = options().parse_args(arguments)
    if a.ranks % a.share:
        raise SystemExit("gen.py: --ranks is a multiple of --share")
    if a.qps is None:
        a.qps = a.experts_per_rank
    if a.rule == "length" and a.experts_per_rank != 1:
        raise SystemExit("gen.py: rule length needs --experts-per-rank 1")
    if a.rule == "qp" and a.qps != a.experts_per_rank:
        raise SystemExit("gen.py: rule qp needs a queue pair an expert")
    seed = random.randrange(1 << 32) if a.seed is None else a.seed
    traffic = Traffic(a, seed)
    truth = traffic.run()
    os.makedirs(a.out, exist_ok=True)
    packets = [roce.Packet(ns, data, wire) for ns, _, data, wire in sorted(traffic.packets)]
    roce.write_pcap(os.path.join(a.out, "capture.pcap.gz"), packets)
    with open(os.path.join(a.out, "map.yaml"), "w") as f:
        f.write("\n".join(traffic.map_lines()) + "\n")
    with open(os.path.join(a.out, "job.json"), "w") as f:
        json.dump(traffic.job(), f, indent=1)
    with open(os.path.join(a.out, "truth.csv"), "w") as f:
        f.write("step,layer,phase,src,dst,expert,tokens\n")
        for key in sorted(truth):
            f.write(",".join(map(str, key + (truth[key],))) + "\n")
    print(f"gen.py: seed {seed}, {len(packets)} frames, {len(traffic.qps)} flows, {a.out}")
    return a


if __name__ == "__main__":
    generate(None)
