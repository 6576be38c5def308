# SPDX-License-Identifier: BSD-3-Clause
"""The cases of the lab: which programs run in which machines, and what moetap must count of them."""
import glob
import os
import shutil

import gloo
import jobs
import machines
import mpi
import perftest
from moetap import Failure, Skip

NAMES = {**perftest.CASES, **jobs.CASES, **mpi.CASES, **gloo.CASES}
# Case → preset whose rules count it, of the modules that have such cases (test_presets.py: all presets have some).
PRESETS = {}
for _module in (perftest, jobs, mpi, gloo):
    PRESETS.update(getattr(_module, "PRESETS", {}))
SLOW = set(gloo.PRESETS.values())     # presets whose cases are in the whole set only

# What tools/check runs: every kind of program, each condition with some of them.
CHECK = perftest.CHECK + jobs.CHECK + mpi.CHECK + gloo.CHECK
ALL = CHECK + perftest.MORE + jobs.MORE + mpi.MORE + gloo.MORE


class Case:
    """A name and its conditions."""

    def __init__(self, text):
        self.name, *conditions = text.split("/")
        self.version, self.loss, self.path_mtu, self.live = 4, 0, None, False
        for c in conditions:
            if c == "ipv6":
                self.version = 6
            elif c == "live":
                self.live = True
            elif c.startswith("loss"):
                self.loss = float(c[4:])
            elif c in ("mtu256", "mtu1024", "mtu4096"):
                self.path_mtu = int(c[3:])
            else:
                raise SystemExit(f"no such condition: {c}")
        if self.name not in NAMES:
            raise SystemExit(f"no such case: {self.name}; there are {' '.join(NAMES)}")
        self.function, self.machines = NAMES[self.name]
        if self.live and self.name not in jobs.CASES:
            raise SystemExit(f"{text}: only our own job is counted live")
        if self.live and jobs.RULES.get(self.name) is jobs.queue_pairs:
            raise SystemExit(f"{text}: its map names queue pairs, which are others when the job runs again")
        self.preset = PRESETS.get(self.name)
        self.lossy = getattr(self.function, "lossy", machines.LOSSY)

    def __str__(self):
        return self.name + ("/live" if self.live else "") + ("/ipv6" if self.version == 6 else "") + \
            (f"/loss{self.loss:g}" if self.loss else "") + (f"/mtu{self.path_mtu}" if self.path_mtu else "")

    def run(self, lab, folder):
        said = self.function(lab, self, folder)
        if self.preset and not any(f"preset: {self.preset}\n" in open(path, encoding="utf-8").read()
                                   for path in glob.glob(os.path.join(folder, "*.yaml"))):
            raise Failure(f"{self}: no map with 'preset: {self.preset}'")
        return said


def wanted(a):
    out = [Case(text) for text in (a.case or (ALL if a.all or a.list else CHECK))]
    fits = 1024 if a.mtu < 4200 else 4096
    for c in out:
        c.version = 6 if a.ipv6 else c.version
        c.loss = c.loss if a.loss is None else a.loss
        c.path_mtu = min(c.path_mtu or fits, fits)
        if a.machines and a.machines < c.machines:
            raise SystemExit(f"{c} needs {c.machines} machines")
    return list({str(c): c for c in out}.values())


def possible(cases):
    """Skip, where a program that a case needs is missing."""
    for c in cases:
        for program, package in getattr(c.function, "needs", ()):
            if shutil.which(program) is None:
                raise Skip(f"{program} is missing: apt-get install {package}")
