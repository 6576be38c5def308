# SPDX-License-Identifier: BSD-3-Clause
"""Our own job with the wire layouts of frameworks: moetap must count every cell as the job did."""
import collections
import json
import os
import shutil
import time

import job2map
import machines
import moetap
import payload
import perftest
from moetap import Failure

PROGRAM = os.path.join(os.path.abspath(moetap.BUILD), "tests", "lab", "lab-job")
SECONDS = 120
NOT_READ = ("unmatched", "contradiction", "truncated", "orphan")    # outcomes that no packet of a case may have
BASIC = {"experts-per-rank": 4, "layers": 3, "steps": 3, "tokens": 16, "top-k": 4, "hidden": 512, "qps": 4}
TRAINING = {"pattern": "training", "steps": 2}

# case → layout, ranks, gpus a node, what differs from BASIC
SPECS = {
    "deepep-ll": ("deepep-ll", 2, 1, {}),
    "deepep-ll-training": ("deepep-ll", 3, 1, TRAINING),
    "deepep-ll-4": ("deepep-ll", 4, 1, {"qps": 2, "layers": 2}),
    "deepep-ll-7168": ("deepep-ll", 2, 1, {"hidden": 7168, "tokens": 8, "layers": 2, "steps": 2}),
    "deepep-ll-2-a-node": ("deepep-ll", 4, 2, {"layers": 2}),
    "uccl-ep": ("uccl-ep", 2, 1, {"batch": 4, "qps": 2}),
    "uccl-ep-bulk": ("uccl-ep", 3, 1, {"batch": 0, "layers": 2}),
    "uccl-ep-training": ("uccl-ep", 2, 1, dict(TRAINING, **{"micro-batches": 2})),
    "deepep-ll-shared": ("deepep-ll-shared", 2, 1, {}),
    "deepep-ll-shared-training": ("deepep-ll-shared", 3, 1, TRAINING),
    "uccl-ep-imm": ("uccl-ep-imm", 2, 1, {"batch": 4, "qps": 2}),
    "uccl-ep-imm-training": ("uccl-ep-imm", 3, 1, dict(TRAINING, batch=0, layers=2)),
    "queue-pairs": ("queue-pairs", 3, 1, {"layers": 2}),
    "queue-pairs-recompute": ("queue-pairs", 2, 1, {"pattern": "training-recompute", "layers": 2, "steps": 2}),
    "deepep-normal": ("deepep-normal", 3, 1, {"tokens": 48, "layers": 2}),
    "deepep-normal-training": ("deepep-normal", 4, 2, dict(TRAINING, tokens=48)),
    "deepep-normal-recompute": ("deepep-normal", 2, 1, {"pattern": "training-recompute", "layers": 1, "tokens": 48}),
    "deepep-normal-64": ("deepep-normal", 2, 1, {"experts-per-rank": 64, "layers": 2}),
    "pplx-garden": ("pplx-garden", 3, 1, {"tokens": 32, "layers": 2}),
    "pplx-garden-training": ("pplx-garden", 2, 1, dict(TRAINING, tokens=32)),
    "pplx-garden-64": ("pplx-garden", 4, 1, {"experts-per-rank": 64, "layers": 2, "steps": 2}),
    "deepep-v2-direct": ("deepep-v2-direct", 3, 1, {}),
    "deepep-v2-direct-training": ("deepep-v2-direct", 2, 1, dict(TRAINING, **{"micro-batches": 2, "top-k": 8})),
    "deepep-v2-hybrid": ("deepep-v2-hybrid", 4, 2, {"tokens": 32}),
    "deepep-v2-hybrid-training": ("deepep-v2-hybrid", 2, 1, dict(TRAINING, tokens=32)),
    "fastmoe": ("fastmoe", 3, 1, {"tokens": 48}),
    "fastmoe-training": ("fastmoe", 2, 1, dict(TRAINING, tokens=48)),
    "fastmoe-64": ("fastmoe", 2, 1, {"experts-per-rank": 64, "layers": 2}),
    "megatron": ("megatron", 3, 1, {"experts-per-rank": 1, "top-k": 2, "layers": 2, "steps": 2, "tokens": 48}),
    "megatron-training": ("megatron", 2, 1, dict(TRAINING, **{"experts-per-rank": 1, "top-k": 1, "layers": 2,
                                                             "steps": 1})),
}
CHECK = ["deepep-ll/mtu1024", "deepep-ll-training/loss1/mtu1024", "deepep-ll-4/ipv6/mtu4096",
         "deepep-ll-7168/loss1/mtu4096", "deepep-ll-2-a-node/ipv6/mtu1024", "deepep-ll-shared/loss1/mtu1024",
         "uccl-ep/loss1/mtu1024", "uccl-ep-bulk/ipv6/mtu4096", "uccl-ep-training/mtu1024",
         "uccl-ep-imm/loss1/mtu1024", "uccl-ep-imm-training/ipv6/mtu4096",
         "queue-pairs/loss1/mtu1024", "queue-pairs-recompute/ipv6/mtu4096",
         "deepep-normal-training/loss1/mtu4096", "deepep-normal/ipv6/mtu1024", "deepep-normal-64/loss1/mtu256",
         "pplx-garden/mtu1024", "pplx-garden-training/loss1/mtu4096",
         "deepep-v2-direct/loss1/mtu1024", "deepep-v2-hybrid/ipv6/loss1/mtu4096",
         "fastmoe/loss1/mtu1024", "megatron/ipv6/mtu4096"]
