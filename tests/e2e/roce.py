# SPDX-License-Identifier: BSD-3-Clause
"""Frames and captures for the end-to-end tests: read, take apart, put together, write.

Plain and slow on purpose: this code shares nothing with moetap, so that both can only agree by being right.
Sizes and opcodes: docs of the InfiniBand trade association as told by Linux' rxe_hdr.h and ib_pack.h.
"""
import gzip
import ipaddress
import struct

ROCE_PORT, VXLAN_PORT = 4791, 4789

WRITE_FIRST, WRITE_MIDDLE, WRITE_LAST, WRITE_ONLY = 0x06, 0x07, 0x08, 0x0A
WRITE_LAST_IMM, WRITE_ONLY_IMM = 0x09, 0x0B
READ_RESPONSES = (0x0D, 0x0E, 0x0F, 0x10)
ACK, ATOMIC_ACK, COMPARE_SWAP, FETCH_ADD = 0x11, 0x12, 0x13, 0x14
RESPONSES = READ_RESPONSES + (ACK, ATOMIC_ACK)
WITH_RETH = (WRITE_FIRST, WRITE_ONLY, WRITE_ONLY_IMM, 0x0C)
WITH_ATOMICETH = (COMPARE_SWAP, FETCH_ADD)
CNP = 0x81
PSN_MASK = 0xFFFFFF


class Packet:
    """One captured frame: time in ns, the bytes that were captured, the length it had on the wire."""
    __slots__ = ("ns", "data", "wire")

    def __init__(self, ns, data, wire=None):
        self.ns, self.data, self.wire = ns, data, len(data) if wire is None else wire


class Roce:
    """Where the parts of a RoCEv2 frame lie, and what its BTH says. Addresses are ipaddress objects."""
    __slots__ = ("l3", "l4", "bth", "version", "tos", "src", "dst", "op", "qpn", "psn", "va", "length",
                 "add", "payload", "port")

    @property
    def flow(self):
        return (self.src, self.dst, self.qpn)


def read_pcap(path):
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as f:
        raw = f.read()
    magic = raw[:4]
    order = "<" if magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    unit = 1 if magic in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1000
    if struct.unpack(order + "I", magic)[0] not in (0xA1B2C3D4, 0xA1B23C4D):
        raise ValueError(f"{path}: no pcap file")
    packets, at = [], 24
    while at + 16 <= len(raw):
        sec, frac, captured, wire = struct.unpack_from(order + "IIII", raw, at)
        at += 16
        packets.append(Packet(sec * 10**9 + frac * unit, raw[at:at + captured], wire))
        at += captured
    return packets


