# SPDX-License-Identifier: BSD-3-Clause
"""Traffic of made-up jobs that send their tokens as UDP datagrams: a header of 12 bytes (kind, three
bytes of nothing, layer, number of the round), then what it is for."""
import ipaddress
import struct

import roce

PORT, TOKEN, HEADER = 7000, 256, 12
DISPATCH, COMBINE, COUNTS, OTHER = 1, 2, 3, 4
EXPERTS = 2     # of each rank, where counts tell them


class Job:
    def __init__(self, rng, ranks, ipv6=False, vlan=False, vxlan=False, snap=65535):
        self.rng, self.ranks, self.vlan, self.vxlan, self.snap = rng, ranks, vlan, vxlan, snap
        prefix = "fd00:88::" if ipv6 else "10.88.0."
        self.address = [ipaddress.ip_address(f"{prefix}{r + 1}") for r in range(ranks)]
        self.packets, self.ns = [], 1_700_000_000 * 10**9

    def send(self, src, dst, data, ports=None):
        """A datagram in a frame, cut at the snap length."""
        a, b = self.address[src], self.address[dst]
        sport, dport = ports or (40000 + src, PORT)
        udp = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
        ip = (roce.ipv4_header(a, b, 20 + len(udp)) if a.version == 4 else roce.ipv6_header(a, b, len(udp)))
        mac = roce.mac_header(a, b, a.version)
        if self.vlan:
            mac = mac[:12] + b"\x81\x00\x00\x05" + mac[12:]
        frame = mac + ip + udp
        if self.vxlan:
            frame = roce.vxlan(frame, len(frame), *map(ipaddress.ip_address, ("192.0.2.1", "192.0.2.2")))
        self.ns += self.rng.randrange(1000, 5000)
        self.packets.append(roce.Packet(self.ns, frame[:self.snap], len(frame)))

    def all_to_all(self, messages):
        """Messages (src, dst, data) of all ranks, in any order but that of each rank."""
        ready = {}
        for src, dst, data in messages:
            ready.setdefault(src, []).append((src, dst, data))
        while ready:
            src = self.rng.choice(sorted(ready))
            self.send(*ready[src].pop(0))
            if not ready[src]:
                del ready[src]
            if self.rng.random() < 0.05:    # somebody else's
                self.send(0, 1, b"\1" * 40, ports=(53, 53))
            if self.rng.random() < 0.05:    # the job's, but of no use here
                self.send(0, 1, struct.pack("<BxxxII", OTHER, 0, 0))

    def run(self, steps, layers, counts):
        """Returns {(step, layer, src, dst, expert): tokens}."""
        truth = {}
        pairs = [(s, d) for s in range(self.ranks) for d in range(self.ranks) if s != d]
        for n in range(steps * layers):
            step, layer = divmod(n, layers)
            head = lambda kind: struct.pack("<BxxxII", kind, layer, n + 5)
            tokens, results = [], []
            for src, dst in pairs:
                loads = [self.rng.randrange(9) for _ in range(EXPERTS if counts else 1)]
                first = dst * len(loads)
                truth.update({(step, layer, src, dst, first + e): t for e, t in enumerate(loads)})
                if counts:
                    tokens.append((src, dst, head(COUNTS) + struct.pack(f"<{len(loads)}i", *loads)))
                left = sum(loads)
                while not counts and (left or not any(t[:2] == (src, dst) for t in tokens)):
                    part = min(left, self.rng.randint(1, 5))
                    tokens.append((src, dst, head(DISPATCH) + bytes(part * TOKEN)))
                    left -= part
                results.append((dst, src, head(COMBINE) + bytes(self.rng.randrange(1400))))
            self.all_to_all(tokens)
            self.all_to_all(results)
        return truth

    def map_text(self, layers, counts, by_round):
        lines = ["moetap-map: 1", "job: datagrams", "pattern: inference", f"layers: {layers}",
                 f"experts-per-rank: {EXPERTS if counts else 1}", f"udp: {{ports: {PORT}}}", "ranks:"]
        lines += [f'  - {{rank: {r}, address: "{a}"}}' for r, a in enumerate(self.address)]
        rules = [("count", "dispatch", COUNTS, "payload: {width: 4}")] if counts else [
            ("token", "dispatch", DISPATCH, f"expert: {{fixed: 0}}\n    token-bytes: {TOKEN}")]
        rules += [("result", "combine", COMBINE, None), ("other", "control", OTHER, None)]
        lines.append("rules:")
        for name, phase, kind, more in rules:
            lines += [f"  - name: {name}", "    rule: flow", f"    phase: {phase}", "    frame:",
                      f"      header: {HEADER}", f"      match: [{{at: 0, width: 1, value: {kind}}}]"]
            lines += ["      round: {at: 8, width: 4}"] if by_round and phase == "dispatch" else []
            lines += [f"    {more}"] if more else []
        return "\n".join(lines) + "\n"
