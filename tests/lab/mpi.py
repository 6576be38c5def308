# SPDX-License-Identifier: BSD-3-Clause
"""Open MPI between machines: all-to-all-v over TCP, and over soft RoCE by UCX. No rule of moetap's maps
reads these yet: the cases leave capture and truth, and prove that the tokens are on the wire."""
import collections
import ipaddress
import json
import os
import shutil

import machines
import moetap
import payload
import perftest
import roce
from moetap import Failure

PROGRAM = os.path.join(os.path.abspath(moetap.BUILD), "tests", "lab", "lab-mpi")
STEPS, LAYERS, EXPERTS, TOKENS, TOKEN_BYTES = 3, 2, 4, 64, 2048
SECONDS, PORT = 60, 5999
CHECK = ["mpi-tcp", "mpi-ucx/ipv6"]

# mpirun starts its daemons by this instead of ssh; the shell at the other end is of this lab only
RSH = """#!/bin/sh
host=$1
shift
echo "$*" | {box} nc "$host" {port}
"""
SHELL = """#!/bin/sh
read -r line
eval "$line"
"""
# One address a machine: Open MPI's TCP refuses connections from an address that it did not expect.
ONE_ADDRESS = "for s in 1 2 3; do ip addr del 10.77.$s.{n}/16 dev lab0; ip addr del fd77::$s:{n}/64 dev lab0; done"
ALL_ADDRESSES = "for s in 1 2 3; do ip addr add 10.77.$s.{n}/16 dev lab0; " \
    "ip addr add fd77::$s:{n}/64 dev lab0 nodad; done"


def mpirun(lab, folder, options):
    if not os.path.exists(PROGRAM):
        raise machines.Unavailable(f"no {PROGRAM}: apt-get install openmpi-bin libopenmpi-dev, and configure again")
    box = machines.busybox(lab.cache)
    for m in lab.machines:
        for name, text in (("rsh", RSH.format(box=box, port=PORT)), ("shell", SHELL)):
            path = os.path.join(m.folder, name)
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o755)
        shutil.copy(PROGRAM, m.folder)
    lab.all(ONE_ADDRESS, 30)
    lab.run(2, f"echo $$ >/run/lab/shell.pid; exec {box} nc -ll -p {PORT} -e /run/lab/shell")
    capture = machines.Capture(os.path.join(folder, "capture.pcap"), 66000)  # segments, not cut yet
    try:
        with lab.programs():
            lab.run(1, f"mpirun --allow-run-as-root --host {machines.address(1)},{machines.address(2)} -np 2 "
                       "--mca plm_rsh_agent /run/lab/rsh --mca oob_tcp_if_include lab0 "
                       f"{options} /run/lab/lab-mpi {STEPS} {LAYERS} {EXPERTS} {TOKENS} {TOKEN_BYTES} "
                       "/run/lab/truth.csv").wait(SECONDS)
    finally:
        capture.stop()
        lab.run(2, "kill $(cat /run/lab/shell.pid)").wait(30)
        lab.all(ALL_ADDRESSES, 30)
    shutil.copy(os.path.join(lab.machines[0].folder, "truth.csv"), folder)
    with open(os.path.join(folder, "job.json"), "w") as f:
        json.dump({"layout": "mpi", "num_ranks": 2, "experts_per_rank": EXPERTS, "layers": LAYERS,
                   "token": TOKEN_BYTES}, f)
    return moetap.read_truth(os.path.join(folder, "truth.csv"))


def must_carry(truth, carried):
    """Tokens go there and back, and little else crosses."""
    wanted = collections.Counter()
    for k, n in truth.items():
        wanted[k.src, k.dst] += n * TOKEN_BYTES
        wanted[k.dst, k.src] += n * TOKEN_BYTES
    for pair, n in wanted.items():
        if not n <= carried[pair] <= n * 1.25:
            raise Failure(f"rank {pair[0]} to {pair[1]}: {n} bytes of tokens, {carried[pair]} on the wire")
    return f"{sum(truth.values())} tokens; no rule reads this yet"


def tcp_bytes(path, ranks):
    """Payload bytes of TCP between ranks, each once."""
    seen = collections.defaultdict(set)
    for p in roce.read_pcap(path):
        if p.data[12:14] != b"\x08\x00" or p.data[23] != 6:
            continue
        l4 = 14 + 4 * (p.data[14] & 15)
        src, dst = (ipaddress.ip_address(p.data[a:a + 4]) for a in (26, 30))
        size = 14 + int.from_bytes(p.data[16:18], "big") - l4 - 4 * (p.data[l4 + 12] >> 4)
        if size > 0 and src in ranks and dst in ranks:
            seen[ranks[src], ranks[dst]].add((p.data[l4:l4 + 8], size))
    return collections.Counter({pair: sum(n for _, n in parts) for pair, parts in seen.items()})


def tcp(lab, case, folder):
    truth = mpirun(lab, folder, "--mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include lab0")
    ranks = {ipaddress.ip_address(machines.address(m)): m - 1 for m in (1, 2)}
    return must_carry(truth, tcp_bytes(os.path.join(folder, "capture.pcap"), ranks))


def ucx(lab, case, folder):
    """UCX wires its queue pairs up by UD, which it gets through soft RoCE over IPv6 only."""
    index = {perftest.gid_index_in(lab, m, 6) for m in (1, 2)}
    if len(index) != 1:
        raise Failure(f"the GIDs have several indices: {index}")
    truth = mpirun(lab, folder, "--mca pml ucx -x UCX_NET_DEVICES=rxe0:1 -x UCX_TLS=rc_verbs,ud_verbs,self "
                                f"-x UCX_IB_GID_INDEX={index.pop()}")
    ranks = {ipaddress.ip_address(machines.address(m, 0, 6)): m - 1 for m in (1, 2)}
    carried = collections.Counter()
    for m in payload.messages(os.path.join(folder, "capture.pcap"), ranks):
        carried[m.src, m.dst] += m.length
    return must_carry(truth, carried)


CASES = {"mpi-tcp": (tcp, 2), "mpi-ucx": (ucx, 2)}