# Counts in payloads under every condition.
MATRIX = [f"{name}{version}{loss}/mtu{mtu}" for name in
          ("deepep-normal", "deepep-normal-training", "pplx-garden", "pplx-garden-training")
          for version in ("", "/ipv6") for loss in ("", "/loss1") for mtu in (1024, 4096)]
MORE = MATRIX + [
    "deepep-ll/ipv6/loss5/mtu4096", "deepep-ll-shared/ipv6/mtu4096", "deepep-ll-shared-training/loss5/mtu1024",
    "uccl-ep-imm/ipv6/loss5/mtu4096", "uccl-ep-imm/mtu1024",
    "deepep-normal/loss5/mtu1024", "deepep-normal-64/mtu256", "deepep-normal-recompute/mtu1024",
    "pplx-garden/ipv6/loss5/mtu1024", "pplx-garden-64/ipv6/loss1/mtu256", "pplx-garden-64/mtu1024",
    "deepep-v2-direct/ipv6/mtu4096", "deepep-v2-direct-training/mtu1024", "deepep-v2-direct-training/loss5/mtu4096",
    "deepep-v2-hybrid/mtu1024", "deepep-v2-hybrid-training/loss5/mtu1024", "deepep-v2-hybrid-training/mtu4096",
    "fastmoe/ipv6/mtu4096", "fastmoe-training/loss5/mtu4096", "fastmoe-training/mtu1024", "fastmoe-64/loss1/mtu256",
    "megatron/loss1/mtu1024", "megatron-training/mtu1024"]

# Layouts whose messages are for all experts of a node: its ranks are one of the map's.
BY_NODE = ("deepep-normal", "deepep-v2-hybrid")
# A backward pass of these sends no counts: moetap cannot see it.
NO_BACKWARD = ("deepep-normal", "deepep-v2-direct", "deepep-v2-hybrid", "fastmoe")
# Nothing but silence parts a dispatch from a combine, and both look alike: they are rounds of two layers.
SILENT = ("megatron",)
IDLE_GAP_US = 500000

ANYWHERE = 1 << 47


def low_latency(job):
    """Buffers flip with every dispatch and every combine: all dispatches use the first, combines the second."""
    ranks, experts, tokens = job["num_ranks"], job["experts_per_rank"], job["tokens"]
    area, combined = tokens * job["message"], ranks * experts * tokens * job["combine_stride"]
    cells = ranks * experts * 8
    return [
        f"  - {{name: token, rule: va, phase: dispatch, offset: {job['tokens_at']}, "
        f"size: {experts * ranks * area}, expert: {{stride: {ranks * area}, count: {experts}}}, "
        f"source: {{stride: {area}, count: {ranks}}}, token-bytes: {job['message']}}}",
        f"  - {{name: combine, rule: va, phase: combine, length: {job['combine_message']}, "
        f"offset: {job['tokens_at'] + job['tokens_stride']}, size: {combined}}}",
        f"  - {{name: count, rule: atomic, phase: count, offset: {job['counts']}, size: {cells}, "
        f"expert: {{stride: {ranks * 8}, count: {experts}}}, source: {{stride: 8, count: {ranks}}}, "
        "value: {scale: -1, add: -1}}",
        f"  - {{name: flag, rule: atomic, phase: combine, offset: {job['counts'] + job['counts_stride']}, "
        f"size: {cells}}}"]


