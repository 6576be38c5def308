# SPDX-License-Identifier: BSD-3-Clause
"""Programs that nobody here wrote move the tokens of a job of ours, which says how many; presets must count them."""
import contextlib
import os

import machines
import moetap
import perftest
from moetap import Failure

STEPS, LAYERS, EXPERTS, TOKENS = 3, 2, 4, 64
LOSSY = "ip_proto tcp"      # of cases over sockets: what is lost under loss
WHOLE = 66000               # bytes of a segment that is not cut yet

# One address a machine: Open MPI's TCP refuses connections from an address that it did not expect, and Gloo takes any.
ONE_ADDRESS = "for s in 1 2 3; do ip addr del 10.77.$s.{n}/16 dev lab0; ip addr del fd77::$s:{n}/64 dev lab0; done"
ALL_ADDRESSES = "for s in 1 2 3; do ip addr add 10.77.$s.{n}/16 dev lab0; " \
    "ip addr add fd77::$s:{n}/64 dev lab0 nodad; done"


@contextlib.contextmanager
def one_address(lab):
    lab.all(ONE_ADDRESS, 30)
    try:
        yield
    finally:
        lab.all(ALL_ADDRESSES, 30)


def the_map(folder, preset, parameters, ranks, version):
    path = os.path.join(folder, "map.yaml")
    with open(path, "w") as f:
        f.write(f"# SPDX-License-Identifier: BSD-3-Clause\nmoetap-map: 1\njob: {preset}\nlayers: {LAYERS}\n"
                f"experts-per-rank: {EXPERTS}\nranks:\n")
        for rank in range(ranks):
            f.write(f'  - {{rank: {rank}, address: "{machines.address(rank + 1, 0, version)}"}}\n')
        f.write(f"preset: {preset}\nwith: {{{parameters}}}\n")
    return path


def must_count(lab, case, folder, map_path, not_read):
    """Every cell of truth.csv, and no packet may be one of `not_read`."""
    if case.loss and not lab.lost():
        raise machines.GaveUp(f"{case.loss} % loss was asked for, and nothing was lost")
    truth = moetap.read_truth(os.path.join(folder, "truth.csv"))
    counts = moetap.count(map_path, os.path.join(folder, "capture.pcap"))
    moetap.must_equal(counts, truth, str(case))
    unread = {word: n for word, n in perftest.outcomes(counts).items() if word in not_read}
    if unread:
        raise Failure(f"{case}: messages that no rule knew: {unread}\n{counts.stderr[-1500:]}")
    return perftest.told(lab, case, counts, sum(truth.values()), f"tokens in {len(truth)} cells")
