#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""End-to-end cases, one by one or all.

usage: run.py [--build DIR] [--seed N] [CASE ...]    run.py --list
A case is named by words; `run.py exact` runs all that begin with this word. Exit status 77: all
of them were skipped.
"""
import argparse
import os
import sys
import time
import traceback


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--build", help="build directory, default: build/ of the tree")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--list", action="store_true", help="suite and name of every case")
    ap.add_argument("case", nargs="*")
    a = ap.parse_args()
    if a.build:
        os.environ["MOETAP_BUILD"] = os.path.abspath(a.build)
    import cases_capture
    import cases_hostile
    import cases_learn
    import cases_live
    import cases_self
    import moetap
    cases = {}
    for module in (cases_self, cases_capture, cases_learn, cases_live, cases_hostile):
        cases.update(module.cases())
    if a.list:
        for name in cases:
            print(name)
        return 0
    wanted = [n for n in cases if not a.case or any((n + " ").startswith(c + " ") for c in a.case)]
    if not wanted:
        moetap.log(f"no case begins with {a.case}")
        return 2
    print(f"seed {a.seed}", flush=True)
    failed, skipped = 0, 0
    for name in wanted:
        begun = time.monotonic()
        try:
            cases[name](a.seed)
            verdict = "ok"
        except moetap.Skip as why:
            skipped += 1
            verdict = f"skipped: {why}"
        except Exception as why:    # a case may fail in any way, the others still run
            failed += 1
            if not isinstance(why, moetap.Failure):
                traceback.print_exc()
            verdict = f"FAILED: {why}"
        print(f"{name}: {verdict} ({time.monotonic() - begun:.1f} s)", flush=True)
    if failed:
        return 1
    return 77 if skipped == len(wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
