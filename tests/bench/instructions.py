#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Instructions a packet of moetap's path, by kind of rule, against those that were kept.

usage: instructions.py [--keep] BENCH-PATH BUILD

Runs BENCH-PATH --count under valgrind's callgrind and divides what fw_receive() executes in each call
of counted() by its packets. Fails where it is more than MOST times what instructions.csv has for
this machine and BUILD (compiler and DPDK, since both make the code); where it has nothing, or there
is no valgrind, nothing is compared, and the exit status is 77. With --keep what was counted is put
into the file instead: for a change that is meant, or another machine or BUILD.
"""
import csv
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

KEPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "instructions.csv")
HEAD = ["machine", "build", "kind", "instructions"]
MOST = 1.03
SKIP = 77


def count(bench):
    """Instructions a packet, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + out, "--collect-atstart=no",
             "--toggle-collect=fw_receive", "--zero-before=counted", "--dump-after=counted",
             bench, "--count"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if run.returncode != 0:
            sys.exit(run.stderr + f"instructions: {bench} under valgrind: status {run.returncode}")
        counts = {}
        for number, line in enumerate(run.stdout.splitlines(), 1):
            kind, packets = line.split()
            with open(f"{out}.{number}") as dump:
                total = re.search(r"^summary: (\d+)$", dump.read(), re.M)
            if total is None or int(total[1]) == 0:
                sys.exit(f"instructions: callgrind counted nothing for {kind}")
            counts[kind] = int(total[1]) / int(packets)
    return counts


def load():
    with open(KEPT, newline="") as f:
        rows = [line for line in f if not line.startswith("#")]
    return list(csv.DictReader(rows))


def keep(rows, mine, counts):
    rows = [r for r in rows if (r["machine"], r["build"]) != mine]
    rows += [dict(zip(HEAD, (*mine, kind, f"{n:.1f}"))) for kind, n in counts.items()]
    with open(KEPT, "w", newline="") as f:
        f.write("# SPDX-License-Identifier: BSD-3-Clause\n# made by instructions.py --keep\n")
        table = csv.DictWriter(f, HEAD, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main():
    args = [a for a in sys.argv[1:] if a != "--keep"]
    if len(args) != 2:
        sys.exit(__doc__)
    mine = (platform.machine(), args[1])
    rows = load() if os.path.exists(KEPT) else []
    before = {r["kind"]: float(r["instructions"]) for r in rows if (r["machine"], r["build"]) == mine}
    if shutil.which("valgrind") is None:
        print("skipped: no valgrind (Debian package valgrind)")
        return SKIP
    counts = count(args[0])
    if len(args) + 1 < len(sys.argv):
        keep(rows, mine, counts)
        return 0
    for kind, n in counts.items():
        was = f"{before[kind]:8.1f} {n / before[kind] - 1:+8.2%}" if kind in before else ""
        print(f"{kind:16} {n:8.1f} {was}")
    if not before:
        print(f"skipped: instructions.csv has nothing of {' '.join(mine)}; with --keep it will")
        return SKIP
    wrong = [k for k in before if k not in counts] + [k for k in counts if k not in before]
    wrong += [k for k, n in counts.items() if k in before and n > before[k] * MOST]
    if wrong:
        print(f"failed: {', '.join(wrong)}: more than {MOST - 1:.0%} above what was kept, or not in both")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
