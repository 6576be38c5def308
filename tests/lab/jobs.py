# SPDX-License-Identifier: BSD-3-Clause
"""Our own job with the wire layouts of frameworks: moetap must count every cell as the job did."""
import collections
import json
import os
import shutil
import time

import job2map
import live
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
ONE_EXPERT = {"experts-per-rank": 1, "top-k": 2, "steps": 2, "tokens": 96}
LISTS = {"hidden": 1920, "top-k": 8, "tokens": 48, "batch": 6, "steps": 2}

# case → layout, ranks, gpus a node, what differs from BASIC
SPECS = {
    "deepep-ll": ("deepep-ll", 2, 1, {}),
    "deepep-ll-training": ("deepep-ll", 3, 1, TRAINING),
    "deepep-ll-4": ("deepep-ll", 4, 1, {"qps": 2, "layers": 2}),
    "deepep-ll-7168": ("deepep-ll", 2, 1, {"hidden": 7168, "tokens": 8, "layers": 2, "steps": 2}),
    "deepep-ll-2-a-node": ("deepep-ll", 4, 2, {"layers": 2}),
    "deepep-ll-bf16": ("deepep-ll", 2, 1, {"fp8": 0}),
    "deepep-ll-bulk": ("deepep-ll-bulk", 3, 1, {"tokens": 48, "layers": 2}),
    "deepep-ll-shared": ("deepep-ll-shared", 2, 1, {}),
    "deepep-ll-shared-training": ("deepep-ll-shared", 3, 1, TRAINING),
    "uccl-ep": ("uccl-ep", 2, 1, {"batch": 4, "qps": 2}),
    "uccl-ep-bulk": ("uccl-ep", 3, 1, {"batch": 0, "layers": 2, "fp8": 0}),
    "uccl-ep-training": ("uccl-ep", 2, 1, dict(TRAINING, **{"micro-batches": 2})),
    "uccl-ep-imm": ("uccl-ep-imm", 2, 1, {"batch": 4, "qps": 2}),
    "uccl-ep-imm-training": ("uccl-ep-imm", 3, 1, dict(TRAINING, batch=0, layers=2, fp8=0)),
    "queue-pairs": ("queue-pairs", 3, 1, {"layers": 2}),
    "queue-pairs-recompute": ("queue-pairs", 2, 1, {"pattern": "training-recompute", "layers": 2, "steps": 2}),
    "deepep-normal": ("deepep-normal", 3, 1, {"tokens": 48, "layers": 2}),
    "deepep-normal-training": ("deepep-normal", 4, 2, dict(TRAINING, tokens=48)),
    "deepep-normal-recompute": ("deepep-normal", 2, 1, {"pattern": "training-recompute", "layers": 1, "tokens": 48}),
    "deepep-normal-64": ("deepep-normal", 2, 1, {"experts-per-rank": 64, "layers": 2}),
    # lists of 8 experts, of which some lie in two packets, also of 4096 bytes
    "deepep-normal-lists": ("deepep-normal", 3, 1, dict(LISTS, layers=2)),
    "deepep-normal-lists-training": ("deepep-normal", 4, 2, dict(TRAINING, **dict(LISTS, batch=4))),
    "pplx-garden": ("pplx-garden", 3, 1, {"tokens": 32, "layers": 2}),
    "pplx-garden-training": ("pplx-garden", 2, 1, dict(TRAINING, tokens=32)),
    "pplx-garden-64": ("pplx-garden", 4, 1, {"experts-per-rank": 64, "layers": 2, "steps": 2, "hidden": 640}),
    "pplx-kernels": ("pplx-kernels", 3, 1, {"layers": 2}),
    "pplx-kernels-bf16": ("pplx-kernels", 4, 2, {"layers": 2, "steps": 2, "fp8": 0, "hidden": 2048}),
    "pplx-kernels-training": ("pplx-kernels", 2, 1, TRAINING),
    "deepep-v2-direct": ("deepep-v2-direct", 3, 1, {}),
    "deepep-v2-direct-training": ("deepep-v2-direct", 2, 1, dict(TRAINING, **{"micro-batches": 2, "top-k": 8})),
    "deepep-v2-lists": ("deepep-v2-direct", 3, 1, {"hidden": 4096, "top-k": 8, "layers": 2, "steps": 2}),
    "deepep-v2-hybrid": ("deepep-v2-hybrid", 4, 2, {"tokens": 32}),
    "deepep-v2-hybrid-training": ("deepep-v2-hybrid", 2, 1, dict(TRAINING, tokens=32)),
    "hybrid-ep": ("hybrid-ep", 4, 2, {"tokens": 80, "layers": 2, "steps": 2}),
    "hybrid-ep-bf16": ("hybrid-ep", 3, 1, {"tokens": 80, "layers": 2, "steps": 2, "fp8": 0}),
    "hybrid-ep-training": ("hybrid-ep", 3, 1, dict(TRAINING, **{"experts-per-rank": 8, "layers": 2, "tokens": 80})),
    "hybrid-ep-recompute": ("hybrid-ep", 4, 2, {"pattern": "training-recompute", "layers": 1, "steps": 2}),
    # rows of 80 bytes, up to 32 in a message: they lie in two packets, too
    "hybrid-ep-runs": ("hybrid-ep-runs", 3, 1, {"experts-per-rank": 20, "tokens": 80, "layers": 2, "steps": 2}),
    "nccl": ("nccl", 3, 1, dict(ONE_EXPERT, layers=1)),
    "nccl-4": ("nccl", 4, 1, dict(ONE_EXPERT, layers=2)),
    "nccl-4096": ("nccl", 2, 1, dict(ONE_EXPERT, layers=1, hidden=4096, tokens=160)),
    "nccl-few": ("nccl", 3, 1, dict(ONE_EXPERT, **{"layers": 3, "tokens": 2, "top-k": 1, "steps": 3})),
    "nccl-training": ("nccl", 2, 1, dict(ONE_EXPERT, **dict(TRAINING, layers=2))),
    "fastmoe": ("fastmoe", 3, 1, {"tokens": 48}),
    "fastmoe-training": ("fastmoe", 2, 1, dict(TRAINING, tokens=48)),
    "fastmoe-64": ("fastmoe", 2, 1, {"experts-per-rank": 64, "layers": 2}),
    "megatron": ("megatron", 3, 1, dict(ONE_EXPERT, layers=1)),
    "megatron-training": ("megatron", 2, 1, dict(ONE_EXPERT, **dict(TRAINING, layers=2, steps=1))),
    # of these tests/data has captures
    "hybrid-ep-small": ("hybrid-ep", 2, 1, dict(TRAINING, **{"experts-per-rank": 8, "layers": 2, "tokens": 20})),
    "pplx-kernels-small": ("pplx-kernels", 2, 1, {"layers": 2, "steps": 2, "tokens": 16, "top-k": 2}),
    "deepep-normal-lists-small": ("deepep-normal", 2, 1, dict(LISTS, layers=2, tokens=10)),
}
CHECK = ["deepep-ll/live/mtu1024", "deepep-ll-training/loss1/mtu1024", "deepep-ll-4/ipv6/mtu4096",
         "deepep-ll-7168/loss1/mtu4096", "deepep-ll-2-a-node/ipv6/mtu1024", "deepep-ll-shared/loss1/mtu1024",
         "deepep-ll-bulk/mtu1024",
         "uccl-ep/loss1/mtu1024", "uccl-ep-bulk/ipv6/mtu4096", "uccl-ep-training/mtu1024",
         "uccl-ep-imm/loss1/mtu1024", "uccl-ep-imm-training/ipv6/mtu4096",
         "queue-pairs/loss1/mtu1024", "queue-pairs-recompute/ipv6/mtu4096",
         "deepep-normal-training/loss1/mtu4096", "deepep-normal/ipv6/mtu1024", "deepep-normal-64/loss1/mtu256",
         "deepep-normal-lists/loss1/mtu1024",
         "pplx-garden/mtu1024", "pplx-garden-training/loss1/mtu4096",
         "pplx-kernels/ipv6/mtu1024", "pplx-kernels-training/loss1/mtu4096",
         "deepep-v2-direct/live/loss1/mtu1024", "deepep-v2-direct-training/mtu4096", "deepep-v2-lists/ipv6/mtu1024",
         "deepep-v2-hybrid/ipv6/loss1/mtu4096", "deepep-v2-hybrid-training/mtu1024",
         "hybrid-ep/mtu4096", "hybrid-ep-training/ipv6/loss1/mtu1024", "hybrid-ep-runs/loss1/mtu1024",
         "nccl/mtu4096", "nccl/ipv6/loss1/mtu1024",
         "fastmoe/loss1/mtu1024", "fastmoe-training/ipv6/mtu4096", "megatron/ipv6/mtu4096", "megatron/loss1/mtu1024"]
