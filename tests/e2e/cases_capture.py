# SPDX-License-Identifier: BSD-3-Clause
"""Cases on capture files: variants of the real captures, and generated traffic."""
import collections
import itertools
import json
import math
import os
import random
import re
import tempfile

import gen
import moetap
import pcapmod
import roce
import tcpmod
import udpmod
from moetap import CAPTURES, DATA, Failure

SEEDS = 20                                                # of the slow suite
SOME = 12                                                 # of cases on the smallest captures
RANDOM = re.compile(r"reorder|duplicate|congestion|remove=|remove-burst|truncate")

# What must leave every count exact: case name → (changes, options of `moetap count`).
EXACT = {
    "plain": ([], []),
    "heads": (["heads"], ["--tap", "heads"]),
    "snap128": (["snap=128"], []),
    "ipv6": (["ipv6"], []),
    "vlan": (["vlan"], []),
    "qinq": (["qinq"], []),
    "ipv4-options": (["ipv4-options"], []),
    "vxlan": (["vxlan"], []),
    "vxlan-tagged-ipv6": (["ipv6", "qinq", "vxlan=6", "vlan"], []),
    "congestion": (["congestion=0.2"], []),
    "congestion-in-vxlan": (["congestion=0.2", "vxlan"], []),
    "psn-wrap": (["psn-wrap"], []),
    "psn-wrap-heads": (["psn-wrap", "heads"], ["--tap", "heads"]),
    "reorder-flow-16": (["reorder-flow=16"], []),
    "reorder-flow-128": (["reorder-flow=128"], []),
    "reorder-128": (["reorder=128"], []),
    "reorder-heads": (["heads", "reorder=64"], ["--tap", "heads"]),
    "duplicate": (["duplicate=0.05"], []),
    "duplicate-heads": (["duplicate=0.05", "heads"], ["--tap", "heads"]),
    "everything": (["ipv6", "qinq", "psn-wrap", "duplicate=0.02", "reorder=32", "snap=128"], []),
}

# What may cost counts, but never in silence.
LOSSY = {
    "remove-one-token": (["remove-one=token"], []),
    "remove-one-last": (["remove-one=last"], []),
    "remove-one-atomic": (["remove-one=atomic"], []),
    "remove-1-percent": (["remove=0.01"], []),
    "remove-5-percent": (["remove=0.05"], []),
    "remove-1-percent-heads": (["heads", "remove=0.01"], ["--tap", "heads"]),
    "remove-round": (["remove-round=1"], []),
    "remove-round-heads": (["remove-round=2", "heads"], ["--tap", "heads"]),
    "remove-burst": (["remove-burst=60"], []),
    "remove-first": (["remove-first=5"], []),
    "remove-last": (["remove-last=20"], []),
    "truncate": (["truncate=0.02"], []),
    "remove-and-reorder": (["remove=0.01", "reorder=64"], []),
}

# The same, with many seeds, on small captures: packets come more than a round too late while others are lost. Where
# nothing announces counts (rxe-lists), they are repeats of packets that the tap missed.
LATE = {
    "rxe-2ranks": (["reorder-flow=20", "remove-inside=0.03"], ["reorder-flow=4", "remove=0.02"]),
    "rxe-lists": (["duplicate=0.05", "remove-inside=0.02"],),
    "rxe-pplx-kernels": (["duplicate=0.05", "remove-inside=0.02"],),
}

# What ends the capture early: rounds that it does not reach may be missing.
STOPPED = {
    "stop-in-mid-air": (["only-first-fraction=0.63"], []),
    "stop-in-mid-air-heads": (["heads", "only-first-fraction=0.4"], ["--tap", "heads"]),
}

# Nothing but staying alive can be asked for: bytes that lie cannot be told from others. And the exit
# status: 1 where nothing was counted.
NOISE = {
    "noise": (["noise=0.05"], [], 0),
    "garbage": (["garbage"], [], 1),
}

