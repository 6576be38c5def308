# SPDX-License-Identifier: BSD-3-Clause
"""Reads moetap's hint pages, and answers them; docs/hints.md has their layout.

    hints = moetap.Hints("my-job")
    ...
    if hints.changed:                      # in every step
        hint = hints.read()
        if hint.plan:
            place(hint.placement.copy())   # [layers][slots]
        if not hint.whole:                 # overwritten meanwhile: what was taken does not count
            ...

Arrays are views of the shared page: nothing is copied. The writer comes back to the same place
with the hint after next; so take what you need, and then ask `whole`, or use `read(copy=True)`.

Python cannot order its loads from memory. A hint is therefore checked by its checksum when it is
read, on arm64 as elsewhere. `whole` compares numbers only: on x86, whose loads stay in order, that
is enough; on arm64 use `read(copy=True)`, whose copy is what the checksum is made of.
"""
import fcntl
import mmap
import os
import struct
import time
import zlib

import numpy

__all__ = ["Hints", "Hint"]
KINDS = {2: "placement", 3: "share", 4: "low", 5: "high", 6: "split", 7: "bias", 8: "capacity"}
STATE = numpy.dtype([("stable", "<u4"), ("reserved", "<u4"), ("since", "<i8"), ("drift", "<f8"),
                     ("error", "<f8"), ("noise", "<f8")])
NETWORK = numpy.dtype([("busiest", "<f4"), ("mean", "<f4"), ("queue_pairs", "<u4"), ("traffic_class", "<i4")])
FIELDS = ("generation", "placement_generation", "publish_time_ns", "made_after_step", "valid_from_step",
          "horizon", "verdict", "stable", "quality", "rounds", "flagged", "gain", "balancedness_before",
          "balancedness_after", "moves", "layers", "experts", "slots", "ranks", "nodes", "groups",
          "kinds_offset", "kinds", "kind_bytes", "present", "known", "unseen_ppm", "expires_ns",
          "expires_step", "plan_generation", "plan_step")
FORMAT = "<QQQqqIIIIQQdddq6I6IQqQq"
F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
ACKS = 4


class Hint:
    """One hint: its fields by name, and an array a kind, None for what it does not carry."""

    def __init__(self, page, buffer, at, copied):
        self._page, self._at, self._copied = page, at, copied
        vars(self).update(zip(FIELDS, struct.unpack_from(FORMAT, buffer, 16)))
        self.method, self.reason = (bytes(buffer[a:b]).split(b"\0")[0].decode("utf-8", "replace")
                                    for a, b in ((200, 232), (232, 488)))
        self.state = self.network = None
        for name in KINDS.values():
            setattr(self, name, None)
        for i in range(self.kinds):
            kind, version, text, _, columns, offset = struct.unpack_from(
                "<II8sIII", buffer, self.kinds_offset + i * self.kind_bytes)
            if version != 1 or not self.present >> i & 1:
                continue
            if kind == 1:
                self.state = self._array(buffer, STATE, 1, offset)[:, 0]
            elif kind == 9:
                self.network = self._array(buffer, NETWORK, 1, offset)[:, 0]
            elif kind in KINDS:
                setattr(self, KINDS[kind], self._array(buffer, text.rstrip(b"\0").decode(), columns, offset))
        if self.split is not None:
            self.split = self.split.reshape(self.layers, self.nodes, self.slots)

    def _array(self, buffer, kind, columns, offset):
        array = numpy.frombuffer(buffer, kind, self.layers * columns, offset)
        array.flags.writeable = False
        return array.reshape(self.layers, columns)

    @property
    def plan(self):
        """Whether the hint says to move to its placement."""
        return self.verdict == 1

    @property
    def whole(self):
        """Whether views still show this hint: the writer has not come back to its place. Copies stay whole."""
        if self._copied:
            return True
        sequence, = struct.unpack_from("<Q", self._page, self._at)
        generation, = struct.unpack_from("<Q", self._page, self._at + 16)
        return sequence & 1 == 0 and generation == self.generation


