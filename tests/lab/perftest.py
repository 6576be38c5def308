# SPDX-License-Identifier: BSD-3-Clause
"""perftest, a program that nobody here wrote: moetap must count exactly the messages that it says it sent."""
import ipaddress
import os
import re

import machines
import moetap
import payload
from moetap import Failure

ITERATIONS, PAIRS, SIZE = 600, 3, 10000
SECONDS = 90
PORT = 18515
CHECK = ["write-bw/mtu1024", "write-bw/loss1/mtu4096", "write-bw/ipv6/loss5/mtu1024",
         "send-bw/ipv6/mtu1024", "send-bw/loss5/mtu4096",
         "atomic-bw", "atomic-bw/ipv6/loss1", "atomic-bw/loss5", "write-bw-both/mtu1024"]
MORE = ["write-bw/ipv6/mtu4096", "send-bw/loss1/mtu1024",
        "write-bw-both/loss1/mtu1024"]      # soft RoCE breaks this one in every second run on a busy host

SUMMARY = re.compile(r"^moetap count: \d+ packets: (.*)$", re.MULTILINE)


def gid_index_in(lab, machine, version):
    """Index of the GID of a machine's first address."""
    a = ipaddress.ip_address(machines.address(machine, 0, version))
    gid = a.exploded if version == 6 else ipaddress.ip_address("::ffff:" + str(a)).exploded
    text = lab.run(machine, "cd /sys/class/infiniband/rxe0/ports/1/gids && "
                            f"grep -l {gid} * | head -n 1").wait(30).strip()
    if not text.isdigit():
        raise machines.Trouble(f"machine {machine} has no GID for IPv{version}")
    return int(text)


def traffic(lab, case, folder, program, options):
    """Runs a pair of programs; (messages that were posted, what the client said)."""
    common = f"{program} -d rxe0 -F -m {case.path_mtu} -n {ITERATIONS} {options}"
    index = [gid_index_in(lab, m, case.version) for m in (1, 2)]
    capture = machines.Capture(os.path.join(folder, "capture.pcap"), 160)
    server = lab.run(2, f"{common} -x {index[1]}")
    lab.run(2, f"for i in $(seq 100); do grep -q ':{PORT:04X} 0*:0000 0A' /proc/net/tcp /proc/net/tcp6 && exit; "
               "sleep 0.1; done; exit 1").wait(60)     # it listens
    client = lab.run(1, f"{common} -x {index[0]} {machines.address(2)}")
    with lab.programs():
        said = client.wait(SECONDS)
        server.wait(SECONDS)
    capture.stop()
    if case.loss:
        payload.must_be_sound(capture.path)
    # the column of iterations is of all queue pairs
    rows = re.findall(r"^\s*(\d+)\s+(\d+)\s+[\d.]+\s+[\d.]+\s+[\d.]+\s*$", said, re.MULTILINE)
    if len(rows) != 1:
        raise Failure(f"what {program} says has no row of results:\n{said}")
    return int(rows[0][1]), said


def the_map(folder, name, case, rules, bases=(None, None)):
    path = os.path.join(folder, name + ".yaml")
    lines = ["moetap-map: 1", f"job: {name}", "pattern: inference", "layers: 1", "experts-per-rank: 1", "ranks:"]
    for rank, base in enumerate(bases):
        tail = "" if base is None else f", base: {base:#x}"
        lines.append(f'  - {{rank: {rank}, address: "{machines.address(rank + 1, 0, case.version)}"{tail}}}')
    with open(path, "w") as f:
        f.write("\n".join(["# SPDX-License-Identifier: BSD-3-Clause", *lines, "rules:", *rules]) + "\n")
    return path


def outcomes(counts):
    """{word: packets} of the summary of `moetap count`."""
    m = SUMMARY.search(counts.stderr)
    return {word: int(n) for n, word in re.findall(r"(\d+) ([\w-]+)", m[1])} if m else {}