# Streams: case name → changes. All of them must leave every count exact.
TCP = {
    "plain": lambda p, rng: p,
    "split": lambda p, rng: tcpmod.split(p, rng, 1448),
    "split-small": lambda p, rng: tcpmod.split(p, rng, 60),
    "repeat": tcpmod.repeat,
    "wrap": tcpmod.wrap,
    "vlan": lambda p, rng: pcapmod.apply(p, ["vlan"], 0),
    "ipv6": tcpmod.ipv6,
    "vxlan": lambda p, rng: pcapmod.apply(p, ["vlan", "vxlan"], 0),
    "vxlan-ipv6": lambda p, rng: pcapmod.apply(tcpmod.ipv6(p, rng), ["vxlan=6", "vlan"], 0),
    "everything": lambda p, rng: tcpmod.repeat(
        tcpmod.swap(tcpmod.wrap(tcpmod.split(p, rng, 700), rng), rng), rng),
}
# Captures whose maps name a preset, or lists in payloads: packets of one message must keep their order.
PRESET_CAPTURES = ("rxe-hybrid-ep", "rxe-nccl", "rxe-pplx-kernels", "rxe-lists")
PRESET_VARIANTS = ("plain", "qinq", "vxlan", "congestion", "psn-wrap", "duplicate")
TCP_CAPTURES = ("tcp-gloo", "tcp-mpi", "tcp-ucx")

# Counts in SENDs, over IPv6. They are all that is read of a round, one packet a flow: a job that begins without
# those of its first round looks like one that begins with the second.
SENT_CAPTURE = "rc-ucx"
SENT_EXACT = ("plain", "snap128", "vlan", "vxlan", "congestion", "psn-wrap", "reorder-flow-16", "reorder-flow-128",
              "duplicate")
SENT_LOSSY = ("remove-1-percent", "remove-5-percent", "remove-last", "truncate", "remove-and-reorder")

GENERATED = {
    "inference": "--steps 4 --layers 3",
    "training": "--pattern training --layers 3",
    "training-1-layer": "--pattern training --layers 1",
    "training-recompute": "--pattern training-recompute --layers 3",
    "micro-batches": "--pattern training --layers 2 --micro-batches 3 --steps 2",
    "qp": "--rule qp --layers 3",
    "length": "--rule length --experts-per-rank 1 --ranks 4 --tokens 200 --message 7168 "
              "--round-gap-us 20000",
    "no-parity": "--no-parity --layers 3",
    "no-parity-no-counts": "--no-parity --no-counts --layers 3",
    "no-counts": "--no-counts",
    "shared-queue-pair": "--qps 1 --ranks 4",
    "two-queue-pairs": "--qps 2 --ranks 3 --retransmit 0.01",
    "8-ranks": "--ranks 8 --steps 2",
    "8-ranks-16-experts": "--ranks 8 --experts-per-rank 16 --tokens 32 --steps 2 --layers 3",
    "8-ranks-training": "--ranks 8 --pattern training --steps 2 --layers 3 --retransmit 0.005",
    "immediates": "--immediates --message 1040 --ranks 3 --layers 3",
    "immediates-no-counts": "--immediates --message 1040 --no-counts --retransmit 0.01",
    "immediates-no-parity": "--immediates --message 1040 --no-counts --no-parity --ipv6 --layers 3",
    "shared": "--ranks 8 --share 4 --layers 3",
    "shared-no-counts": "--ranks 8 --share 4 --no-counts --tokens 64 --steps 2",
    "shared-no-parity": "--ranks 4 --share 2 --no-counts --no-parity --ipv6 --layers 3",
    "shared-one-queue-pair": "--ranks 6 --share 3 --qps 1 --retransmit 0.01 --ipv6",
    "shared-empty-cells": "--tokens 2 --top-k 1 --ranks 8 --share 4 --layers 4",
    "shared-masked": "--atomic 0x15,44,0,12,8,big --atomic-form learn --ranks 4 --share 2 --steps 6 --layers 3",
    "shared-restart": "--restart-at 2 --steps 4 --ranks 4 --share 2",
    "shared-told": "--told --layers 3 --ranks 8 --share 4",
    "shared-qp": "--rule qp --ranks 4 --share 2 --layers 3",
    "shared-length": "--rule length --experts-per-rank 1 --ranks 4 --share 2 --tokens 200 --message 7168 "
                     "--round-gap-us 20000",
    "told": "--told --layers 3",
    "told-4-ranks": "--told --ranks 4 --no-parity --retransmit 0.01",
    "ipv6": "--ipv6 --ranks 3",
    "long-messages": "--message 7408 --combine-message 14336 --mtu 1024 --retransmit 0.01",
    "retransmit": "--retransmit 0.03 --ranks 4 --steps 4",
    "empty-cells": "--tokens 2 --top-k 1 --ranks 4 --layers 4",
    "restart": "--restart-at 2 --steps 4",
    "restart-odd": "--restart-at 1 --steps 3 --layers 3",
    "masked": "--atomic 0x15,44,0,12,8,big --atomic-form learn --ranks 3 --steps 4 --layers 3",
    "masked-no-parity": "--atomic 0xe1,36,12,28,4,big --atomic-form learn --no-parity --ranks 3 --steps 6",
    "masked-little": "--atomic 0x18,32,24,8,4,little --atomic-form learn --steps 5 --retransmit 0.01",
    "masked-longer": "--atomic 0x14,44,0,12,8,big --atomic-form learn --ranks 4 --qps 1 --steps 4",
    "masked-ipv6": "--atomic 0xe1,36,12,28,4,big --atomic-form learn --ipv6 --ranks 3 --steps 4",
}


