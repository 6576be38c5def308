# SPDX-License-Identifier: BSD-3-Clause
"""Reads a device page by the offsets that driver/moetap_page.h documents, apart from moetap's own code."""
import collections
import mmap
import os
import struct

MAGIC = 0x313045474150544D
HEAD_OFFSET, STATE_OFFSET, STATS_OFFSET = 256 + 24, 256 + 32, 384
PACKETS_OFFSET = STATS_OFFSET + 24 * 8
ROUND = struct.Struct("<4Q2IQ2I5Q2I")   # to `experts`
ROUND_BYTES, PAIR_BYTES = 152, 24

Round = collections.namedtuple("Round", "seq round step layer phase quality boot_id tokens")


def path_of(name):
    return "/dev/shm/moetap-" + name


class Page:
    def __init__(self, name):
        with open(path_of(name), "rb") as f:
            self.map = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        magic, self.version = struct.unpack_from("<QI", self.map, 0)
        if magic != MAGIC:
            raise ValueError(f"{name}: no page")
        self.slots, = struct.unpack_from("<I", self.map, 92)
        self.ring, self.slot_bytes = struct.unpack_from("<QQ", self.map, 112)

    def u64(self, offset):
        return struct.unpack_from("<Q", self.map, offset)[0]

    @property
    def head(self):
        return self.u64(HEAD_OFFSET)

    @property
    def boot_id(self):
        return self.u64(256)

    @property
    def state(self):
        return struct.unpack_from("<I", self.map, STATE_OFFSET)[0]

    @property
    def packets(self):
        return self.u64(PACKETS_OFFSET)

    @property
    def nic_drops(self):
        return self.u64(PACKETS_OFFSET + 16)

    def slot(self, n):
        """Bytes of the n-th round ever published, None when it was overwritten."""
        at = self.ring + n % self.slots * self.slot_bytes
        data = bytes(self.map[at:at + self.slot_bytes])
        return data if struct.unpack_from("<Q", data)[0] == n + 1 else None


def exists(name):
    return os.path.exists(path_of(name))
