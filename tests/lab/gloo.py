# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch over Gloo between machines: tests/lab/gloo_job.py says how many tokens it sent."""
import os
import shutil
import subprocess

import machines
import presets

PYTHON = "/usr/bin/python3"     # Debian's own, for which python3-torch is
JOB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gloo_job.py")
HIDDEN, PORT, SECONDS = 512, 29500, 240
CHECK = []
MORE = ["gloo", "gloo/loss1", "gloo/loss5", "gloo/ipv6", "gloo/ipv6/loss1", "gloo-4/loss1"]


def possible():
    done = subprocess.run([PYTHON, "-c", "import importlib.util as u; raise SystemExit(u.find_spec('torch') is None)"],
                          check=False)
    if done.returncode:
        raise machines.Unavailable("no PyTorch: apt-get install python3-torch")


def over_gloo(ranks):
    def run(lab, case, folder):
        possible()
        first = machines.address(1, 0, case.version)
        if case.version == 6:
            first = f"[{first}]"
        # Gloo listens at the first address of its interface
        only = "ip addr del 10.77.0.{n}/16 dev lab0" if case.version == 6 else "true"
        back = "ip addr add 10.77.0.{n}/16 dev lab0" if case.version == 6 else "true"
        for m in lab.machines[:ranks]:
            shutil.copy(JOB, m.folder)
        with presets.one_address(lab):
            lab.all(only, 30)
            capture = machines.Capture(os.path.join(folder, "capture.pcap"), presets.WHOLE)
            sizes = f"{presets.STEPS} {presets.LAYERS} {presets.EXPERTS} {presets.TOKENS} {HIDDEN}"
            try:
                started = [lab.run(r + 1, f"GLOO_SOCKET_IFNAME=lab0 OMP_NUM_THREADS=1 {PYTHON} /run/lab/gloo_job.py "
                                          f"{r} {ranks} '{first}' {PORT} {sizes} /run/lab/truth.csv")
                           for r in range(ranks)]
                with lab.programs():
                    for job in started:
                        job.wait(SECONDS)
            finally:
                capture.stop()
                lab.all(back, 30)
        with open(os.path.join(folder, "truth.csv"), "w") as f:
            for m in lab.machines[:ranks]:
                with open(os.path.join(m.folder, "truth.csv")) as part:
                    f.write(part.read())
        parameters = f"hidden: {HIDDEN}, dtype: fp32, pair_number: none"
        the_map = presets.the_map(folder, "gloo", parameters, ranks, case.version)
        return presets.must_count(lab, case, folder, the_map, ("contradiction", "truncated", "orphan"))
    run.lossy = presets.LOSSY
    return run, ranks


CASES = {"gloo": over_gloo(2), "gloo-4": over_gloo(4)}
PRESETS = {name: "gloo" for name in CASES}