def changed(name, changes, seed, where):
    """(map, truth, changed capture) of a capture of tests/data."""
    data = os.path.join(DATA, name)
    packets = pcapmod.apply(roce.read_pcap(os.path.join(data, "capture.pcap.gz")), changes, seed)
    capture, map_path = os.path.join(where, "capture.pcap"), os.path.join(data, "map.yaml")
    roce.write_pcap(capture, packets)
    if "ipv6" in changes:
        map_path = pcapmod.map_to_ipv6(map_path, os.path.join(where, "map.yaml"))
    return map_path, moetap.read_truth(os.path.join(data, "truth.csv")), capture


def loads(counts):
    """Only forward rounds are loads, and have a truth."""
    counts.tokens = {k: n for k, n in counts.tokens.items() if k.phase == "dispatch"}
    return counts


def exact(name, variant, seed):
    changes, options = EXACT[variant]
    with tempfile.TemporaryDirectory() as where:
        map_path, truth, capture = changed(name, changes, seed, where)
        for cores in ("1", "2"):
            counts = loads(moetap.count(map_path, capture, "--cores", cores, *options))
            moetap.must_equal(counts, truth, f"{name} {variant}, {cores} poll cores")


def true_shares(path):
    """{(layer, expert): mean share over the steps}, of all tokens that the job counted."""
    with open(path, encoding="utf-8") as f:
        rows = moetap.read_csv(f.read())
    rounds, loads = collections.Counter(), collections.Counter()
    for r in rows:
        rounds[r["step"], r["layer"]] += int(r["tokens"])
        loads[r["step"], r["layer"], r["expert"]] += int(r["tokens"])
    steps = len({step for step, _ in rounds})
    shares = collections.Counter()
    for (step, layer, expert), tokens in loads.items():
        shares[int(layer), int(expert)] += tokens / rounds[step, layer] / steps
    return shares, steps


def estimate(name):
    """From packets to the shares of all tokens, those that never crossed the wire too."""
    data = os.path.join(DATA, name)
    shares, steps = true_shares(os.path.join(data, "truth.csv"))
    counted = moetap.run([moetap.MOETAP, "count", "--map", os.path.join(data, "map.yaml"), "--format", "json",
                          os.path.join(data, "capture.pcap.gz")])
    done = moetap.run([moetap.MOETAP, "forecast", "--horizon", "1", "--window", str(steps), "--format", "json", "-"],
                      input=counted.stdout)
    if done.returncode != 0:
        raise Failure(done.stderr)
    forecast = json.loads(done.stdout)
    inside = [r["low"] <= shares[r["layer"], r["expert"]] <= r["high"] for r in forecast["forecast"]]
    ranks = 4 if "4ranks" in name else 2
    if abs(forecast["estimated"] - 1 / ranks) > 0.1 or forecast["estimate_bounded"] != (ranks > 2):
        raise Failure(f"estimated {forecast['estimated']}, bounded {forecast['estimate_bounded']}")
    # 80 % intervals, of the next step, and of the estimate: at least so many hold what was; four standard deviations
    # of that many independent ones are granted to chance. Where nothing bounds the estimate, all must.
    least = 0.8 - 4 * math.sqrt(0.8 * 0.2 / len(inside)) if ranks > 2 else 1
    moetap.log(f"{name}: {sum(inside)} of {len(inside)} shares in their intervals")
    if sum(inside) / len(inside) < least:
        raise Failure(f"{sum(inside)} of {len(inside)} shares in their intervals")


