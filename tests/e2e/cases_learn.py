# SPDX-License-Identifier: BSD-3-Clause
"""Cases of `moetap learn`: the map that it learns counts what the job counted, or there is no map."""
import collections
import os
import random
import tempfile

import cases_capture
import gen
import moetap
import pcapmod
import roce
from moetap import CAPTURES, DATA, Failure

ADDRESSES = [f"10.77.0.{r + 1}" for r in range(8)]
ADDRESSES6 = [f"fd00:77::{r + 1:x}" for r in range(8)]

# Changes of the real captures after which all is learnt, and counts are exact.
QUICK = ("plain", "heads", "everything")
VARIANTS = ("snap128", "ipv6", "vlan", "qinq", "ipv4-options", "vxlan", "vxlan-tagged-ipv6", "congestion",
            "psn-wrap", "psn-wrap-heads", "reorder-flow-128", "reorder-128", "reorder-heads", "duplicate",
            "duplicate-heads")
HOSTILE = (["noise=0.05"], ["garbage"], ["noise=0.3", "truncate=0.3", "reorder=64"], ["snap=60"])
LOSSY = ("remove-one-token", "remove-one-atomic", "remove-1-percent", "remove-5-percent", "remove-round",
         "remove-burst", "remove-first", "remove-last", "truncate", "remove-and-reorder")

# Jobs that are learnt whole: options of gen.py, and of learn.
QUICK_JOBS = {
    "inference": "--layers 3 --steps 3 --tokens 64",
    "training": "--pattern training --layers 3 --ranks 3",
    "training-recompute": "--pattern training-recompute --layers 2",
    "no-parity": "--no-parity --layers 2 --tokens 64",
    "one-expert": "--experts-per-rank 1 --ranks 2 --pattern training --layers 2 --top-k 1",
    "long-messages": "--ranks 3 --message 7408 --combine-message 14336 --mtu 1024 --retransmit 0.01 --tokens 48",
}
# Negatives, by the name of the function that makes them below.
KINDS = ("perftest-write", "perftest-atomic", "random", "all-reduce", "tcp", "send", "lying", "shuffled",
         "one-count", "no-counts", "told", "qp")


def learn(capture, *options, addresses=None, status=None):
    """(map text or "", what it said)"""
    argv = [moetap.MOETAP, "learn", *(["--ranks", ",".join(addresses)] if addresses else []), *options, capture]
    done = moetap.run(argv)
    if done.returncode not in (0, 1) or (done.returncode == 0) != bool(done.stdout):
        raise Failure(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stderr}")
    if done.returncode == 1 and "moetap learn: " not in done.stderr:
        raise Failure(f"{' '.join(argv)}: refused without a reason")
    if status is not None and done.returncode != status:
        raise Failure(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stderr}{done.stdout}")
    return done.stdout, done.stderr.strip()