def queue_pairs(job):
    """A queue pair an expert. A SEND does not say its length."""
    return [f"  - {{name: token, rule: qp, phase: dispatch, length: [0, {job['message']}], "
            f"token-bytes: {job['message']}}}",
            f"  - {{name: combine, rule: length, phase: combine, length: {job['combine_message']}}}"]


def low_latency_shared(job):
    """A buffer a round: flags of a combine are added to the cells of the counts."""
    ranks, experts, tokens = job["num_ranks"], job["experts_per_rank"], job["tokens"]
    area, combined = tokens * job["message"], ranks * experts * tokens * job["combine_stride"]
    parity = f"parity: {{stride: {job['tokens_stride']}, count: 2}}"
    cells = f"offset: {job['counts']}, size: {ranks * experts * 8}, " \
        f"parity: {{stride: {job['counts_stride']}, count: 2}}"
    return [
        f"  - {{name: token, rule: va, phase: dispatch, length: {job['message']}, offset: {job['tokens_at']}, "
        f"size: {experts * ranks * area}, {parity}, expert: {{stride: {ranks * area}, count: {experts}}}, "
        f"source: {{stride: {area}, count: {ranks}}}}}",
        f"  - {{name: combine, rule: va, phase: combine, length: {job['combine_message']}, "
        f"offset: {job['tokens_at']}, size: {combined}, {parity}}}",
        f"  - {{name: count, rule: atomic, phase: count, {cells}, expert: {{stride: {ranks * 8}, count: {experts}}}, "
        f"source: {{stride: 8, count: {ranks}}}, value: {{scale: -1, add: -1}}, when: negative}}",
        f"  - {{name: flag, rule: atomic, phase: combine, {cells}, when: positive}}"]


def immediates(job):
    """Without atomics: the cells are places in immediates of empty messages."""
    ranks, experts = job["num_ranks"], job["experts_per_rank"]
    place = "place: {shift: 0, bits: 13, unit: 8}, " \
        f"size: {ranks * experts * 8}, parity: {{stride: {job['counts_stride']}, count: 2}}"
    return low_latency(job)[:2] + [
        "  - {name: count, rule: imm, phase: count, length: 0, imm: {mask: 0xc0000000, value: 0x80000000}, "
        f"{place}, "
        f"expert: {{stride: {ranks * 8}, count: {experts}}}, source: {{stride: 8, count: {ranks}}}, "
        "value: {shift: 13, bits: 15, signed: 1, scale: -1, add: -1}}",
        "  - {name: done, rule: imm, phase: combine, length: 0, imm: {mask: 0xc0000000, value: 0xc0000000}, "
        f"{place}}}",
        "  - {name: sync, rule: imm, phase: control, length: 0, imm: {mask: 0xc0000000, value: 0x40000000}, "
        "place: {shift: 0, bits: 8}, size: 256}"]


def counts_of(length, width, encoding="plain", of="dst", at=0, region="", announcers=1):
    return [f"  - {{name: counts, rule: payload-counts, phase: dispatch, length: {length}, {region}"
            f"payload: {{at: {at}, width: {width}, encoding: {encoding}, of: {of}}}, announcers: {announcers}}}"]


def but(length):
    """Messages of any other length are of no interest."""
    return [f"  - {{name: shorter, rule: length, phase: control, length: [0, {length - 1}]}}",
            f"  - {{name: longer, rule: length, phase: control, length: [{length + 1}, 2147483647]}}"]


ATOMICS = [f"  - {{name: cells, rule: atomic, phase: control, size: {ANYWHERE}}}"]


def normal(job):
    """Eight GPUs a node stand before the experts, also where there are fewer."""
    length = job["counts_message"]
    return counts_of(length, 4, at=32, announcers=job["gpus_per_node"]) + but(length) + ATOMICS


def garden(job):
    length = 4 * job["num_ranks"] * job["experts_per_rank"]
    return counts_of(length, 4, of="all") + but(length)