def others(src, dst):
    """outcome → a frame between two ranks that ends as that."""
    def ib(opcode, more=0):
        return roce.frame(src, dst, 49152, roce.bth(opcode, 0x11, 7), 64 + more, 1 << 16)[0]

    def typed(kind, data):
        return roce.mac_header(src, dst, 4)[:12] + kind + data
    grh = roce.ipv6_header(pcapmod.ipv6_of(src), pcapmod.ipv6_of(dst), 12 + 64 + 4, proto=0x1B)
    arp = typed(b"\x08\x06", bytes(46))
    return {
        "uc": ib(0x2A), "rd": ib(0x4A), "ud": ib(0x64, 8), "cnp": ib(0x81, -48), "xrc": ib(0xAA),
        "other-transport": ib(0xCA), "atomic-form": ib(0xEA),
        "rocev1": typed(b"\x89\x15", grh + roce.bth(0x0A, 0x11, 7) + bytes(68)),
        "vxlan": roce.vxlan(arp, len(arp), src, dst),
        "pfc": typed(b"\x88\x08", b"\x01\x01\x00\x08" + bytes(42)),
        "not-roce": arp,
    }


def named(name, wrapped):
    """Packets of other kinds between those of a job: counted under their names, and nothing else is
    changed. Also in a VXLAN, where what is no RoCE is just that."""
    data = os.path.join(DATA, name)
    packets = roce.read_pcap(os.path.join(data, "capture.pcap.gz"))
    r = next(r for r in map(roce.parse, (p.data for p in packets)) if r is not None)
    map_path = os.path.join(data, "map.yaml")
    with tempfile.TemporaryDirectory() as where:
        capture = os.path.join(where, "capture.pcap")
        changes = ["vxlan"] if wrapped else []
        want, told = {}, []
        roce.write_pcap(capture, pcapmod.apply(packets, changes, 0))
        told.append(moetap.count(map_path, capture).outcomes())
        for n, (outcome, frame) in enumerate(others(r.src, r.dst).items(), 1):
            if wrapped and outcome in ("vxlan", "not-roce"):
                outcome = "vxlan"
            want[outcome] = want.get(outcome, 0) + n
            for i in range(n):
                at = (n * 37 + i * 11) % len(packets)
                packets.insert(at, roce.Packet(packets[at].ns, frame))
        roce.write_pcap(capture, pcapmod.apply(packets, changes, 0))
        counts = moetap.count(map_path, capture)
        told.append(counts.outcomes())
        moetap.must_equal(counts, moetap.read_truth(os.path.join(data, "truth.csv")), f"{name} and others")
    more = {o: n - told[0].get(o, 0) for o, n in told[1].items() if n != told[0].get(o, 0)}
    if more != want:
        raise Failure(f"{name}: {more} in place of {want}")
    print(f"{name}: {want}")


def lossy(name, variant, seed, ended=False):
    changes, options = (STOPPED if ended else LOSSY)[variant]
    with tempfile.TemporaryDirectory() as where:
        map_path, truth, capture = changed(name, changes, seed, where)
        for cores in ("1", "2"):
            counts = loads(moetap.count(map_path, capture, "--cores", cores, *options))
            moetap.must_not_be_silent(counts, truth, f"{name} {variant}, {cores} poll cores", ended)


def lossy_seeds(name, changes, seed):
    """As lossy, with SOME seeds: what is wrong in silence with few of them."""
    for other in range(seed, seed + SOME):
        with tempfile.TemporaryDirectory() as where:
            map_path, truth, capture = changed(name, changes, other, where)
            counts = loads(moetap.count(map_path, capture))
            moetap.must_not_be_silent(counts, truth, f"seed {other}: {name} {' '.join(changes)}")


def cut_too_short(name):
    """Frames cut before the fields that the map needs: the loss is named, never zero tokens."""
    with tempfile.TemporaryDirectory() as where:
        map_path, truth, capture = changed(name, ["snap=60"], 0, where)
        done = moetap.run([moetap.MOETAP, "count", "--map", map_path, capture])
        if "truncated" not in done.stderr:
            raise Failure(f"{name}: not a word about truncated frames\n{done.stderr}")
        counts = moetap.Counts(done.stdout, done.stderr)
        moetap.must_not_be_silent(counts, truth, f"{name} cut to 60 bytes", ended=True)