def written(where, text):
    path = os.path.join(where, "learnt.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def real(name, variant, seed):
    changes, _ = cases_capture.EXACT[variant]
    with tempfile.TemporaryDirectory() as where:
        _, truth, capture = cases_capture.changed(name, changes, seed, where)
        ranks = 1 + max(k.dst for k in truth)
        addresses = ADDRESSES[:ranks]
        if "ipv6" in changes:
            import ipaddress
            addresses = [str(pcapmod.ipv6_of(ipaddress.ip_address(a))) for a in addresses]
        text, _ = learn(capture, addresses=addresses, status=0)
        counts = cases_capture.loads(moetap.count(written(where, text), capture))
        moetap.must_equal(counts, truth, f"learnt from {name} {variant}")


def lossy(name, variant, seed):
    """With holes it may be refused; what is learnt is not wrong in silence."""
    changes, _ = cases_capture.LOSSY[variant]
    with tempfile.TemporaryDirectory() as where:
        _, truth, capture = cases_capture.changed(name, changes, seed, where)
        text, why = learn(capture, addresses=ADDRESSES[:1 + max(k.dst for k in truth)])
        print(f"{name} {variant}: {why or 'learnt'}")
        if text:
            counts = cases_capture.loads(moetap.count(written(where, text), capture))
            moetap.must_not_be_silent(counts, truth, f"learnt from {name} {variant}")


def hostile(seed):
    """Bytes that lie: a map or a reason, and no crash."""
    for name in CAPTURES:
        packets = roce.read_pcap(os.path.join(DATA, name, "capture.pcap.gz"))
        for changes in HOSTILE:
            with tempfile.TemporaryDirectory() as where:
                capture = os.path.join(where, "capture.pcap")
                roce.write_pcap(capture, pcapmod.apply(packets, changes, seed))
                text, why = learn(capture)
                print(f"{name} {changes}: {why or 'learnt'}")
                if changes == ["snap=60"] and "are cut" not in why:
                    raise Failure(f"{name}: not a word about frames that are cut: {why}")


def job(options, seed, *told, refusable=False):
    """Learns a generated job. Returns whether it was learnt."""
    with tempfile.TemporaryDirectory() as where:
        a = gen.generate(["--out", where, "--seed", str(seed), *options.split()])
        capture = os.path.join(where, "capture.pcap.gz")
        truth = moetap.read_truth(os.path.join(where, "truth.csv"))
        addresses = (ADDRESSES6 if a.ipv6 else ADDRESSES)[:a.ranks]
        text, why = learn(capture, *told, addresses=addresses, status=None if refusable else 0)
        if not text:
            print(f"{options}: {why}")
            return False
        if f"\npattern: {a.pattern} " not in text or f"\nlayers: {a.layers} " not in text:
            raise Failure(f"{options}: another pattern or number of layers:\n{text}")
        counts = moetap.count(written(where, text), capture)
        moetap.must_equal(counts, truth, f"learnt from {options}")
        return True


def random_options(rng):
    """A job of any kind of the family; may be too small to be learnt."""
    pattern = rng.choice(["inference", "inference", "training", "training-recompute"])
    ranks = rng.choice([2, 2, 3, 4, 5, 8])
    layers = rng.randint(1, 8 if ranks < 5 else 3)
    experts = rng.choice([1, 2, 4, 8]) if ranks < 5 else rng.choice([1, 2, 3])
    words = [f"--ranks {ranks} --layers {layers} --experts-per-rank {experts} --pattern {pattern}",
             f"--tokens {rng.choice([16, 32, 64, 128]) if ranks < 5 else 32} --steps {rng.choice([3, 3, 4])}",
             f"--top-k {rng.randint(1, min(4, ranks * experts))}"]
    words.append(rng.choice(["", "", "--no-parity", "--qps 1", "--ipv6", "--retransmit 0.01"]))
    words.append(rng.choice(["", "--message 2128 --combine-message 4112", "--message 1040 --combine-message 2048",
                             "--message 7408 --combine-message 14336 --mtu 1024"]))
    return " ".join(w for w in words if w)


def many_jobs(seed):
    rng, learnt = random.Random(seed), collections.Counter()
    for n in range(60):
        options = random_options(rng)
        learnt[job(options, seed * 1000 + n, refusable=True)] += 1
    print(f"{learnt[True]} learnt, {learnt[False]} refused")
    if learnt[True] < 40:
        raise Failure(f"only {learnt[True]} of {sum(learnt.values())} jobs were learnt")


def stated(seed):
    """What the user knows is taken: layers that a few rounds cannot tell, micro-batches without pauses."""
    job("--tokens 4 --top-k 1 --ranks 3 --layers 5 --steps 3", seed, "--layers", "5")
    job("--pattern training --layers 2 --micro-batches 3 --steps 2", seed, "--micro-batches", "3")


# ---- what is no such job ----

def writes(rng, traffic, ns, n, lengths, operand=None, atomic_every=0, walk=True):
    """n messages on every queue pair, at following or random addresses; atomics between them."""
    for qp in traffic.qps.values():
        at = rng.randrange(1 << 40)
        for i in range(n):
            length = rng.choice(lengths)
            if lengths != [0]:
                qp.post("write", at, length, mtu=4096)
            at = at + length if walk else rng.randrange(1 << 40)
            if atomic_every and i % atomic_every == atomic_every - 1:
                qp.post("atomic", rng.randrange(1 << 30) * 8, 8, add=operand())
    for src in range(traffic.a.ranks):
        ns, _ = traffic.drain(src, ns)
    return ns


def other(kind, seed, where):
    """A capture of something that is no job of the family."""
    rng = random.Random(seed)
    a = gen.options().parse_args(["--out", where, "--ranks", str(rng.choice([2, 3, 4])), "--qps", "2"])
    traffic, ns = gen.Traffic(a, seed), 10**18
    if kind == "perftest-write":
        writes(rng, traffic, ns, 300, [rng.choice([64, 4096, 65536])])
    elif kind == "perftest-atomic":
        writes(rng, traffic, ns, 300, [0], lambda: rng.choice([1, -1, 5]), 1)
    elif kind == "random":
        for _ in range(4):
            ns = writes(rng, traffic, ns, 60, [64, 100, 544, 1040, 4096], lambda: -rng.randrange(20) - 1,
                        rng.randint(1, 9), walk=False)
    elif kind == "all-reduce":
        for _ in range(6):
            ns = writes(rng, traffic, ns, 32, [rng.choice([8192, 65536])], lambda: 1, 32)
    elif kind == "one-count":    # so many WRITEs, then an atomic that says so: always the same
        n = rng.randint(1, 16)
        writes(rng, traffic, ns, n * 12, [544], lambda: -n - 1, n)
    elif kind == "send":
        for qp in traffic.qps.values():
            for _ in range(200):
                qp.queue.append((0x04, bytes(16), 256, True, qp.psn))
                qp.psn += 1
        for src in range(a.ranks):
            ns, _ = traffic.drain(src, ns)
    packets = [roce.Packet(t, d, w) for t, _, d, w in sorted(traffic.packets)]
    capture = os.path.join(where, "capture.pcap")
    roce.write_pcap(capture, packets)
    return capture


def spoilt(kind, seed, where):
    """A job of the family in which counts are not those of tokens, or addresses say nothing."""
    rng = random.Random(seed)
    gen.generate(["--out", where, "--seed", str(seed), "--ranks", str(rng.choice([2, 3])), "--tokens", "32"])
    packets = []
    for p in roce.read_pcap(os.path.join(where, "capture.pcap.gz")):
        r = roce.parse(p.data)
        if r is not None and r.va is not None:
            at = r.bth + 12
            if kind == "lying" and r.op in roce.WITH_ATOMICETH and rng.random() < 0.3:
                add = r.add - rng.randint(1, 3) & (1 << 64) - 1
                p = pcapmod.copy(p, p.data[:at + 12] + add.to_bytes(8, "big") + p.data[at + 20:])
            elif kind == "shuffled" and r.op in roce.WITH_RETH:
                va = rng.randrange(1 << 30) * 64
                p = pcapmod.copy(p, p.data[:at] + va.to_bytes(8, "big") + p.data[at + 8:])
        packets.append(p)
    capture = os.path.join(where, "spoilt.pcap")
    roce.write_pcap(capture, packets)
    return capture


def negative(kind, seed):
    with tempfile.TemporaryDirectory() as where:
        if kind == "tcp":
            name = random.Random(seed).choice(cases_capture.TCP_CAPTURES)
            capture = os.path.join(DATA, name, "capture.pcap.gz")
        elif kind in ("lying", "shuffled"):
            capture = spoilt(kind, seed, where)
        elif kind in ("no-counts", "told", "qp"):
            options = {"no-counts": "--no-counts", "told": "--told", "qp": "--rule qp"}[kind]
            gen.generate(["--out", where, "--seed", str(seed), *options.split()])
            capture = os.path.join(where, "capture.pcap.gz")
        else:
            capture = other(kind, seed, where)
        _, why = learn(capture, status=1)
        print(f"{kind}: {why}")


def many_negatives(seed):
    for n in range(10):
        for kind in KINDS:
            negative(kind, seed * 1000 + n)
    print(f"{10 * len(KINDS)} captures refused")


def negatives(seed):
    for kind in KINDS:
        negative(kind, seed)


def too_short(seed):
    """A job that is just beginning, and wrong addresses: refused with a reason."""
    data = os.path.join(DATA, "rxe-4ranks", "capture.pcap.gz")
    with tempfile.TemporaryDirectory() as where:
        capture = os.path.join(where, "short.pcap")
        packets = roce.read_pcap(data)
        for part in (0, 10, len(packets) // 60, len(packets) // 30):
            roce.write_pcap(capture, packets[:part])
            learn(capture, addresses=ADDRESSES[:4], status=1)
    learn(data, addresses=["192.0.2.1", "192.0.2.2"], status=1)
    learn(data, addresses=["10.77.0.2", "10.77.0.1", "10.77.0.4", "10.77.0.3"], status=1)


def three_steps(seed):
    """The first three steps are enough."""
    data = os.path.join(DATA, "rxe-4ranks")
    truth = moetap.read_truth(os.path.join(data, "truth.csv"))
    packets = roce.read_pcap(os.path.join(data, "capture.pcap.gz"))
    with tempfile.TemporaryDirectory() as where:
        capture = os.path.join(where, "short.pcap")
        roce.write_pcap(capture, packets[:len(packets) * 3 // 8])
        text, _ = learn(capture, addresses=ADDRESSES[:4], status=0)
        counts = cases_capture.loads(
            moetap.count(written(where, text), os.path.join(data, "capture.pcap.gz")))
        moetap.must_equal(counts, truth, "learnt from three of eight steps")


def cases():
    out = {}
    for name in CAPTURES:
        for variant in QUICK:
            out[f"learn {name} {variant}"] = lambda s, n=name, v=variant: real(n, v, s)
        for variant in VARIANTS:
            out[f"slow learn {name} {variant}"] = lambda s, n=name, v=variant: real(n, v, s)
        for variant in LOSSY:
            if (name, variant) != ("rxe-2ranks", "remove-one-last"):
                out[f"slow learn {name} {variant}"] = lambda s, n=name, v=variant: lossy(n, v, s)
    for name, options in QUICK_JOBS.items():
        out[f"learn job {name}"] = lambda s, o=options: job(o, s)
    out.update({"learn three-steps": three_steps, "learn too-short": too_short, "learn stated": stated, "learn hostile": hostile,
                "learn negatives": negatives, "slow learn jobs": many_jobs, "slow learn negatives": many_negatives})
    return out
