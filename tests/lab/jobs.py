# SPDX-License-Identifier: BSD-3-Clause
"""Our own job with the wire layouts of frameworks: moetap must count every cell as the job did. Layouts
that no rule of moetap's maps can read yet are run too, and leave capture, job.json and truth."""
import json
import os
import shutil
import time

import job2map
import machines
import moetap
import payload
from moetap import Failure

PROGRAM = os.path.join(os.path.abspath(moetap.BUILD), "tests", "lab", "lab-job")
SECONDS = 120
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
    "queue-pairs": ("queue-pairs", 3, 1, {"layers": 2}),
    "queue-pairs-recompute": ("queue-pairs", 2, 1, {"pattern": "training-recompute", "layers": 2, "steps": 2}),
    "deepep-normal": ("deepep-normal", 3, 1, {"tokens": 48, "layers": 2}),
    "deepep-normal-training": ("deepep-normal", 4, 2, dict(TRAINING, tokens=48)),
    "pplx-garden": ("pplx-garden", 3, 1, {"tokens": 32, "layers": 2}),
    "pplx-garden-training": ("pplx-garden", 2, 1, dict(TRAINING, tokens=32)),
}
CHECK = ["deepep-ll/mtu1024", "deepep-ll-training/loss1/mtu1024", "deepep-ll-4/ipv6/mtu4096",
         "deepep-ll-7168/loss1/mtu4096", "deepep-ll-2-a-node/ipv6/mtu1024", "uccl-ep/loss1/mtu1024",
         "uccl-ep-bulk/ipv6/mtu4096", "uccl-ep-training/mtu1024", "queue-pairs/loss1/mtu1024",
         "queue-pairs-recompute/ipv6/mtu4096", "deepep-normal-training/loss1/mtu4096", "deepep-normal/ipv6/mtu1024",
         "pplx-garden/mtu1024", "pplx-garden-training/loss1/mtu4096"]


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


RULES = {"deepep-ll": low_latency, "uccl-ep": low_latency, "queue-pairs": queue_pairs}


def make_map(job, spec, name):
    ranks = [(r["rank"], [r["address"]], r["base"]) for r in job["ranks"]]
    lines = job2map.preamble(name, job["layers"], job["experts_per_rank"], ranks,
                             pattern=spec.get("pattern", "inference"), micro_batches=job["micro_batches"])
    if job["layout"] == "queue-pairs":
        experts = job["experts_per_rank"]
        lines += ["flows:"] + [f"  - {{src: {f['src']}, dst: {f['dst']}, qpn: {f['qpn']}, "
                               f"expert: {f['dst'] * experts + f['index']}}}" for f in job["flows"]]
    return "\n".join(lines + ["rules:"] + RULES[job["layout"]](job)) + "\n"


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
    capture = machines.Capture(os.path.join(folder, "capture.pcap"), 0)
    jobs = [lab.run(m, f"exec /run/lab/lab-job /run/lab/spec {r} /run/lab") for r, (m, _) in enumerate(where)]
    end = time.monotonic() + SECONDS
    for j in jobs:
        j.wait(end - time.monotonic())
    capture.stop()
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


def run(lab, case, folder):
    spec, job, truth = run_job(lab, case, folder)
    lost = lab.lost()
    text = f"; {lost} packets lost" if case.loss else ""
    if case.loss and not lost:
        raise Failure(f"{case.loss} % loss was asked for, and nothing was lost")
    tokens = sum(truth.values())
    if job["layout"] not in RULES:
        # a backward pass of DeepEP sends no counts; one of pplx-garden is like a forward pass
        again = {"inference": 1, "training": 2, "training-recompute": 3}[spec.get("pattern", "inference")]
        if job["layout"] == "deepep-normal":
            again = max(1, again - 1)
        payload.check(job, os.path.join(folder, "capture.pcap"), truth, (again, again))
        return f"{tokens} tokens as the payloads say; no rule reads this layout yet{text}"
    path = os.path.join(folder, "map.yaml")
    with open(path, "w") as f:
        f.write(make_map(job, spec, case.name))
    counts = moetap.count(path, os.path.join(folder, "capture.pcap"))
    gpus = job["gpus_per_node"]
    counts.tokens = {k: n for k, n in counts.tokens.items()
                     if k.phase == "dispatch" and k.src // gpus != k.dst // gpus}
    moetap.must_equal(counts, truth, str(case))
    return f"{tokens} tokens in {len(truth)} cells{text}"


CASES = {name: (run, -(-ranks // gpus)) for name, (_, ranks, gpus, _) in SPECS.items()}