def noise(name, variant, seed):
    changes, options, status = NOISE[variant]
    with tempfile.TemporaryDirectory() as where:
        map_path, _, capture = changed(name, changes, seed, where)
        moetap.count(map_path, capture, *options, status=status)


def generated(variant, seed):
    """Exact as generated; and the same traffic with holes is never wrong in silence."""
    with tempfile.TemporaryDirectory() as where:
        gen.generate(["--out", where, "--seed", str(seed), *GENERATED[variant].split()])
        map_path, capture = os.path.join(where, "map.yaml"), os.path.join(where, "capture.pcap.gz")
        truth = moetap.read_truth(os.path.join(where, "truth.csv"))
        for cores in ("1", "2"):
            counts = moetap.count(map_path, capture, "--cores", cores)
            moetap.must_equal(counts, truth, f"generated {variant}, {cores} poll cores")
        holes = os.path.join(where, "holes.pcap")
        with open(map_path) as f:
            text = f.read()
        known = "rule: atomic" in text and "atomic-form" not in text
        change = "remove" if known else "remove-inside"
        packets = pcapmod.apply(roce.read_pcap(capture), [change + "=0.003"], seed)
        roce.write_pcap(holes, packets)
        moetap.must_not_be_silent(moetap.count(map_path, holes), truth, f"generated {variant}, holes")


def unnamed(seed):
    """Ranks share addresses, places do not tell them, and the map lacks some of the queue pairs."""
    with tempfile.TemporaryDirectory() as where:
        gen.generate(["--out", where, "--seed", str(seed), "--told", "--ranks", "4", "--share", "2"])
        map_path, capture = os.path.join(where, "map.yaml"), os.path.join(where, "capture.pcap.gz")
        truth = moetap.read_truth(os.path.join(where, "truth.csv"))
        with open(map_path) as f:
            lines = f.read().splitlines()
        named = [line for line in lines if "qpn:" in line]
        for lost in (named[:1], named[::3]):
            with open(map_path, "w") as f:
                f.write("\n".join(line for line in lines if line not in lost) + "\n")
            wrong = moetap.must_not_be_silent(moetap.count(map_path, capture), truth, f"{len(lost)} unnamed")
            if not wrong:
                raise Failure("queue pairs that the map does not name were counted")


def rounds_of(map_path, capture, cores):
    argv = [moetap.MOETAP, "count", "--map", map_path, "--format", "json", "--cores", cores, capture]
    done = moetap.run(argv)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def witness(seed):
    """Counts are the load, tokens their witness: a round in which they differ says so, no other; what
    the tap did not see is a gap of the witness."""
    lie, steps, layers = 6, 5, 3
    with tempfile.TemporaryDirectory() as where:
        gen.generate(["--out", where, "--seed", str(seed), "--told", "--ranks", "3", "--lie", str(lie),
                      "--tokens", "48", "--steps", str(steps), "--layers", str(layers)])
        map_path, capture = os.path.join(where, "map.yaml"), os.path.join(where, "capture.pcap.gz")
        for cores in ("1", "2"):
            rounds, said = rounds_of(map_path, capture, cores)
            results = [r["witness"]["result"] for r in rounds]
            want = ["disagreed" if n == lie else "agreed" for n in range(steps * layers)]
            if results != want or {r["load_from"] for r in rounds} != {"payload-counts"}:
                raise Failure(f"witness, {cores} poll cores: {results}\n{said}")
            if rounds[lie]["witness"]["differ"] != 1 or rounds[lie]["quality"] != "disagree":
                raise Failure(f"witness: {rounds[lie]['witness']}, {rounds[lie]['quality']}")
            if f"says: 1 disagreed, 0 gap, {len(want) - 1} agreed" not in said:
                raise Failure(f"witness: nothing is said of it\n{said}")
        gen.generate(["--out", where, "--seed", str(seed), "--told", "--ranks", "3", "--tokens", "48"])
        holes = os.path.join(where, "holes.pcap")
        roce.write_pcap(holes, pcapmod.apply(roce.read_pcap(capture), ["remove-inside=0.01"], seed))
        results = [r["witness"]["result"] for r in rounds_of(map_path, holes, "1")[0]]
        if "disagreed" in results or "gap" not in results:
            raise Failure(f"witness with holes: {results}")
        print(f"witness: {want.count('agreed')} rounds agree, one does not; with holes {results}")