# What is in payloads, under every condition.
MATRIX = [f"{name}{version}{loss}/mtu{mtu}" for name in
          ("deepep-normal", "deepep-normal-training", "deepep-normal-lists", "pplx-garden", "pplx-garden-training",
           "pplx-kernels", "hybrid-ep", "nccl")
          for version in ("", "/ipv6") for loss in ("", "/loss1") for mtu in (1024, 4096)]
# Tapped while they run; lists in payloads are not among them, for they want longer frames than the tap's (live.py).
LIVE = ["uccl-ep/live/ipv6/loss1/mtu4096", "deepep-normal/live/ipv6/mtu4096", "pplx-garden/live/ipv6/mtu1024",
        "pplx-kernels/live/loss5/mtu1024", "hybrid-ep/live/mtu4096", "fastmoe/live/mtu1024",
        "nccl/live/loss1/mtu1024"]
MORE = MATRIX + LIVE + [
    "deepep-ll/ipv6/loss5/mtu4096", "deepep-ll-bf16/loss1/mtu1024", "deepep-ll-bulk/ipv6/loss5/mtu4096",
    "deepep-ll-shared/ipv6/mtu4096", "deepep-ll-shared-training/loss5/mtu1024",
    "uccl-ep/loss5/mtu4096", "uccl-ep-bulk/loss1/mtu1024", "uccl-ep-imm/ipv6/loss5/mtu4096", "uccl-ep-imm/mtu1024",
    "deepep-normal/loss5/mtu1024", "deepep-normal-64/mtu256", "deepep-normal-recompute/mtu1024",
    "deepep-normal-lists/loss5/mtu256", "deepep-normal-lists-training/mtu1024",
    "deepep-normal-lists-training/ipv6/loss1/mtu4096",
    "pplx-garden/ipv6/loss5/mtu1024", "pplx-garden-64/ipv6/loss1/mtu256", "pplx-garden-64/mtu1024",
    "pplx-kernels/loss5/mtu1024", "pplx-kernels-bf16/loss1/mtu4096", "pplx-kernels-training/ipv6/mtu1024",
    "deepep-v2-direct/ipv6/mtu4096", "deepep-v2-direct-training/mtu1024", "deepep-v2-direct-training/loss5/mtu4096",
    "deepep-v2-lists/loss1/mtu1024", "deepep-v2-lists/loss5/mtu256",
    "deepep-v2-hybrid/mtu1024", "deepep-v2-hybrid-training/loss5/mtu1024", "deepep-v2-hybrid-training/mtu4096",
    "hybrid-ep/loss5/mtu1024", "hybrid-ep-bf16/mtu1024", "hybrid-ep-bf16/loss1/mtu4096", "hybrid-ep-training/mtu4096",
    "hybrid-ep-recompute/ipv6/loss1/mtu4096", "hybrid-ep-runs/ipv6/mtu4096", "hybrid-ep-runs/loss5/mtu256",
    "hybrid-ep-bf16/loss5/mtu4096", "nccl-4/loss1/mtu4096", "nccl-4096/mtu4096", "nccl-4096/loss1/mtu1024",
    "nccl-few/mtu1024", "nccl-few/loss5/mtu1024",
    "nccl-training/loss1/mtu4096", "nccl-training/ipv6/mtu1024",
    "fastmoe/ipv6/mtu4096", "fastmoe-training/loss5/mtu4096", "fastmoe-training/mtu1024", "fastmoe-64/loss1/mtu256",
    "megatron-training/mtu1024",
    "hybrid-ep-small/mtu1024", "pplx-kernels-small/mtu1024", "deepep-normal-lists-small/mtu4096"]

