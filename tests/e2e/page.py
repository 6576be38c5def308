# SPDX-License-Identifier: BSD-3-Clause
"""Reads a device page by the offsets that driver/moetap_page.h documents, apart from moetap's own code."""
import collections
import mmap
import os
import struct

MAGIC = 0x313045474150544D
VERSION = 6
STATE, STATS = 256, 384     # struct mt_page_state, struct mt_page_stats
PACKETS = STATS + 32 * 8
PAIR_BYTES = 24
INEXACT = (1 << 12) - 1     # MT_Q_INEXACT
RUNNING = 1                 # MT_STATE_RUNNING

# struct mt_round up to `experts`
ROUND = struct.Struct("<3Q2IQ2I5Q2I")
ROUND_BYTES = 160

Round = collections.namedtuple("Round", "round step layer boot_id quality tokens")


def path_of(name):
    return "/dev/shm/moetap-" + name


def exists(name):
    return os.path.exists(path_of(name))


class Page:
    def __init__(self, name):
        with open(path_of(name), "rb") as f:
            self.map = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
            self.inode = os.fstat(f.fileno()).st_ino
        magic, version = struct.unpack_from("<QI", self.map, 0)
        if magic != MAGIC or version != VERSION:
            raise ValueError(f"{name}: no page of version {VERSION}")
        self.slots, = struct.unpack_from("<I", self.map, 92)
        self.ring, self.slot_bytes = struct.unpack_from("<QQ", self.map, 112)

    def u64(self, offset):
        return struct.unpack_from("<Q", self.map, offset)[0]

    def u32(self, offset):
        return struct.unpack_from("<I", self.map, offset)[0]

    boot_id = property(lambda self: self.u64(STATE))
    head = property(lambda self: self.u64(STATE + 24))
    state = property(lambda self: self.u32(STATE + 32))
    pid = property(lambda self: self.u32(STATE + 36))
    packets = property(lambda self: self.u64(PACKETS))
    nic_drops = property(lambda self: self.u64(PACKETS + 16))

    def slot(self, n):
        """Bytes of the n-th round ever published; None when they are not there (any more)."""
        at = self.ring + n % self.slots * self.slot_bytes
        data = bytes(self.map[at:at + self.slot_bytes])
        return data if struct.unpack_from("<Q", data)[0] == n + 1 else None


def decode(data):
    """A Round of a slot; tokens: {(src, expert): tokens}."""
    (_, number, step, layer, _, boot_id, _, quality, _, _, _, _, _, ranks,
     experts) = ROUND.unpack_from(data)
    at = ROUND_BYTES + ranks * ranks * PAIR_BYTES + ranks * experts * 8
    cells = struct.unpack_from(f"<{ranks * experts}I", data, at)
    return Round(number, step, layer, boot_id, quality,
                 {divmod(i, experts): n for i, n in enumerate(cells)})