def learnt(seed):
    """A form that is learnt is told, and a map that states it has the witness from the first round on."""
    with tempfile.TemporaryDirectory() as where:
        form = "--atomic 0x1e,48,0,28,8,big"
        map_path, capture = os.path.join(where, "map.yaml"), os.path.join(where, "capture.pcap.gz")
        told = "{opcode: 0x1e, length: 48, address: 0, operand: 28, width: 8, order: big}"
        gen.generate(["--out", where, "--seed", str(seed), "--ranks", "3", "--steps", "5", *form.split()])
        truth = moetap.read_truth(os.path.join(where, "truth.csv"))
        with open(map_path) as f:
            plain = f.read()

        def unwitnessed(atomic_form):
            with open(map_path, "w") as f:
                f.write(plain + (f"atomic-form: {atomic_form}\n" if atomic_form else ""))
            counts = moetap.count(map_path, capture)
            if atomic_form:
                moetap.must_equal(counts, truth, f"learnt {atomic_form}")
            done = moetap.run([moetap.MOETAP, "count", "--map", map_path, "--format", "json", capture])
            rounds = [json.loads(line) for line in done.stdout.splitlines()]
            return counts, ["unwitnessed" in r["quality"] for r in rounds]

        counts, flags = unwitnessed("learn")
        if f"atomic-form: {told}" not in counts.stderr or "masked atomic: learnt" not in counts.stderr:
            raise Failure(f"the form is not told:\n{counts.stderr}")
        if not all(flags[:3]) or any(flags[6:]) or len(flags) < 8:
            raise Failure(f"rounds without witness: {flags}")
        counts, flags = unwitnessed(told)
        if any(flags) or "atomic-form" in counts.outcomes():
            raise Failure(f"a form that is stated is not read: {counts.stderr}")
        counts, flags = unwitnessed(None)
        if not counts.outcomes().get("atomic-form") or "'atomic-form: learn'" not in counts.stderr:
            raise Failure(f"atomics of unknown form are not named: {counts.stderr}")
        counts = moetap.count(map_path, capture)
        if not counts.flagged:
            raise Failure("counts never came, and no round says so")


def all_wait(seed):
    """A job so small that all its packets wait for a flow's first one until the capture ends. Then flows
    begin one by one while rounds are being closed; a round that does not wait for the last says "late"."""
    with tempfile.TemporaryDirectory() as where:
        gen.generate(["--out", where, "--seed", str(1009 + seed), "--ranks", "5", "--layers", "1", "--steps", "3",
                      "--experts-per-rank", "1", "--tokens", "32", "--top-k", "2", "--qps", "1",
                      "--message", "1040", "--combine-message", "2048"])
        truth = moetap.read_truth(os.path.join(where, "truth.csv"))
        for turn in range(30):
            counts = moetap.count(os.path.join(where, "map.yaml"), os.path.join(where, "capture.pcap.gz"))
            moetap.must_equal(counts, truth, f"all packets wait, turn {turn}")


def tcp(name, variant, seed):
    data = os.path.join(DATA, name)
    packets = TCP[variant](roce.read_pcap(os.path.join(data, "capture.pcap.gz")), random.Random(seed))
    truth = moetap.read_truth(os.path.join(data, "truth.csv"))
    with tempfile.TemporaryDirectory() as where:
        capture = os.path.join(where, "capture.pcap")
        roce.write_pcap(capture, packets)
        for rules in ("map.yaml", "counts.yaml"):
            with open(os.path.join(data, rules)) as f:
                text = f.read()
            if variant.endswith("ipv6"):
                text = re.sub(r"address: (\S+)}", r'address: "fd00::\1"}', text)
            map_path = os.path.join(where, rules)
            with open(map_path, "w") as f:
                f.write(text)
            for cores in ("1", "2"):
                counts = moetap.count(map_path, capture, "--cores", cores)
                moetap.must_equal(counts, truth, f"{name} {rules} {variant}, {cores} poll cores")