# Layouts whose messages are for all experts of a node: its ranks are one of the map's.
BY_NODE = ("deepep-normal", "deepep-v2-hybrid", "hybrid-ep", "hybrid-ep-runs")
# A backward pass of these sends no counts: moetap cannot see it.
NO_BACKWARD = ("deepep-normal", "deepep-v2-direct", "deepep-v2-hybrid", "fastmoe")
# Nothing but silence parts rounds.
SILENT = ("hybrid-ep", "hybrid-ep-runs", "nccl", "megatron")
# And all of a layer's look alike: they are rounds of so many layers.
ROUNDS = {"nccl": 2, "megatron": 3}
CLEAR_TO_SEND = 64
IDLE_GAP_US = 600000    # SILENCE_MS of layout.h is longer

ANYWHERE = 1 << 47


def dtype(job):
    return "fp8" if job["fp8"] else "bf16"


def low_latency(job):
    return {"hidden": job["hidden"], "tokens": job["tokens"], "dtype": dtype(job)}


def uccl(job):
    return dict(low_latency(job), batching="batches" if job["batching"] else "no-batches")


# layout → its preset, and what that wants to know
PRESET_OF = {
    "deepep-ll": ("deepep-ll", lambda job: dict(low_latency(job), cell=8)),     # atomics of soft RoCE have 8 bytes
    "deepep-ll-shared": ("deepep-ll", lambda job: dict(low_latency(job), cell=8)),
    "uccl-ep": ("uccl-ep", uccl),
    "uccl-ep-imm": ("uccl-ep-imm", uccl),
    "deepep-normal": ("deepep-normal", lambda job: {"hidden": job["hidden"], "topk": job["top_k"],
                                                    "gpus": job["gpus_per_node"]}),
    "pplx-garden": ("pplx-garden", lambda job: {"hidden": job["hidden"], "scales": job["hidden"] // 128}),
    "pplx-kernels": ("pplx-kernels", lambda job: {key: job[key] for key in (
        "hidden", "hidden_bytes", "scale_bytes", "tokens", "x_out", "c_out")}),
    "deepep-v2-direct": ("deepep-v2-direct", lambda job: {}),
    "deepep-v2-hybrid": ("deepep-v2-hybrid", lambda job: {"gpus": job["gpus_per_node"]}),
    "hybrid-ep": ("hybrid-ep", lambda job: {"hidden": job["hidden"], "dtype": dtype(job)}),
    "nccl": ("nccl", lambda job: {"hidden": job["hidden"]}),
    "fastmoe": ("fastmoe", lambda job: {"hidden": job["hidden"]}),
    "megatron": ("megatron", lambda job: {"hidden": job["hidden"]}),
}
# Maps of what no preset reads.

def queue_pairs(job):
    """A queue pair an expert. A SEND does not say its length."""
    return [f"  - {{name: token, rule: qp, phase: dispatch, length: [0, {job['message']}], "
            f"token-bytes: {job['message']}}}",
            f"  - {{name: combine, rule: length, phase: combine, length: {job['combine_message']}}}"]


def bulk(job):
    """Dispatches use the first buffers alone, and combines the second: any multiple of a token is one."""
    ranks, experts = job["num_ranks"], job["experts_per_rank"]
    area = job["tokens"] * job["message"]
    cells = ranks * experts * 8
    return [
        f"  - {{name: token, rule: va, phase: dispatch, offset: {job['tokens_at']}, "
        f"size: {experts * ranks * area}, expert: {{stride: {ranks * area}, count: {experts}}}, "
        f"source: {{stride: {area}, count: {ranks}}}, token-bytes: {job['message']}}}",
        f"  - {{name: combine, rule: va, phase: combine, length: {job['combine_message']}, "
        f"offset: {job['tokens_at'] + job['tokens_stride']}, "
        f"size: {ranks * experts * job['tokens'] * job['combine_stride']}}}",
        f"  - {{name: count, rule: atomic, phase: count, offset: {job['counts']}, size: {cells}, "
        f"expert: {{stride: {ranks * 8}, count: {experts}}}, source: {{stride: 8, count: {ranks}}}, "
        "value: {scale: -1, add: -1}}",
        f"  - {{name: flag, rule: atomic, phase: combine, offset: {job['counts'] + job['counts_stride']}, "
        f"size: {cells}}}"]


ATOMICS = [f"  - {{name: cells, rule: atomic, phase: control, size: {ANYWHERE}}}"]


def normal_lists(job):
    """The tokens themselves, up to `chunk` in a message, where none are as long as other messages. A list names
    experts of all nodes."""
    sizes = {"token": job["token"], "result": job["combine_token"]}
    if job["pattern"] != "inference":
        sizes["cached"] = job["cached_token"]
    lengths = {(name, n): n * size for name, size in sizes.items() for n in range(1, job["chunk"] + 1)}
    if len(set(lengths.values())) != len(lengths):
        raise Failure(f"messages of tokens are as long as others: {lengths}")
    how = {"token": f"rule: payload-index, phase: dispatch, payload: {{at: {job['ids_at']}, count: {job['top_k']}, "
                    f"stride: {job['token']}, width: 4, of: all}}",
           "result": "rule: length, phase: combine", "cached": "rule: length, phase: control"}
    return [f"  - {{name: {name}-{n}, length: {length}, {how[name]}}}" for (name, n), length in lengths.items()] + [
        f"  - {{name: counts, rule: length, phase: control, length: [0, {min(sizes.values()) - 1}]}}"] + ATOMICS


def v2_lists(job):
    """A token a message; results lie in the same place, and have another length."""
    data = f"offset: {job['tokens_at']}"
    return [
        f"  - {{name: token, rule: payload-index, phase: dispatch, length: {job['token']}, {data}, "
        f"size: {job['tokens_size']}, payload: {{at: {job['ids_at']}, count: {job['top_k']}, "
        f"stride: {job['token']}, width: 4, of: all}}}}",
        f"  - {{name: result, rule: va, phase: combine, length: {job['combine_message']}, "
        f"offset: {job['combined_at']}, size: {job['combined_size']}}}",
        f"  - {{name: counts, rule: va, phase: control, offset: 0, size: {job['tokens_at']}}}"] + ATOMICS


def runs(job):
    """Any number of rows in a message, in a place of their own."""
    row = job["row"]
    return [
        f"  - {{name: rows, rule: payload-dense, phase: dispatch, length: [{row}, {64 * row}], "
        f"offset: {job['rows_at']}, size: {job['rows_size']}, payload: {{at: 0, width: 4, of: dst}}}}",
        f"  - {{name: others, rule: va, phase: control, offset: {job['others_at']}, size: {1 << 30}}}"] + ATOMICS


RULES = {"queue-pairs": queue_pairs, "deepep-ll-bulk": bulk, "deepep-normal-lists": normal_lists,
         "deepep-normal-lists-training": normal_lists, "deepep-normal-lists-small": normal_lists,
         "queue-pairs-recompute": queue_pairs,
         "deepep-v2-lists": v2_lists, "hybrid-ep-runs": runs}
# case → its preset
PRESETS = {name: PRESET_OF[layout][0] for name, (layout, *_) in SPECS.items() if name not in RULES}


def map_ranks(job):
    """[(rank of the map, addresses, base, bases)]: a node of several GPUs has no base, for every GPU has its own."""
    gpus = job["gpus_per_node"]
    if job["layout"] not in BY_NODE or gpus == 1:
        bases = [{"atomics": r["base"] + job["counts"] + r["rank"] * job["apart"]} if job["layout"] == "uccl-ep" else {}
                 for r in job["ranks"]]
        return [(r["rank"], [r["address"]], r["base"], b) for r, b in zip(job["ranks"], bases)]
    nodes = collections.defaultdict(list)
    for r in job["ranks"]:
        nodes[r["rank"] // gpus].append(r["address"])
    return [(n, addresses, 0, {}) for n, addresses in nodes.items()]


def map_pattern(job, spec):
    """(pattern, layers, micro-batches) of the rounds that can be seen."""
    pattern, layers, micro = spec.get("pattern", "inference"), job["layers"], job["micro_batches"]
    if job["layout"] in NO_BACKWARD:
        # of a recomputed layer the counts come again, so the layers come back in reverse: as in 'training'
        pattern = {"training": "inference", "training-recompute": "training"}.get(pattern, pattern)
    return pattern, layers * ROUNDS.get(job["layout"], 1), micro


def make_map(job, spec, name):
    job = dict(job, pattern=spec.get("pattern", "inference"))
    pattern, layers, micro = map_pattern(job, spec)
    experts = job["experts_per_rank"] * (job["gpus_per_node"] if job["layout"] in BY_NODE else 1)
    lines = job2map.preamble(name, layers, experts, map_ranks(job), pattern=pattern, micro_batches=micro,
                             idle_gap_us=IDLE_GAP_US if job["layout"] in SILENT else None)
    if job["layout"] == "queue-pairs":
        lines += ["flows:"] + [f"  - {{src: {f['src']}, dst: {f['dst']}, qpn: {f['qpn']}, "
                               f"expert: {f['dst'] * experts + f['index']}}}" for f in job["flows"]]
    if name in PRESETS:
        known = PRESET_OF[job["layout"]][1](job)
        lines += [f"preset: {PRESETS[name]}",
                  "with: {" + ", ".join(f"{key}: {value}" for key, value in known.items()) + "}"]
    else:
        lines += ["rules:"] + RULES[name](job)
    return "\n".join(lines) + "\n"


def as_mapped(job, truth):
    """The truth as moetap must see it with the map."""
    gpus, out = job["gpus_per_node"], collections.Counter()
    for k, n in truth.items():
        if k.src // gpus == k.dst // gpus:
            continue        # it crossed no wire
        if job["layout"] in BY_NODE:
            k = k._replace(src=k.src // gpus, dst=k.dst // gpus)
        if job["layout"] in ROUNDS:
            rounds = ROUNDS[job["layout"]]
            # and back, which looks the same
            out[k._replace(layer=rounds * k.layer + rounds - 1, src=k.dst, dst=k.src, expert=k.src)] += n
            k = k._replace(layer=rounds * k.layer)
            if rounds == 3:     # between them probabilities: short messages are not seen, others are parts of tokens
                whole = 4 * n // job["token"] if 4 * n > CLEAR_TO_SEND else 0
                out[k._replace(layer=k.layer + 1)] += whole
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
    # a live tap has the map of the run before: memory has to lie where it lay then
    setarch = "setarch -R " if case.live else ""
    with lab.programs():
        jobs = [lab.run(m, f"exec {setarch}/run/lab/lab-job /run/lab/spec {r} /run/lab")
                for r, (m, _) in enumerate(where)]
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
    if job["layout"] in NO_BACKWARD or job["layout"].startswith("hybrid-ep"):
        again = max(1, again - 1)
    payload.check(job, path, truth, (again, again))


def judge(case, job, counts, truth):
    """Every cell must be as the job counted it, and every message read."""
    pairs = {(k.src, k.dst) for k in truth}
    counts.tokens = {k: n for k, n in counts.tokens.items() if k.phase == "dispatch" and (k.src, k.dst) in pairs}
    if ROUNDS.get(job["layout"]) == 3:      # bytes of probabilities are no whole tokens, and moetap must say so
        for key in {(k.step, k.layer) for k in truth if k.layer % 3 == 1}:
            said = counts.flagged.pop(key, [""])
            words = {word for text in said for word in text.split(":")[0].split(", ")}
            if words - set(moetap.EXACT_WORDS) != {"fraction"}:
                raise Failure(f"{case}: probabilities of step, layer {key} say {said}, not 'fraction'")
    moetap.must_equal(counts, truth, str(case))
    unread = {word: n for word, n in perftest.outcomes(counts).items() if word in NOT_READ}
    if unread:
        raise Failure(f"{case}: messages that no rule knew: {unread}\n{counts.stderr[-1500:]}")


def must_lose(lab, case):
    lost = lab.lost()
    if case.loss and not lost:
        raise Failure(f"{case.loss} % loss was asked for, and nothing was lost")
    return lost


def run_live(lab, case, folder, path):
    """The same job again, tapped on the bridge while it runs."""
    os.makedirs(folder)
    with live.Tap(path) as tap:
        spec, job, truth = run_job(lab, case, folder)
        counts = tap.stop()
    with open(path, encoding="utf-8") as f:
        if make_map(job, spec, case.name) != f.read():
            raise Failure(f"{case}: the job's memory lies elsewhere than in the run before")
    judge(case, job, counts, as_mapped(job, truth))
    return f"; live {sum(truth.values())} tokens in {len(truth)} cells"


def run(lab, case, folder):
    spec, job, truth = run_job(lab, case, folder)
    lost = must_lose(lab, case)
    tokens = sum(truth.values())
    capture, path = (os.path.join(folder, name) for name in ("capture.pcap", "map.yaml"))
    if job["layout"] in payload.READERS:
        judge_payloads(job, spec, capture, truth)
    with open(path, "w") as f:
        f.write(make_map(job, spec, case.name))
    truth = as_mapped(job, truth)
    judge(case, job, moetap.count(path, capture), truth)
    again = run_live(lab, case, os.path.join(folder, "live"), path) if case.live else ""
    return f"{tokens} tokens in {len(truth)} cells" + (f"; {lost} packets lost" if case.loss else "") + again


CASES = {name: (run, -(-ranks // gpus)) for name, (_, ranks, gpus, _) in SPECS.items()}