def must_count(folder, path, wanted):
    """{(source, destination): tokens} must be exactly what is wanted, and no round may say otherwise."""
    counts = moetap.count(path, os.path.join(folder, "capture.pcap"), status=0 if wanted else 1)
    got = {}
    for r in counts.rows:
        if r["phase"] == "dispatch":
            pair = int(r["src"]), int(r["dst"])
            got[pair] = got.get(pair, 0) + int(r["tokens"])
    got = {pair: n for pair, n in got.items() if n}
    if got != wanted:
        raise Failure(f"{os.path.basename(path)}: posted {wanted}, counted {got}\n{counts.stderr[-1500:]}")
    if counts.flagged:
        raise Failure(f"exact rounds are said not to be: {dict(counts.flagged)}")
    return counts


def told(lab, case, counts, messages, what):
    lost = lab.lost()
    if case.loss and not lost:
        raise Failure(f"{case.loss} % loss was asked for, and nothing was lost")
    again = outcomes(counts).get("duplicate", 0)
    return f"{messages} {what}" + (f"; {lost} packets lost, {again} seen again" if case.loss else "")


def stream(lab, case, folder, program, both=False, by_address=False):
    options = f"-s {SIZE} -q {PAIRS}" + (" -b" if both else "")
    messages, said = traffic(lab, case, folder, program, options)
    wanted = {(0, 1): messages, (1, 0): messages} if both else {(0, 1): messages}
    least = SIZE if by_address else 0       # a SEND does not say how long it is
    length = the_map(folder, "length", case, [
        f"  - {{name: message, rule: length, phase: dispatch, length: [{least}, {SIZE}], expert: {{fixed: 0}}, "
        f"token-bytes: {SIZE}}}"])
    counts = must_count(folder, length, wanted)
    if by_address:
        # the program says where it writes
        vas = [int(v, 16) for v in re.findall(r"remote address:.*VAddr (0x[0-9a-f]+)", said)]
        local = [int(v, 16) for v in re.findall(r"local address:.*VAddr (0x[0-9a-f]+)", said)]
        size = max(max(v) - min(v) for v in (vas, local)) + 2 * SIZE
        counts = must_count(folder, the_map(folder, "va", case, [
            f"  - {{name: message, rule: va, phase: dispatch, length: {SIZE}, size: {size}, "
            f"expert: {{stride: {size}, count: 1}}}}"], (min(local), min(vas))), wanted)
    return told(lab, case, counts, messages * len(wanted), "messages")


def write_bw(lab, case, folder):
    return stream(lab, case, folder, "ib_write_bw", by_address=True)


def write_bw_both(lab, case, folder):
    return stream(lab, case, folder, "ib_write_bw", both=True, by_address=True)


def send_bw(lab, case, folder):
    return stream(lab, case, folder, "ib_send_bw")


def atomic_bw(lab, case, folder):
    """Atomics are no tokens: the summary tells how many moetap has read."""
    messages, _ = traffic(lab, case, folder, "ib_atomic_bw", f"-A FETCH_AND_ADD -q {PAIRS}")
    path = the_map(folder, "atomic", case, [
        "  - {name: none, rule: length, phase: dispatch, length: 1, expert: {fixed: 0}, token-bytes: 1}",
        "  - {name: cell, rule: atomic, phase: control, size: 0x800000000000}"], (0, 0))  # it does not say where
    counts = must_count(folder, path, {})
    if outcomes(counts).get("control") != messages:
        raise Failure(f"{messages} atomics were posted: {counts.stderr}")
    return told(lab, case, counts, messages, "atomics")


CASES = {"write-bw": (write_bw, 2), "write-bw-both": (write_bw_both, 2), "send-bw": (send_bw, 2),
         "atomic-bw": (atomic_bw, 2)}
for _function, _ in CASES.values():
    _function.needs = (("ib_write_bw", "perftest"),)
