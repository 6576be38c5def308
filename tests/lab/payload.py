# SPDX-License-Identifier: BSD-3-Clause
"""Reads from a capture, without moetap, what layouts tell in their payloads: proves that the job puts on
the wire what its layout says, before any rule of moetap reads it."""
import collections
import ipaddress
import struct

import machines
import roce
from moetap import Failure

SENDS, WRITES = range(0x00, 0x06), range(0x06, 0x0C)
FIRSTS, ONLYS, LASTS = (0x00, 0x06), (0x04, 0x05, 0x0A, 0x0B), (0x02, 0x03, 0x08, 0x09)
ATOMICS = (0x13, 0x14)
WITH_IMM = (0x03, 0x05, 0x09, 0x0B)

Message = collections.namedtuple("Message", "at src dst qpn va length imm data")


def messages(path, addresses):
    """Every message once, in the order of its flow. addresses: {address: rank}."""
    flows = collections.defaultdict(dict)
    last = {}
    for at, p in enumerate(roce.read_pcap(path)):
        r = roce.parse(p.data)
        if r is None or (r.op not in SENDS and r.op not in WRITES):
            continue
        psn = roce.serial_near(r.psn, last.setdefault(r.flow, r.psn))
        last[r.flow] = max(psn, last[r.flow])
        start = r.bth + 12 + (16 if r.va is not None else 0)
        imm = None
        if r.op in WITH_IMM:
            imm = int.from_bytes(p.data[start:start + 4], "big")
            start += 4
        pad = (p.data[r.bth + 1] >> 4) & 3
        flows[r.flow].setdefault(psn, (at, r, imm, p.data[start:len(p.data) - 4 - pad]))
    out = []
    for (src, dst, qpn), packets in flows.items():
        begun = None
        for psn in sorted(packets):
            at, r, imm, data = packets[psn]
            if r.op in FIRSTS or r.op in ONLYS:
                begun = [at, r, b""]
            if begun is None:
                raise Failure(f"{path}: a message without its first packet")
            begun[2] += data
            if r.op in ONLYS or r.op in LASTS:
                length = begun[1].length if begun[1].length is not None else len(begun[2])
                if length != len(begun[2]):
                    raise Failure(f"{path}: {len(begun[2])} bytes of a message of {length}")
                out.append(Message(begun[0], addresses[src], addresses[dst], qpn, begun[1].va, length, imm, begun[2]))
                begun = None
    return out


def must_be_sound(path):
    """Under loss soft RoCE sometimes sends another packet with a PSN that it used: an empty WRITE in the place of the
    first packet of a message, and all after it one PSN on. That is no RoCE, and its messages cannot be told from
    others. Asked before moetap counts, and of the packets alone."""
    first = {}
    for p in roce.read_pcap(path):
        r = roce.parse(p.data)
        if r is None or not (r.op in SENDS or r.op in WRITES or r.op in ATOMICS):
            continue
        packet = r.op, r.va, r.length, r.payload
        if first.setdefault((r.flow, r.psn), packet) != packet:
            raise machines.GaveUp(f"soft RoCE sent two packets with PSN {r.psn} to QPN {r.qpn}: "
                                  f"{first[r.flow, r.psn]} and {packet}")


def int32(data):
    return struct.unpack(f"<{len(data) // 4}i", data)


def deepep_normal(job, sent):
    """({(src, expert): tokens} of the count vectors, the same of the lists of experts in the tokens)."""
    counted, listed = collections.Counter(), collections.Counter()
    gpus, nodes = job["gpus_per_node"], job["nodes"]
    per_node, size, length = gpus * job["experts_per_rank"], job["token"], job["counts_message"]
    base = {r["rank"]: r["base"] for r in job["ranks"]}
    ring = size * job["window"]
    for m in sent:
        to, node = m.dst // gpus, m.src // gpus
        if m.va is None:
            continue
        if m.length == length and m.va == base[m.dst] + length * (nodes + node):
            for i, n in enumerate(int32(m.data)[8:8 + per_node]):
                counted[m.src, to * per_node + i] += n
        o = m.va - base[m.dst] - ring * nodes * job["channels"]
        if m.length % size or not 0 <= o < ring * nodes * job["channels"] or o // ring % nodes != node:
            continue
        tokens = [m.data[i:i + size] for i in range(0, m.length, size)]
        lists = [int32(t[job["ids_at"]:job["ids_at"] + 4 * job["top_k"]]) for t in tokens]
        whole = all(int32(t[job["ids_at"] - 8:job["ids_at"]])[0] == node for t in tokens) and \
            all(-1 <= e < nodes * per_node for ids in lists for e in ids)
        if whole:       # else it is a combine or a cached dispatch, whose tokens are of other sizes
            listed.update((m.src, e) for ids in lists for e in ids if e >= 0 and e // per_node == to)
    return counted, listed


def pplx_garden(job, sent):
    counted, moved, told = collections.Counter(), collections.Counter(), collections.Counter()
    experts = job["experts_per_rank"]
    for m in sent:
        if m.imm == 0x00000080:
            mine = int32(m.data)[m.dst * experts:(m.dst + 1) * experts]
            counted.update({(m.src, m.dst * experts + i): n for i, n in enumerate(mine)})
            told[m.src, m.dst] += sum(mine)
        elif m.imm == 0x01000080:
            if m.length % job["token"]:
                raise Failure(f"{m.length} bytes are no tokens of {job['token']}")
            moved[m.src, m.dst] += m.length // job["token"]
    if +moved != +told:
        raise Failure(f"tokens told {dict(told)}, moved {dict(moved)}")
    return counted, counted


def hybrid_ep(job, sent):
    """Rows of weights, one or several in a message, where those of a forward pass lie."""
    counted = collections.Counter()
    row, gpus = job["row"], job["gpus_per_node"]
    base = {r["rank"]: r["base"] for r in job["ranks"]}
    for m in sent:
        if m.va is None or not 0 <= m.va - base[m.dst] - job["rows_at"] < job["rows_size"]:
            continue
        if m.length % row:
            raise Failure(f"{m.length} bytes are no rows of {row}")
        weights = struct.unpack(f"<{m.length // 4}f", m.data)
        first = m.dst // gpus * (row // 4)
        counted.update((m.src, first + i % (row // 4)) for i, w in enumerate(weights) if w)
    return counted, counted


READERS = {"deepep-normal": deepep_normal, "pplx-garden": pplx_garden, "hybrid-ep": hybrid_ep,
           "hybrid-ep-runs": hybrid_ep}


def check(job, path, truth, times):
    """Compares with the truth, whose every forward round is seen so many times: in counts, in tokens."""
    addresses = {ipaddress.ip_address(r["address"]): r["rank"] for r in job["ranks"]}
    wanted = collections.Counter()
    for k, n in truth.items():
        wanted[k.src, k.expert] += n
    if not +wanted:
        raise Failure("no token crossed the wire")
    got = READERS[job["layout"]](job, messages(path, addresses))
    for what, counts, factor in zip(("counts", "tokens"), got, times):
        right = {k: n * factor for k, n in wanted.items() if n}
        if right != +counts:
            wrong = [(k, right.get(k), counts.get(k)) for k in sorted(right.keys() | counts.keys())
                     if right.get(k, 0) != counts.get(k, 0)]
            raise Failure(f"{what} in the payloads differ from the truth (cell, truth, payload): {wrong[:8]}")
