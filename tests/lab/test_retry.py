#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A case is tried again when nothing could be compared, and never when moetap counts something else."""
import importlib.machinery
import importlib.util
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
loader = importlib.machinery.SourceFileLoader("run", os.path.join(HERE, "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
loader.exec_module(run)     # finds the folders of the others, too
import machines  # noqa: E402
import moetap  # noqa: E402


class Lab:
    def set_loss(self, percent, lossy):
        pass

    def reset(self):
        pass


class Case:
    """Raises each of `reasons` in turn, then ends well."""

    def __init__(self, loss, *reasons):
        self.loss, self.lossy, self.reasons, self.runs = loss, machines.LOSSY, list(reasons), 0

    def run(self, lab, folder):
        self.runs += 1
        if self.reasons:
            raise self.reasons.pop(0)
        return "well"


GONE, DROPPED = machines.GaveUp("status 1"), machines.GaveUp("tcpdump lost packets")
MISSED = machines.GaveUp("the live tap lost packets")
ENDED, DIFFERENT = machines.Ended("tc: status 1"), moetap.Failure("truth 3, counted 4")
# loss, what happens in turn → runs, what comes out of it
TABLE = ((0, (), 1, "well"), (1, (GONE,), 2, "well"), (1, (GONE, GONE, GONE), 3, GONE), (0, (GONE,), 1, GONE),
         (0, (DROPPED,), 2, "well"), (0, (MISSED,), 2, "well"), (1, (DIFFERENT,), 1, DIFFERENT), (0, (DIFFERENT,), 1, DIFFERENT),
         (1, (GONE, DIFFERENT), 2, DIFFERENT), (1, (ENDED,), 1, ENDED))


def main():
    for loss, reasons, runs, wanted in TABLE:
        case = Case(loss, *reasons)
        with tempfile.TemporaryDirectory() as folder:
            try:
                got = run.one(Lab(), case, os.path.join(folder, "case"))
            except Exception as why:        # pylint: disable=broad-except
                got = why
        if got is not wanted or case.runs != runs:
            sys.exit(f"loss {loss}, {reasons}: {case.runs} runs and {got!r}, not {runs} and {wanted!r}")


if __name__ == "__main__":
    main()
