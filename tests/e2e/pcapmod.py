#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Variants of a capture: each changes one thing that a tap, a switch or a network may change.

usage: pcapmod.py [--seed N] IN.pcap[.gz] OUT.pcap[.gz] CHANGE[=ARGUMENT] ...
Changes are applied from left to right; `pcapmod.py --list` names them. The seed is printed.
"""
import argparse
import ipaddress
import random
import re
import sys

import roce

CHANGES = {}


def change(function):
    CHANGES[function.__name__.replace("_", "-")] = function
    return function


def copy(packet, data=None, wire=None, ns=None):
    data = packet.data if data is None else data
    return roce.Packet(packet.ns if ns is None else ns, data,
                       packet.wire + len(data) - len(packet.data) if wire is None else wire)


def parsed(packets):
    return [(p, roce.parse(p.data)) for p in packets]


def is_request(r):
    return r is not None and r.op < 0x20 and r.op not in roce.RESPONSES


def by_flow(packets):
    """flow → indices of its request packets, in order of arrival."""
    flows = {}
    for i, p in enumerate(packets):
        r = roce.parse(p.data)
        if is_request(r):
            flows.setdefault(r.flow, []).append(i)
    return flows


def ipv6_of(address):
    """fd00:77::/64 with the IPv4 address in the last four bytes, as map_to_ipv6 writes it."""
    return ipaddress.IPv6Address((0xFD000077 << 96) | int(address))


# ---- what a tap leaves out -----------------------------------------------------------------------

@change
def heads(packets, rng, argument):
    """Drop MIDDLE, LAST, ACK and ATOMIC ACK: what is left carries RETH, ImmDt or AtomicETH."""
    gone = (roce.WRITE_MIDDLE, roce.WRITE_LAST, roce.ACK, roce.ATOMIC_ACK)
    return [p for p, r in parsed(packets) if r is None or r.op not in gone]


@change
def snap(packets, rng, argument):
    """Cut every frame to ARGUMENT bytes; the length on the wire stays."""
    return [copy(p, p.data[:int(argument)], p.wire) for p in packets]


@change
def truncate(packets, rng, argument):
    """Cut a fraction ARGUMENT of the frames at a random byte."""
    return [copy(p, p.data[:rng.randrange(len(p.data) + 1)], p.wire)
            if rng.random() < float(argument) else p for p in packets]


@change
def remove(packets, rng, argument):
    """Remove a fraction ARGUMENT of the frames."""
    return [p for p in packets if rng.random() >= float(argument)]


@change
def remove_inside(packets, rng, argument):
    """As remove, but the first and the last request of every flow stay: where nothing announces
    counts, no observer can miss those."""
    keep = {i for indices in by_flow(packets).values() for i in (indices[0], indices[-1])}
    return [p for i, p in enumerate(packets) if i in keep or rng.random() >= float(argument)]


@change
def remove_one(packets, rng, argument):
    """Remove one request: the ARGUMENT-th FIRST/ONLY, or (a word) the middle one of that kind:
    `token`, `last`, `atomic`."""
    kinds = {"token": (roce.WRITE_ONLY,), "last": (roce.WRITE_LAST,), "atomic": roce.WITH_ATOMICETH}
    at = [i for i, (_, r) in enumerate(parsed(packets))
          if r is not None and r.op in kinds.get(argument, roce.WITH_RETH)]
    victim = at[len(at) // 2 if argument in kinds else int(argument)]
    return packets[:victim] + packets[victim + 1:]


@change
def remove_first(packets, rng, argument):
    """Remove the first ARGUMENT requests of the capture."""
    at = [i for i, (_, r) in enumerate(parsed(packets)) if is_request(r)][:int(argument)]
    return [p for i, p in enumerate(packets) if i not in set(at)]


@change
def remove_last(packets, rng, argument):
    """Remove the last ARGUMENT requests of the capture."""
    at = [i for i, (_, r) in enumerate(parsed(packets)) if is_request(r)][-int(argument):]
    return [p for i, p in enumerate(packets) if i not in set(at)]


@change
def remove_round(packets, rng, argument):
    """Remove everything that one flow sent between its ARGUMENT-th count and the next one (with it)."""
    flows = by_flow(packets)
    flow = sorted(flows, key=lambda f: (-len(flows[f]), str(f)))[0]
    seen, gone, done = 0, set(), set()
    for i in flows[flow]:
        r = roce.parse(packets[i].data)
        if seen == int(argument):
            gone.add(i)
        if r.op in roce.WITH_ATOMICETH and r.psn not in done:
            done.add(r.psn)
            seen += 1
    return [p for i, p in enumerate(packets) if i not in gone]


@change
def remove_burst(packets, rng, argument):
    """Remove ARGUMENT frames in a row, from a random place."""
    at, n = rng.randrange(max(1, len(packets) - int(argument))), int(argument)
    return packets[:at] + packets[at + n:]


@change
def only_first_fraction(packets, rng, argument):
    """Keep the first fraction ARGUMENT of the frames: the tap ended in mid-air."""
    return packets[:int(len(packets) * float(argument))]


# ---- what wraps a packet -------------------------------------------------------------------------

@change
def ipv6(packets, rng, argument):
    """IPv4 → IPv6 (ipv6_of); frames that are not RoCE stay."""
    out = []
    for p, r in parsed(packets):
        if r is None or r.version != 4:
            out.append(p)
            continue
        total = int.from_bytes(p.data[r.l3 + 2:r.l3 + 4], "big")
        head = roce.ipv6_header(ipv6_of(r.src), ipv6_of(r.dst), total - (r.l4 - r.l3))
        out.append(copy(p, p.data[:r.l3 - 2] + b"\x86\xdd" + head + p.data[r.l4:]))
    return out


@change
def vlan(packets, rng, argument):
    """One 802.1Q tag, VLAN 77."""
    return [copy(p, p.data[:12] + b"\x81\x00\x60\x4d" + p.data[12:]) for p in packets]


@change
def qinq(packets, rng, argument):
    """Two tags, 802.1ad outside and 802.1Q inside."""
    return [copy(p, p.data[:12] + b"\x88\xa8\x00\x05\x81\x00\x60\x4d" + p.data[12:]) for p in packets]


@change
def ipv4_options(packets, rng, argument):
    """IPv4 options: router alert and padding, 4 to 40 bytes, a new size each frame."""
    out = []
    for p, r in parsed(packets):
        if r is None or r.version != 4:
            out.append(p)
            continue
        options = (b"\x94\x04\x00\x00" + bytes([1] * 36))[:4 * rng.randint(1, 10)]
        total = int.from_bytes(p.data[r.l3 + 2:r.l3 + 4], "big") + len(options)
        head = roce.ipv4_header(r.src, r.dst, total, options=options, tos=p.data[r.l3 + 1])
        out.append(copy(p, p.data[:r.l3] + head + p.data[r.l4:]))
    return out


@change
def vxlan(packets, rng, argument):
    """Into a VXLAN, between two hosts of IPv4, or (6) of IPv6."""
    hosts = ("2001:db8::1", "2001:db8::2") if argument == "6" else ("192.0.2.1", "192.0.2.2")
    hosts = [ipaddress.ip_address(h) for h in hosts]
    return [copy(p, roce.vxlan(p.data, p.wire, *hosts)) for p in packets]


# ---- what a switch does --------------------------------------------------------------------------

def marked(packet, r):
    """With "congestion experienced" in its IP header: RFC 3168."""
    data = bytearray(packet.data)
    if r.version == 6:
        data[r.l3 + 1] |= 0x30
    else:
        data[r.l3 + 1] |= 3
        data[r.l3 + 10:r.l3 + 12] = b"\0\0"
        data[r.l3 + 10:r.l3 + 12] = roce.ipv4_checksum(data[r.l3:r.l4]).to_bytes(2, "big")
    return copy(packet, bytes(data))


@change
def congestion(packets, rng, argument):
    """A fraction ARGUMENT of all packets met congestion, and for half of those a notification goes
    back."""
    out = []
    for p, r in parsed(packets):
        if r is None or rng.random() >= float(argument):
            out.append(p)
            continue
        out.append(marked(p, r))
        if rng.random() < 0.5:
            data, wire = roce.frame(r.dst, r.src, 49152, roce.bth(roce.CNP, r.qpn, 0), 16, 1 << 16)
            out.append(roce.Packet(p.ns, data, wire))
    return out


@change
def source_ports(packets, rng, argument):
    """All queue pairs share ARGUMENT UDP source ports."""
    for p, r in parsed(packets):
        if r is None:
            yield p
            continue
        data = bytearray(p.data)
        data[r.l4:r.l4 + 2] = (49152 + r.qpn % int(argument)).to_bytes(2, "big")
        data[r.l4 + 6:r.l4 + 8] = b"\0\0"
        yield copy(p, bytes(data))


# ---- what a transport does -----------------------------------------------------------------------

def with_psn(packet, r, psn):
    at = r.bth + 9
    return copy(packet, packet.data[:at] + (psn & roce.PSN_MASK).to_bytes(3, "big") + packet.data[at + 3:])


def answers_of(packets, flows):
    """answer flow (back to the requester) → request flow, paired by the PSNs that both show."""
    answers = {}
    for i, p in enumerate(packets):
        r = roce.parse(p.data)
        if r is not None and r.op in roce.RESPONSES:
            answers.setdefault(r.flow, []).append(i)
    pairs = {}
    for flow, indices in answers.items():
        psns = {roce.parse(packets[i].data).psn for i in indices}
        fits = []
        for other in flows:
            if other[:2] == (flow[1], flow[0]):
                seen = {roce.parse(packets[i].data).psn for i in flows[other]}
                # equal ranges are common; there the queue pair of the nearest number is the partner
                fits.append((-len(psns & seen), abs(other[2] - flow[2]), other[2], other))
        if fits:
            pairs[flow] = min(fits)[3]
    return pairs


@change
def psn_wrap(packets, rng, argument):
    """Shift the PSNs of every flow so that they wrap in its middle; answers shift with their requests."""
    flows = by_flow(packets)
    shift = {}
    for flow, indices in flows.items():
        middle = roce.parse(packets[indices[len(indices) // 2]].data).psn
        shift[flow] = (1 << 24) - middle
    pairs = answers_of(packets, flows)
    out = []
    for p, r in parsed(packets):
        if is_request(r):
            p = with_psn(p, r, r.psn + shift[r.flow])
        elif r is not None and r.flow in pairs:
            p = with_psn(p, r, r.psn + shift[pairs[r.flow]])
        out.append(p)
    return out


@change
def new_queue_pairs(packets, rng, argument):
    """ARGUMENT is added to every QPN, and PSNs begin elsewhere: the job was started again."""
    out, shift = [], {}
    for p, r in parsed(packets):
        if r is not None:
            start = shift.setdefault((min(r.src, r.dst), max(r.src, r.dst)), rng.randrange(1 << 24))
            at = r.bth + 5
            qpn = int.from_bytes(p.data[at:at + 3], "big") + int(argument)
            p = with_psn(copy(p, p.data[:at] + qpn.to_bytes(3, "big") + p.data[at + 3:]), r,
                         r.psn + start)
        out.append(p)
    return out


@change
def reorder_flow(packets, rng, argument):
    """In every flow of requests, a packet may overtake at most ARGUMENT - 1 others."""
    out = list(packets)
    for indices in by_flow(packets).values():
        keys = [(n + rng.randrange(int(argument)), n) for n in range(len(indices))]
        for place, (_, n) in zip(indices, sorted(keys)):
            out[place] = copy(packets[indices[n]], ns=packets[place].ns)
    return out


@change
def reorder(packets, rng, argument):
    """As reorder-flow, over all frames."""
    keys = sorted((n + rng.randrange(int(argument)), n) for n in range(len(packets)))
    return [copy(packets[n], ns=packets[place].ns) for place, (_, n) in enumerate(keys)]


@change
def duplicate(packets, rng, argument):
    """Go back N: after a fraction ARGUMENT of the requests their flow repeats its last 1 to 40 requests,
    whole messages (from a FIRST or ONLY on)."""
    after = {}
    for indices in by_flow(packets).values():
        starts = [n for n, i in enumerate(indices)
                  if roce.parse(packets[i].data).op not in (roce.WRITE_MIDDLE, roce.WRITE_LAST)]
        for n in range(len(indices)):
            back = [s for s in starts if n - 40 < s <= n]
            if back and rng.random() < float(argument):
                after[indices[n]] = indices[rng.choice(back):n + 1]
    out = []
    for i, p in enumerate(packets):
        out.append(p)
        out += [copy(packets[k], ns=p.ns) for k in after.get(i, ())]
    return out


@change
def noise(packets, rng, argument):
    """Overwrite 1 to 8 random bytes in a fraction ARGUMENT of the frames."""
    out = []
    for p in packets:
        if rng.random() < float(argument) and p.data:
            data = bytearray(p.data)
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            p = copy(p, bytes(data))
        out.append(p)
    return out


@change
def garbage(packets, rng, argument):
    """Replace every frame by random bytes of a random length; half keep their Ethernet and IP headers."""
    out = []
    for p in packets:
        keep = p.data[:42] if rng.random() < 0.5 else b""
        data = keep + rng.randbytes(rng.randrange(200))
        out.append(copy(p, data or b"\0", max(1, len(data))))
    return out


def map_to_ipv6(source, target):
    """The map of a capture for its `ipv6` variant; returns target."""
    with open(source) as f:
        text = re.sub(r"address: (\d+\.\d+\.\d+\.\d+)",
                      lambda m: f'address: "{ipv6_of(ipaddress.ip_address(m[1]))}"', f.read())
    with open(target, "w") as f:
        f.write(text)
    return target


def apply(packets, changes, seed):
    """changes: list of texts NAME or NAME=ARGUMENT. Deterministic by seed."""
    rng = random.Random(seed)
    for text in changes:
        name, _, argument = text.partition("=")
        packets = CHANGES[name](packets, rng, argument)
    return packets


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--seed", type=int)
    ap.add_argument("source", nargs="?")
    ap.add_argument("target", nargs="?")
    ap.add_argument("changes", nargs="*")
    a = ap.parse_args()
    if a.list or not a.target:
        for name, function in CHANGES.items():
            print(f"{name:20} {' '.join(function.__doc__.split())}")
        sys.exit(0 if a.list else 2)
    seed = random.randrange(1 << 32) if a.seed is None else a.seed
    before = roce.read_pcap(a.source)
    after = apply(before, a.changes, seed)
    roce.write_pcap(a.target, after)
    print(f"seed {seed}: {len(before)} frames in, {len(after)} out")


if __name__ == "__main__":
    main()
