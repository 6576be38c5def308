# SPDX-License-Identifier: BSD-3-Clause
"""Open MPI between machines: its own TCP, UCX over TCP, and UCX over soft RoCE. Ranks tell each other counts by
MPI_Alltoall, then MPI_Alltoallv moves the tokens; tests/lab/mpi.c says how many."""
import os
import shutil

import jobs
import machines
import moetap
import payload
import perftest
import presets
from moetap import Failure

PROGRAM = os.path.join(os.path.abspath(moetap.BUILD), "tests", "lab", "lab-mpi")
TOKEN_BYTES = 2048
SECONDS, PORT = 90, 5999
CHECK = ["mpi-tcp", "mpi-tcp/loss5", "mpi-ucx-tcp", "mpi-ucx-tcp/loss5", "mpi-ucx/ipv6/loss1", "mpi-ucx-get/ipv6"]
MORE = ["mpi-tcp/ipv6", "mpi-tcp/loss1", "mpi-tcp/ipv6/loss1", "mpi-tcp-4/loss1", "mpi-ucx-tcp/loss1",
        "mpi-ucx-tcp-4", "mpi-ucx/ipv6", "mpi-ucx/ipv6/loss5", "mpi-ucx/ipv6/mtu1024",
        "mpi-ucx-4/ipv6/loss1", "mpi-ucx-put/ipv6", "mpi-ucx-put/ipv6/loss1", "mpi-ucx-put/ipv6/loss5",
        "mpi-ucx-put-4/ipv6/mtu1024", "mpi-ucx-get/ipv6/loss1", "mpi-ucx-get/ipv6/loss5", "mpi-ucx-get/ipv6/mtu1024"]

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


def mpirun(lab, folder, ranks, options):
    """Rank r runs in machine r + 1."""
    if not os.path.exists(PROGRAM):
        raise machines.Unavailable(f"no {PROGRAM}: apt-get install openmpi-bin libopenmpi-dev, and configure again")
    box = machines.busybox(lab.cache)
    for m in lab.machines[:ranks]:
        for name, text in (("rsh", RSH.format(box=box, port=PORT)), ("shell", SHELL)):
            path = os.path.join(m.folder, name)
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o755)
        shutil.copy(PROGRAM, m.folder)
    others = range(2, ranks + 1)
    for m in others:
        lab.run(m, f"echo $$ >/run/lab/shell.pid; exec {box} nc -ll -p {PORT} -e /run/lab/shell")
    capture = machines.Capture(os.path.join(folder, "capture.pcap"), presets.WHOLE)
    hosts = ",".join(machines.address(m) for m in range(1, ranks + 1))
    try:
        with lab.programs():
            lab.run(1, f"mpirun --allow-run-as-root --host {hosts} -np {ranks} "
                       "--mca plm_rsh_agent /run/lab/rsh --mca oob_tcp_if_include lab0 "
                       f"{options} /run/lab/lab-mpi {presets.STEPS} {presets.LAYERS} {presets.EXPERTS} "
                       f"{presets.TOKENS} {TOKEN_BYTES} /run/lab/truth.csv").wait(SECONDS)
    finally:
        capture.stop()
        for m in others:
            lab.run(m, "kill $(cat /run/lab/shell.pid)").wait(30)
    shutil.copy(os.path.join(lab.machines[0].folder, "truth.csv"), folder)


def over_sockets(preset, ranks, options):
    def run(lab, case, folder):
        family = "--mca btl_tcp_disable_family 4" if case.version == 6 else "--mca btl_tcp_disable_family 6"
        with presets.one_address(lab):
            mpirun(lab, folder, ranks, options + " " + family)
        the_map = presets.the_map(folder, preset, "integer: int64", ranks, case.version)
        return presets.must_count(lab, case, folder, the_map, ("contradiction", "truncated", "orphan"))
    run.lossy = presets.LOSSY
    return run, ranks


def over_rc(ranks, options=""):
    """UCX wires its queue pairs up by UD, which it gets through soft RoCE over IPv6 only."""
    def run(lab, case, folder):
        if case.version == 4:
            raise machines.Unavailable("UCX hangs with an IPv4 GID of soft RoCE")
        index = {perftest.gid_index_in(lab, m, 6) for m in range(1, ranks + 1)}
        if len(index) != 1:
            raise Failure(f"the GIDs have several indices: {index}")
        with presets.one_address(lab):
            mpirun(lab, folder, ranks,
                   "--mca pml ucx -x UCX_NET_DEVICES=rxe0:1 -x UCX_TLS=rc_verbs,ud_verbs,self "
                   f"-x UCX_IB_GID_INDEX={index.pop()} -x UCX_IB_PATH_MTU={case.path_mtu} {options}")
        if case.loss:
            payload.must_be_sound(os.path.join(folder, "capture.pcap"))
        parameters = f"integer: int64, transport: rc_verbs, mtu: {case.path_mtu}"
        the_map = presets.the_map(folder, "mpi-ucx", parameters, ranks, 6)
        return presets.must_count(lab, case, folder, the_map, jobs.NOT_READ)
    return run, ranks


BTL = "--mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include lab0"
UCX_TCP = "--mca pml ucx --mca pml_ucx_tls any --mca pml_ucx_devices any -x UCX_NET_DEVICES=lab0 -x UCX_TLS=tcp,self"
PUT, GET = (f"-x UCX_RNDV_THRESH=8k -x UCX_RNDV_SCHEME={scheme}_zcopy" for scheme in ("put", "get"))
CASES = {"mpi-tcp": over_sockets("mpi", 2, BTL), "mpi-tcp-4": over_sockets("mpi", 4, BTL),
         "mpi-ucx-tcp": over_sockets("mpi-ucx-tcp", 2, UCX_TCP),
         "mpi-ucx-tcp-4": over_sockets("mpi-ucx-tcp", 4, UCX_TCP),
         "mpi-ucx": over_rc(2), "mpi-ucx-4": over_rc(4),
         "mpi-ucx-put": over_rc(2, PUT), "mpi-ucx-put-4": over_rc(4, PUT), "mpi-ucx-get": over_rc(2, GET)}
PRESETS = {name: "mpi" if "-ucx" not in name else "mpi-ucx-tcp" if "-tcp" in name else "mpi-ucx" for name in CASES}
