#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Every preset has cases in the lab, without loss and with loss: in the set of tools/check, too, but for the slow
ones. Runs none of them."""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]
import cases  # noqa: E402
import moetap  # noqa: E402


def missing(presets, names):
    """What has no case among those: [(preset, condition)]."""
    have = {(c.preset, bool(c.loss)) for c in map(cases.Case, names)}
    return [(p, "with loss" if loss else "without loss") for p in presets for loss in (False, True)
            if (p, loss) not in have]


def main():
    done = moetap.run([moetap.MOETAP, "map", "presets", "--format", "json"])
    presets = [p["name"] for p in json.loads(done.stdout)["presets"]]
    if done.returncode or not presets:
        sys.exit(f"no presets: {done.stderr}")
    quick = [name for name in presets if name not in cases.SLOW]
    wrong = [f"{name}: no case {what} in {where}"
             for where, these, names in (("CHECK", quick, cases.CHECK), ("ALL", presets, cases.ALL))
             for name, what in missing(these, names)]
    wrong += [f"{name}: no such preset: {preset}" for name, preset in cases.PRESETS.items() if preset not in presets]
    # it can fail: a preset that nobody has, and sets without some of the cases
    lossless = [name for name in cases.CHECK if not cases.Case(name).loss]
    if missing(["nobody's"], cases.ALL) != [("nobody's", "without loss"), ("nobody's", "with loss")] or \
            missing(quick, lossless) != [(p, "with loss") for p in quick]:
        wrong.append("what is missing is not found")
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(presets)} presets, {len(cases.PRESETS)} kinds of cases, {len(cases.CHECK)} in CHECK, "
          f"{len(cases.ALL)} in all")


if __name__ == "__main__":
    main()