class Hints:
    """The hint page NAME. With ack=True the job may answer; one process of a host does that.

    Raises FileNotFoundError (nobody published there), ValueError (no page of this version) and, with
    ack=True, BlockingIOError (another process answers) or PermissionError."""

    def __init__(self, name, ack=False):
        self._acks = self._file = None
        self.generation = 0     # of the hint read last
        if not name or "/" in name:
            raise ValueError(f"'{name}' cannot name a hint page")
        self._path = f"/dev/shm/moetap-hint-{name}"
        file = open(self._path, "r+b" if ack else "rb", buffering=0)
        try:
            self._map(file)
            if ack:
                self._open_acks(file)
        except BaseException:
            file.close()
            raise
        if not ack:
            file.close()

    def _map(self, file):
        size = os.fstat(file.fileno()).st_size
        if size < 192:
            raise ValueError(f"{self._path} is no hint page: cut short")
        self._page = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        magic, version, header, whole, _ = struct.unpack_from("<8sIIQQ", self._page, 0)
        if magic != b"MTHINT01" or version != 2 or header != 192 or whole != size:
            raise ValueError(f"{self._path} is no hint page of version 2")
        (self.layers, self.experts, self.slots, self.ranks, self.nodes, self.groups, self._bytes, *self._bank,
         self._ack_at, self._ack_bytes) = struct.unpack_from("<6I5Q", self._page, 32)
        self._record = (40 + 4 * self.slots + 63) & ~63

    def _open_acks(self, file):
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, self._ack_at, self._ack_bytes, 0)
        fcntl.fcntl(file.fileno(), F_OFD_SETLK, lock)
        self._acks = mmap.mmap(file.fileno(), self._ack_bytes, offset=self._ack_at)
        self._file = file   # holds the lock

    def close(self):
        """Gives up the right to answer. The page itself stays mapped as long as views of it live."""
        if self._file is not None:
            self._acks.close()
            self._file.close()
            self._acks = self._file = None

    def _newest(self):
        return struct.unpack_from("<Q", self._page, 128)[0]

    @property
    def retired(self):
        """The page was given up: make a new Hints."""
        return struct.unpack_from("<I", self._page, 136)[0] != 0

    @property
    def changed(self):
        """Whether there is a hint that was not read yet, or the page was given up."""
        return self._newest() != self.generation or self.retired

    def read(self, copy=False):
        """The newest hint; None before the first. Its arrays are views of the page, of a copy with copy=True.
        Raises LookupError when the page was given up, RuntimeError when it is damaged."""
        for _ in range(1000):
            newest = self._newest()
            if self.retired:
                raise LookupError(f"{self._path} was given up: open it again")
            if newest == 0:
                return None
            at = self._bank[newest & 1]
            bank = memoryview(self._page)[at:at + self._bytes]
            if copy:
                bank = memoryview(bytes(bank))
            sequence, crc, size, generation = struct.unpack_from("<QIIQ", bank, 0)
            if sequence & 1 or size != self._bytes or generation != newest or zlib.crc32(bank[16:size]) != crc:
                continue
            hint = Hint(self._page, bank, at, copy)
            if copy or (hint.generation == newest and hint.whole):
                self.generation = newest
                return hint
        raise RuntimeError(f"{self._path}: checksums do not match")

    def stale(self, hint, step, now_ns=None):
        """Why a hint should not be followed any more, a set: of "retired", "newer", "time", "step"."""
        why = set()
        if self.retired:
            why.add("retired")
        if self._newest() != hint.generation:
            why.add("newer")
        if hint.expires_ns and (time.time_ns() if now_ns is None else now_ns) > hint.expires_ns:
            why.add("time")
        if step > hint.expires_step:
            why.add("step")
        return why

    def ack(self, hint, step, layer=None):
        """Says that the placement of `hint` (None: the one that frameworks start with) holds from `step` on, in
        a layer or, with None, in all, in the steps that hints count."""
        if self._acks is None:
            raise PermissionError("opened without ack=True")
        if step < 0 or layer is not None and not 0 <= layer < self.layers:
            raise ValueError(f"no such step or layer: {step}, {layer}")
        if self.retired:
            raise LookupError(f"{self._path} was given up: open it again")
        if hint is not None and hint.placement is None:
            raise ValueError("the hint carries no placement")
        start = (numpy.arange(self.slots) % self.experts).astype("<u4")
        layers = range(self.layers) if layer is None else (layer,)
        rows = {l: (start if hint is None else hint.placement[l]).tobytes() for l in layers}
        if hint is not None and not hint.whole:
            raise LookupError("the hint was overwritten meanwhile: read it again")
        for l in layers:
            self._ack_layer(l, hint.placement_generation if hint is not None else 0, step, rows[l])
        count, = struct.unpack_from("<Q", self._acks, 0)
        struct.pack_into("<Q", self._acks, 0, count + len(layers))

    def _ack_layer(self, layer, generation, step, slots):
        at = 64 + layer * (64 + ACKS * self._record)
        number = struct.unpack_from("<Q", self._acks, at)[0] + 1
        body = struct.pack("<IQQqQ", self.slots, number, generation, step, time.time_ns()) + slots
        record = at + 64 + (number - 1) % ACKS * self._record
        # A reader that comes in between finds another checksum.
        self._acks[record:record + 4 + len(body)] = struct.pack("<I", zlib.crc32(body)) + body
        struct.pack_into("<Q", self._acks, at, number)