def direct(job):
    """Regions tell all messages apart; those of a combine lie where tokens lie, and have another length."""
    ranks, experts = job["num_ranks"], job["experts_per_rank"]
    size = 8 * ranks * experts
    return counts_of(8 * experts, 8, "complement", region=f"offset: {job['counts']}, size: {size}, ") + [
        f"  - {{name: rank-counts, rule: va, phase: control, length: 8, offset: {job['counts'] - 8 * ranks}, "
        f"size: {8 * ranks}}}",
        f"  - {{name: token, rule: va, phase: control, length: {job['token']}, offset: {job['tokens_at']}, "
        f"size: {job['tokens_size']}}}",
        f"  - {{name: result, rule: va, phase: combine, length: {job['combine_message']}, "
        f"offset: {job['combined_at']}, size: {job['combined_size']}}}",
        "  - {name: barrier, rule: atomic, phase: control, offset: 0, size: 8192}"]


def hybrid(job):
    length = 4 * job["gpus_per_node"] * job["experts_per_rank"]
    return counts_of(length, 4, "complement", announcers=job["gpus_per_node"]) + but(length) + ATOMICS


def fastmoe(job):
    length = 8 * job["experts_per_rank"]
    return counts_of(length, 8) + but(length)


def megatron(job):
    """One expert a rank. An empty message is a dispatch of no tokens: without it a round would be missing."""
    expert = f"expert: {{fixed: 0}}, token-bytes: {job['token']}"
    return [f"  - {{name: empty, rule: length, phase: dispatch, length: 0, {expert}}}",
            f"  - {{name: clear, rule: length, phase: control, length: {job['clear_to_send']}}}",
            f"  - {{name: step, rule: length, phase: dispatch, length: [65, {job['step']}], {expert}}}"]


RULES = {"deepep-ll": low_latency, "deepep-ll-shared": low_latency_shared, "uccl-ep": low_latency,
         "uccl-ep-imm": immediates, "queue-pairs": queue_pairs, "deepep-normal": normal, "pplx-garden": garden,
         "deepep-v2-direct": direct, "deepep-v2-hybrid": hybrid, "fastmoe": fastmoe, "megatron": megatron}