UDP = {
    "plain": {}, "ipv6": {"ipv6": True}, "vlan": {"vlan": True}, "vxlan": {"vxlan": True},
    # Ethernet with a tag, IPv6, UDP, header, counts
    "cut": {"vlan": True, "ipv6": True, "snap": 18 + 40 + 8 + 12 + 8},
}


def udp(variant, seed):
    """Datagrams: counted exactly, but no round is called exact; and what is cut too short is told."""
    for counts, by_round in itertools.product((False, True), repeat=2):
        job = udpmod.Job(random.Random(seed), 4, **UDP[variant])
        truth = {moetap.Key(step, layer, "dispatch", src, dst, e): n
                 for (step, layer, src, dst, e), n in job.run(4, 3, counts).items()}
        what = f"udp {variant} {'counts' if counts else 'bytes'}{' by number' if by_round else ''}"
        with tempfile.TemporaryDirectory() as where:
            capture, map_path = os.path.join(where, "capture.pcap"), os.path.join(where, "map.yaml")
            with open(map_path, "w") as f:
                f.write(job.map_text(3, counts, by_round))
            roce.write_pcap(capture, job.packets)
            for cores in ("1", "2"):
                got = moetap.count(map_path, capture, "--cores", cores)
                wrong = got.differences(truth)
                if wrong:
                    raise Failure(f"{what}: {moetap.show(wrong)}\n{got.stderr[-2000:]}")
                said = set(sum(got.flagged.values(), []))
                if said - {"stale", "stale, unmatched", "stale, timeout"} or len(got.flagged) != 12:
                    raise Failure(f"{what}: rounds say {dict(got.flagged)}")
            cut = [pcapmod.copy(p, p.data[:len(p.data) if n % 7 else 60], p.wire) for n, p in enumerate(job.packets)]
            roce.write_pcap(capture, cut)
            moetap.must_not_be_silent(moetap.count(map_path, capture), truth, what + ", some cut")
        print(f"{what}: {len(truth)} cells, 0 differences")


def totals(name):
    """--total is the sum over dispatch rounds, and tokens have the bytes that the map says."""
    data = os.path.join(DATA, name)
    map_path, capture = os.path.join(data, "map.yaml"), os.path.join(data, "capture.pcap.gz")
    done = moetap.run([moetap.MOETAP, "count", "--map", map_path, "--total", capture])
    truth = {}
    for k, n in moetap.read_truth(os.path.join(data, "truth.csv")).items():
        cell = (k.src, k.dst, k.expert)
        truth[cell] = truth.get(cell, 0) + n
    with open(map_path) as f:
        size = int(f.read().split("token-bytes:")[1].split()[0])
    rows = [r for r in moetap.read_csv(done.stdout) if r["src"] != r["dst"]]
    got = {(int(r["src"]), int(r["dst"]), int(r["expert"])): int(r["tokens"]) for r in rows}
    if got != truth or len(rows) != len(got):
        raise Failure(f"{name}: --total differs from truth: {done.stdout[:2000]}")
    for r in rows:
        if int(r["bytes"]) != size * int(r["tokens"]):
            raise Failure(f"{name}: {r} has not {size} bytes a token")


