# SPDX-License-Identifier: BSD-3-Clause
"""Runs the built binaries and reads what they say. The build directory is $MOETAP_BUILD."""
import collections
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(os.path.dirname(HERE), "data")
BUILD = os.environ.get("MOETAP_BUILD", os.path.join(HERE, "..", "..", "build"))
MOETAP = os.path.join(BUILD, "tools", "moetap")
FIRMWARE = os.path.join(BUILD, "firmware", "moetap-fw")
CAPTURES = ("rxe-2ranks", "rxe-4ranks", "rxe-2ranks-loss")
TIMEOUT = 120

# Words of a round's quality that leave its counts exact; any other word says "do not trust them".
EXACT_WORDS = ("duplicates", "unmatched", "timeout", "unwitnessed")

Key = collections.namedtuple("Key", "step layer phase src dst expert")


class Failure(Exception):
    """A case that does not hold."""


class Skip(Exception):
    """A case that this host cannot run, with the reason."""


def run(argv, env=None, timeout=TIMEOUT, **kw):
    """subprocess.run with texts; a death by signal or by a sanitizer is always a failure."""
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=timeout,
                          env=dict(os.environ, **(env or {})), **kw)
    alive(argv, done.returncode, done.stderr)
    return done


def alive(argv, status, stderr):
    if status < 0 or status >= 128 or "Sanitizer" in stderr or "runtime error:" in stderr:
        raise Failure(f"{' '.join(map(str, argv))} crashed ({status}):\n{stderr[-4000:]}")


def read_csv(text):
    lines = text.strip().splitlines()
    names = lines[0].split(",") if lines else []
    return [dict(zip(names, line.split(","))) for line in lines[1:]]


def key_of(row):
    return Key(int(row["step"]), int(row["layer"]), row.get("phase") or "dispatch",
               int(row["src"]), int(row["dst"]), int(row["expert"]))


def read_truth(path):
    """{Key: tokens} of what crossed the wire."""
    with open(path) as f:
        rows = read_csv(f.read())
    truth = collections.Counter()
    for row in rows:
        if row["src"] != row["dst"]:
            truth[key_of(row)] += int(row["tokens"])
    return truth


class Counts:
    """What `moetap count` printed: cells, and what it said about rounds."""

    def __init__(self, stdout, stderr):
        self.rows = [r for r in read_csv(stdout) if r["src"] != r["dst"]]
        self.tokens, self.bytes = collections.Counter(), collections.Counter()
        seen = set()
        for r in self.rows:
            k = key_of(r)
            if (r["round"], k) in seen:
                raise Failure(f"round {r['round']} is printed twice: {k}")
            seen.add((r["round"], k))
            self.tokens[k] += int(r["tokens"])
            self.bytes[k] += int(r["bytes"])
        self.stderr = stderr
        self.flagged = collections.defaultdict(list)
        for line in stderr.splitlines():
            m = re.search(r"round (\d+) \(step (\d+) layer (\d+)[^)]*\): (.*)", line)
            if m and not m[4].startswith(EXACT_WORDS):
                self.flagged[int(m[2]), int(m[3])].append(m[4])

    def outcomes(self):
        """{outcome: packets}"""
        told = re.search(r"\d+ packets: (.*)", self.stderr)[1]
        return {name: int(n) for n, name in re.findall(r"(\d+) ([a-z0-9-]+)", told)}

    def differences(self, truth):
        """[(Key, truth, counted)]; None where one of them has no such cell."""
        return [(k, truth.get(k), self.tokens.get(k))
                for k in sorted(truth.keys() | self.tokens.keys())
                if truth.get(k) != self.tokens.get(k)]


def count(map_path, capture, *options, status=0):
    argv = [MOETAP, "count", "--map", map_path, *options, capture]
    done = run(argv)
    if done.returncode != status:
        raise Failure(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stderr[-4000:]}")
    return Counts(done.stdout, done.stderr)


def show(differences, limit=8):
    lines = [f"  {tuple(k)}: truth {t}, counted {c}" for k, t, c in differences[:limit]]
    return "\n".join(lines + ([f"  … {len(differences)} in all"] if len(differences) > limit else []))


def must_equal(counts, truth, what):
    """Every cell equal, and no round says otherwise."""
    wrong = counts.differences(truth)
    if wrong:
        raise Failure(f"{what}: {len(wrong)} of {len(truth)} cells differ\n{show(wrong)}\n"
                      f"{counts.stderr[-2000:]}")
    if not truth:
        raise Failure(f"{what}: the truth is empty")
    if counts.flagged:
        raise Failure(f"{what}: exact rounds are said not to be: {dict(counts.flagged)}")
    print(f"{what}: {len(truth)} cells, 0 differences")


def must_not_be_silent(counts, truth, what, ended=False):
    """A round that differs from truth must say so; with `ended`, rounds after the last one that was
    counted may be missing."""
    wrong = counts.differences(truth)
    reached = max(((k.step, k.layer) for k in counts.tokens), default=(-1, -1))
    silent = [d for d in wrong if (d[0].step, d[0].layer) not in counts.flagged
              and not (ended and (d[0].step, d[0].layer) > reached)]
    if silent:
        raise Failure(f"{what}: wrong in silence\n{show(silent)}\n{counts.stderr[-2000:]}")
    print(f"{what}: {len(wrong)} of {len(truth)} cells differ, all in flagged rounds "
          f"({len(counts.flagged)} flagged)")
    return wrong


def log(*words):
    print(*words, file=sys.stderr, flush=True)