def map_ranks(job):
    """[(rank of the map, addresses, base)]: with nodes as ranks there is no base, for every GPU has its own."""
    gpus = job["gpus_per_node"]
    if job["layout"] not in BY_NODE:
        return [(r["rank"], [r["address"]], r["base"]) for r in job["ranks"]]
    nodes = collections.defaultdict(list)
    for r in job["ranks"]:
        nodes[r["rank"] // gpus].append(r["address"])
    return [(n, addresses, 0) for n, addresses in nodes.items()]


def map_pattern(job, spec):
    """(pattern, layers, micro-batches) of the rounds that can be seen."""
    pattern, layers, micro = spec.get("pattern", "inference"), job["layers"], job["micro_batches"]
    if job["layout"] in NO_BACKWARD:
        # of a recomputed layer the counts come again, so the layers come back in reverse: as in 'training'
        pattern = {"training": "inference", "training-recompute": "training"}.get(pattern, pattern)
    return pattern, layers * 2 if job["layout"] in SILENT else layers, micro


def make_map(job, spec, name):
    pattern, layers, micro = map_pattern(job, spec)
    experts = job["experts_per_rank"] * (job["gpus_per_node"] if job["layout"] in BY_NODE else 1)
    lines = job2map.preamble(name, layers, experts, map_ranks(job), pattern=pattern, micro_batches=micro,
                             idle_gap_us=IDLE_GAP_US if job["layout"] in SILENT else None)
    if job["layout"] == "queue-pairs":
        lines += ["flows:"] + [f"  - {{src: {f['src']}, dst: {f['dst']}, qpn: {f['qpn']}, "
                               f"expert: {f['dst'] * experts + f['index']}}}" for f in job["flows"]]
    return "\n".join(lines + ["rules:"] + RULES[job["layout"]](job)) + "\n"


def as_mapped(job, truth):
    """The truth as moetap must see it with the map."""
    gpus, out = job["gpus_per_node"], collections.Counter()
    for k, n in truth.items():
        if k.src // gpus == k.dst // gpus:
            continue        # it crossed no wire
        if job["layout"] in BY_NODE:
            k = k._replace(src=k.src // gpus, dst=k.dst // gpus)
        if job["layout"] in SILENT:
            # and back, which looks the same
            out[k._replace(layer=2 * k.layer + 1, src=k.dst, dst=k.src, expert=k.src)] += n
            k = k._replace(layer=2 * k.layer)
        out[k] += n
    return out


def run_job(lab, case, folder):
    """Runs it; (spec, job.json, truth of what crossed the wire)."""
    if not os.path.exists(PROGRAM):
        raise machines.Unavailable(f"no {PROGRAM}: apt-get install libibverbs-dev, and configure again")
    layout, ranks, gpus, changes = SPECS[case.name]
    spec = dict(BASIC, **changes)
    where = [(r // gpus + 1, r % gpus) for r in range(ranks)]
    lines = [f"layout {layout}", f"ranks {ranks}", f"gpus-per-node {gpus}", f"mtu {case.path_mtu}",
             f"control {machines.address(1)}"]
    lines += [f"{k} {v}" for k, v in spec.items()]
    lines += [f"rank {r} {machines.address(m, slot, case.version)}" for r, (m, slot) in enumerate(where)]
    for m in {m for m, _ in where}:
        # what a rank writes comes out in the folder of its machine
        shutil.copy(PROGRAM, lab.machines[m - 1].folder)
        with open(os.path.join(lab.machines[m - 1].folder, "spec"), "w") as f:
            f.write("\n".join(lines) + "\n")
    capture = machines.Capture(os.path.join(folder, "capture.pcap"))
    with lab.programs():
        jobs = [lab.run(m, f"exec /run/lab/lab-job /run/lab/spec {r} /run/lab") for r, (m, _) in enumerate(where)]
        end = time.monotonic() + SECONDS
        for j in jobs:
            j.wait(end - time.monotonic())
    capture.stop()
    if case.loss:
        payload.must_be_sound(capture.path)
    with open(os.path.join(folder, "truth.csv"), "w") as out:
        out.write("step,layer,src,dst,expert,tokens\n")
        for r, (m, _) in enumerate(where):
            with open(os.path.join(lab.machines[m - 1].folder, f"truth-{r}.csv")) as f:
                out.write(f.read())
    shutil.copy(os.path.join(lab.machines[0].folder, "job.json"), folder)
    with open(os.path.join(folder, "job.json")) as f:
        job = json.load(f)
    truth = moetap.read_truth(os.path.join(folder, "truth.csv"))
    return spec, job, {k: n for k, n in truth.items() if k.src // gpus != k.dst // gpus}


def judge_payloads(job, spec, path, truth):
    """A reader of its own, which knows no map, must find the truth in the payloads too."""
    again = {"inference": 1, "training": 2, "training-recompute": 3}[spec.get("pattern", "inference")]
    if job["layout"] in NO_BACKWARD:
        again = max(1, again - 1)
    payload.check(job, path, truth, (again, again))


def run(lab, case, folder):
    spec, job, truth = run_job(lab, case, folder)
    lost = lab.lost()
    text = f"; {lost} packets lost" if case.loss else ""
    if case.loss and not lost:
        raise Failure(f"{case.loss} % loss was asked for, and nothing was lost")
    tokens = sum(truth.values())
    capture, path = (os.path.join(folder, name) for name in ("capture.pcap", "map.yaml"))
    if job["layout"] in payload.READERS:
        judge_payloads(job, spec, capture, truth)
    with open(path, "w") as f:
        f.write(make_map(job, spec, case.name))
    counts = moetap.count(path, capture)
    truth = as_mapped(job, truth)
    pairs = {(k.src, k.dst) for k in truth}
    counts.tokens = {k: n for k, n in counts.tokens.items() if k.phase == "dispatch" and (k.src, k.dst) in pairs}
    moetap.must_equal(counts, truth, str(case))
    unread = {word: n for word, n in perftest.outcomes(counts).items() if word in NOT_READ}
    if unread:
        raise Failure(f"{case}: messages that no rule knew: {unread}\n{counts.stderr[-1500:]}")
    return f"{tokens} tokens in {len(truth)} cells{text}"


CASES = {name: (run, -(-ranks // gpus)) for name, (_, ranks, gpus, _) in SPECS.items()}
