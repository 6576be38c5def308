# SPDX-License-Identifier: BSD-3-Clause
"""Tests of the tests: the oracle finds the truth in every capture, and in every variant and generated
job that it can read. Runs nothing of moetap."""
import collections
import os
import tempfile

import cases_capture
import gen
import moetap
import oracle
import pcapmod
import roce
from moetap import CAPTURES, DATA, Failure


def equal(loads, truth, what):
    wrong = [k for k in truth.keys() | loads.keys() if truth.get(k) != loads.get(k)]
    if wrong or not truth:
        raise Failure(f"{what}: {len(wrong)} of {len(truth)} cells differ, as {wrong[:3]}")


def variants(seed):
    for name in CAPTURES:
        data = os.path.join(DATA, name)
        packets = roce.read_pcap(os.path.join(data, "capture.pcap.gz"))
        truth = oracle.read_truth(os.path.join(data, "truth.csv"))
        layers = 1 + max(k[1] for k in truth)
        for variant, (changes, _) in cases_capture.EXACT.items():
            job = oracle.Job(os.path.join(data, "job.json"))
            if "ipv6" in changes:
                job.addresses = {pcapmod.ipv6_of(a): r for a, r in job.addresses.items()}
            loads = oracle.count(job, pcapmod.apply(packets, changes, seed))
            equal({divmod(k[0], layers) + k[1:]: n for k, n in loads.items()}, truth,
                  f"{name} {variant}")


def generated(seed):
    """Those of rule va with announced counts, in standard atomics, parities that go on, lengths that
    tell tokens from results, and an address a rank."""
    beyond = ("--rule", "--no-counts", "--no-parity", "--told", "--atomic", "restart-at 1", "--immediates",
              "--share")
    for variant, options in cases_capture.GENERATED.items():
        if any(b in options for b in beyond):
            continue
        with tempfile.TemporaryDirectory() as where:
            a = gen.generate(["--out", where, "--seed", str(seed), *options.split()])
            rounds = [(step, layer, kind) for step in range(a.steps) for _ in range(a.micro_batches)
                      for kind, layer in gen.passes(a.pattern, a.layers)]
            loads = collections.Counter()
            for k, n in oracle.count(oracle.Job(os.path.join(where, "job.json")),
                                     roce.read_pcap(os.path.join(where, "capture.pcap.gz"))).items():
                loads[moetap.Key(*rounds[k[0]], *k[1:])] += n
            equal(loads, moetap.read_truth(os.path.join(where, "truth.csv")), variant)


def lossy(seed):
    """The oracle's own arithmetic notices a lost token: the announced count says more."""
    data = os.path.join(DATA, "rxe-2ranks")
    packets = roce.read_pcap(os.path.join(data, "capture.pcap.gz"))
    for argument in ("token", "atomic"):
        holes = pcapmod.apply(packets, [f"remove-one={argument}"], seed)
        try:
            oracle.count(oracle.Job(os.path.join(data, "job.json")), holes)
        except ValueError:
            continue
        raise Failure(f"the oracle does not miss a removed {argument}")


def cases():
    return {"self variants": variants, "self generated": generated, "self lossy": lossy}