def one_half(name):
    """As DeepEP's plain loop has it, every dispatch uses the first half, every combine the second: no
    parity parts rounds, announced counts do; and without counts combines, also if tokens have a parity."""
    data = os.path.join(DATA, name)
    with open(os.path.join(data, "map.yaml")) as f:
        text = f.read()
    bases = dict(re.findall(r"address: (\S+), base: (\w+)", text))
    stride = int(re.search(r"parity: {stride: (\d+)", text)[1])
    combine = int(re.search(r"phase: combine\n    length: (\d+)", text)[1])
    packets = []
    for p, r in pcapmod.parsed(roce.read_pcap(os.path.join(data, "capture.pcap.gz"))):
        if r is not None and r.op in roce.WITH_RETH + roce.WITH_ATOMICETH:
            at = r.bth + 12
            place = int.from_bytes(p.data[at:at + 8], "big")
            length = int.from_bytes(p.data[at + 12:at + 16], "big")
            half = 1 if r.op in roce.WITH_RETH and length == combine else 0
            place += (half - (place - int(bases[str(r.dst)], 0)) // stride) * stride
            p = pcapmod.copy(p, p.data[:at] + place.to_bytes(8, "big") + p.data[at + 8:])
        packets.append(p)
    uncounted = text[:text.index("  - name: count")]
    bare = uncounted.replace(f"    parity: {{stride: {stride}, count: 2}}\n", "", 1)
    truth = moetap.read_truth(os.path.join(data, "truth.csv"))
    with tempfile.TemporaryDirectory() as where:
        capture, other = os.path.join(where, "capture.pcap"), os.path.join(where, "map.yaml")
        roce.write_pcap(capture, packets)
        for map_text in (text, uncounted, bare):
            with open(other, "w") as f:
                f.write(map_text)
            for cores in ("1", "2"):
                counts = moetap.count(other, capture, "--cores", cores)
                moetap.must_equal(counts, truth, f"{name} one half, {cores} poll cores")


def many_seeds(seed):
    """Everything that is random, with SEEDS other seeds (slow)."""
    for other in range(seed + 1, seed + 1 + SEEDS):
        for name in CAPTURES:
            for variant, (changes, _) in EXACT.items():
                if RANDOM.search(" ".join(changes)):
                    print(f"seed {other}: ", end="")
                    exact(name, variant, other)
            for variant, (changes, _) in LOSSY.items():
                if RANDOM.search(" ".join(changes)):
                    print(f"seed {other}: ", end="")
                    lossy(name, variant, other)
        for variant in GENERATED:
            print(f"seed {other}: ", end="")
            generated(variant, other)


def cases():
    """{case name: function of a seed}"""
    out = {}
    for name in CAPTURES:
        for variant in EXACT:
            out[f"exact {name} {variant}"] = lambda s, n=name, v=variant: exact(n, v, s)
        for variant in LOSSY:
            if (name, variant) == ("rxe-2ranks", "remove-one-last"):
                continue    # its messages are of one packet
            out[f"lossy {name} {variant}"] = lambda s, n=name, v=variant: lossy(n, v, s)
        for variant in STOPPED:
            out[f"lossy {name} {variant}"] = lambda s, n=name, v=variant: lossy(n, v, s, True)
        out[f"lossy {name} cut-too-short"] = lambda s, n=name: cut_too_short(n)
        for variant in NOISE:
            out[f"noise {name} {variant}"] = lambda s, n=name, v=variant: noise(n, v, s)
        for wrapped in (False, True):
            out[f"named {name} {'vxlan' if wrapped else 'plain'}"] = (
                lambda s, n=name, w=wrapped: named(n, w))
        out[f"estimate {name}"] = lambda s, n=name: estimate(n)
        out[f"totals {name}"] = lambda s, n=name: totals(n)
        out[f"exact {name} one-half"] = lambda s, n=name: one_half(n)
    for name in PRESET_CAPTURES:
        for variant in PRESET_VARIANTS:
            out[f"exact {name} {variant}"] = lambda s, n=name, v=variant: exact(n, v, s)
        out[f"lossy {name} remove-1-percent"] = lambda s, n=name: lossy(n, "remove-1-percent", s)
    for name, variants in LATE.items():
        for changes in variants:
            out[f"lossy {name} {' '.join(changes)}"] = lambda s, n=name, c=changes: lossy_seeds(n, c, s)
    out["witness generated"] = witness
    out["generated all-wait"] = all_wait
    out["generated shared unnamed"] = unnamed
    for name in TCP_CAPTURES:
        for variant in TCP:
            out[f"exact {name} {variant}"] = lambda s, n=name, v=variant: tcp(n, v, s)
    for variant in UDP:
        out[f"exact udp {variant}"] = lambda s, v=variant: udp(v, s)
    for variant in SENT_EXACT:
        out[f"exact {SENT_CAPTURE} {variant}"] = lambda s, v=variant: exact(SENT_CAPTURE, v, s)
    for variant in SENT_LOSSY:
        out[f"lossy {SENT_CAPTURE} {variant}"] = lambda s, v=variant: lossy(SENT_CAPTURE, v, s)
    out["slow seeds"] = many_seeds
    out["learnt"] = learnt
    for variant in GENERATED:
        out[f"generated {variant}"] = lambda s, v=variant: generated(v, s)
    return out