def write_pcap(path, packets):
    """Nanosecond resolution, so that a rewritten capture keeps the order of packets of one microsecond."""
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)]
    for p in packets:
        parts.append(struct.pack("<IIII", p.ns // 10**9, p.ns % 10**9, len(p.data), p.wire))
        parts.append(p.data)
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "wb") as f:
        f.write(b"".join(parts))


def parse(data, inside=False):
    """The Roce of a frame, or None where it is no RoCEv2 frame or lacks its BTH. Of one in a VXLAN, the
    parts lie in that."""
    at = 12
    while len(data) >= at + 4 and data[at:at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    if len(data) < at + 2:
        return None
    kind, r = data[at:at + 2], Roce()
    r.l3 = at + 2
    if kind == b"\x08\x00" and len(data) >= r.l3 + 20:
        r.version, proto, r.tos = 4, data[r.l3 + 9], data[r.l3 + 1]
        r.l4 = r.l3 + 4 * (data[r.l3] & 15)
        r.src = ipaddress.ip_address(data[r.l3 + 12:r.l3 + 16])
        r.dst = ipaddress.ip_address(data[r.l3 + 16:r.l3 + 20])
        ip_end = r.l3 + int.from_bytes(data[r.l3 + 2:r.l3 + 4], "big")
    elif kind == b"\x86\xdd" and len(data) >= r.l3 + 40:
        r.version, proto = 6, data[r.l3 + 6]
        r.tos = int.from_bytes(data[r.l3:r.l3 + 2], "big") >> 4 & 0xFF
        r.l4 = r.l3 + 40
        r.src = ipaddress.ip_address(data[r.l3 + 8:r.l3 + 24])
        r.dst = ipaddress.ip_address(data[r.l3 + 24:r.l3 + 40])
        ip_end = r.l4 + int.from_bytes(data[r.l3 + 4:r.l3 + 6], "big")
    else:
        return None
    r.bth = r.l4 + 8
    if proto != 17 or len(data) < r.bth + 12:
        return None
    port = int.from_bytes(data[r.l4 + 2:r.l4 + 4], "big")
    if port == VXLAN_PORT and not inside:
        inner = parse(data[r.l4 + 16:], True)
        for part in ("l3", "l4", "bth") if inner else ():
            setattr(inner, part, getattr(inner, part) + r.l4 + 16)
        return inner
    if port != ROCE_PORT:
        return None
    b = data[r.bth:]
    r.port = int.from_bytes(data[r.l4:r.l4 + 2], "big")
    r.op, r.qpn, r.psn = b[0], int.from_bytes(b[5:8], "big"), int.from_bytes(b[9:12], "big")
    r.va = r.length = r.add = None
    extension = 0
    if r.op in WITH_RETH and len(b) >= 28:
        r.va, _, r.length = struct.unpack_from(">QII", b, 12)
        extension = 16
    elif r.op in WITH_ATOMICETH and len(b) >= 40:
        r.va, _, r.add, _ = struct.unpack_from(">QIQQ", b, 12)
        r.add -= (r.add >> 63) << 64
        extension = 28
    extension += 4 if r.op in (WRITE_LAST_IMM, WRITE_ONLY_IMM) else 0
    r.payload = ip_end - r.bth - 12 - extension - ((b[1] >> 4) & 3) - 4
    return r


def serial_near(psn, last):
    """The unwrapped PSN nearest to `last` (24-bit serial arithmetic)."""
    delta = (psn - last) & PSN_MASK
    return last + (delta - (1 << 24) if delta & 0x800000 else delta)


def ipv4_checksum(header):
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_header(src, dst, length, proto=17, options=b"", tos=0):
    head = struct.pack(">BBHHHBBH4s4s", 0x40 | (20 + len(options)) // 4, tos, length, 0, 0x4000, 64,
                       proto, 0, src.packed, dst.packed) + options
    return head[:10] + struct.pack(">H", ipv4_checksum(head)) + head[12:]


def ipv6_header(src, dst, payload, proto=17):
    return struct.pack(">IHBB16s16s", 6 << 28, payload, proto, 64, src.packed, dst.packed)


def bth(op, qpn, psn, ack_request=False, pad=0):
    return struct.pack(">BBHBBHI", op, pad << 4, 0xFFFF, 0, qpn >> 16, qpn & 0xFFFF,
                       (0x80000000 if ack_request else 0) | (psn & PSN_MASK))


def mac_header(src, dst, version):
    return (b"\x02\x00" + dst.packed[-4:] + b"\x02\x00" + src.packed[-4:] +
            (b"\x08\x00" if version == 4 else b"\x86\xdd"))


def vxlan(data, wire, src, dst, vni=77):
    """`data`, of `wire` bytes where it was sent, in a VXLAN between two hosts: RFC 7348."""
    size = 8 + 8 + wire
    ip = ipv4_header(src, dst, 20 + size) if src.version == 4 else ipv6_header(src, dst, size)
    return (mac_header(src, dst, src.version) + ip + struct.pack(">HHHH", 50000, VXLAN_PORT, size, 0) +
            struct.pack(">II", 0x08000000, vni << 8) + data)


def frame(src, dst, sport, ib_headers, payload, snap, options=b""):
    """A RoCEv2 frame cut to `snap` bytes; `payload` is its size (with pad) only, the bytes are zero."""
    ib = len(ib_headers) + payload + 4
    udp = struct.pack(">HHHH", sport, ROCE_PORT, 8 + ib, 0)
    mac = mac_header(src, dst, src.version)
    if src.version == 4:
        size = 20 + len(options) + 8 + ib
        head = mac + ipv4_header(src, dst, size, options=options)
    else:
        size = 40 + 8 + ib
        head = mac + ipv6_header(src, dst, 8 + ib)
    data = head + udp + ib_headers
    wire = 14 + size
    data += bytes(max(0, min(snap, wire) - len(data)))
    return data[:snap], wire
