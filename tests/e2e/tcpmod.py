# SPDX-License-Identifier: BSD-3-Clause
"""Changes of captures of TCP traffic that leave what the job sent as it is."""
import struct

from pcapmod import copy

ETHERNET = 14
SYN = 2


class Segment:
    """A frame with TCP over IPv4, in parts."""

    def __init__(self, packet):
        data = bytes(packet.data)
        tcp = ETHERNET + (data[ETHERNET] & 15) * 4
        total, = struct.unpack_from(">H", data, ETHERNET + 2)
        payload = tcp + (data[tcp + 12] >> 4) * 4
        self.packet, self.head = packet, data[:tcp]
        self.tcp, self.payload = bytearray(data[tcp:payload]), data[payload:ETHERNET + total]
        self.seq, = struct.unpack_from(">I", self.tcp, 4)
        self.syn = bool(self.tcp[13] & SYN)
        self.way = data[26:34] + bytes(self.tcp[:4])

    def made(self, seq=None, payload=None):
        """The frame with another sequence number or payload."""
        payload = self.payload if payload is None else payload
        tcp, head = bytearray(self.tcp), bytearray(self.head)
        struct.pack_into(">I", tcp, 4, (self.seq if seq is None else seq) & 0xffffffff)
        struct.pack_into(">H", head, ETHERNET + 2, len(head) - ETHERNET + len(tcp) + len(payload))
        data = bytes(head) + bytes(tcp) + payload
        return copy(self.packet, data, len(data))


def split(packets, rng, most):
    """Segments of 1 to `most` bytes, as a wire has them."""
    out = []
    for s in map(Segment, packets):
        at = 0
        while True:
            n = rng.randint(1, most)
            out.append(s.made(s.seq + at, s.payload[at:at + n]))
            at += n
            if at >= len(s.payload):
                break
    return out


def repeat(packets, rng):
    """Some segments again, together with parts of the one before."""
    out, before = [], {}
    for packet in packets:
        s = Segment(packet)
        out.append(packet)
        if s.payload and rng.random() < 0.3:
            last = before.get(s.way, b"")
            n = rng.randint(0, max(0, min(len(last), 60000 - len(s.payload))))
            out.append(s.made(s.seq - n, last[len(last) - n:] + s.payload))
        before[s.way] = s.payload
    return out


def wrap(packets, rng):
    """Sequence numbers of all directions wrap inside of their stream."""
    shift, out = {}, []
    for s in map(Segment, packets):
        if s.syn:
            shift.setdefault(s.way, 2**32 - rng.randint(1, 20000) - s.seq)
        out.append(s.made(s.seq + shift.get(s.way, 0)))
    return out


def swap(packets, rng):
    """Neighbours of the same direction, both with data, in the other order."""
    out = list(packets)
    for i in range(len(out) - 1):
        a, b = Segment(out[i]), Segment(out[i + 1])
        if a.way == b.way and a.payload and b.payload and rng.random() < 0.5:
            out[i], out[i + 1] = out[i + 1], out[i]
    return out


def ipv6(packets, rng):
    """IPv6, addresses fd00::(IPv4)."""
    out = []
    for s in map(Segment, packets):
        data = bytes(s.tcp) + s.payload
        head = struct.pack(">IHBB", 6 << 28, len(data), 6, 64)
        for at in (26, 30):
            head += b"\xfd" + bytes(11) + s.head[at:at + 4]
        frame = s.head[:12] + b"\x86\xdd" + head + data
        out.append(copy(s.packet, frame, len(frame)))
    return out
