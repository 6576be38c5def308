#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The loop, closed: moetap-job sends to moetap-fw and follows the hints that come of it. What the NIC
shows of the balance of ranks must rise with a plan, fall when the gate shifts, and rise again; and
every count must be the job's own, whenever it applies plans and whatever it says of that."""
import glob
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

MOETAP = os.environ["MOETAP"]
WINDOW = 25
NEVER = 1 << 62


def loop(apply, **more):
    done = subprocess.run([MOETAP, "demo", "--loop", "--apply", apply, "--format", "json"],
                          capture_output=True, text=True, timeout=250, env=dict(os.environ, **more))
    if done.returncode != 0:
        raise AssertionError(f"--apply {apply}: exit status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)["loop"]


class Loop(unittest.TestCase):
    def check_counts(self, got):
        """Every round is exact, and is the job's to the last token, by slots and by experts."""
        rounds = got["steps"] * got["layers"]
        self.assertEqual((got["rounds"], got["exact"], got["equal"], got["dropped"]), (rounds, rounds, rounds, 0))
        self.assertEqual(got["loads_right"] + got["loads_unknown"], rounds)
        self.assertGreater(got["packets"], rounds * got["ranks"])
        self.assertEqual(len(got["windows"]), got["steps"] // WINDOW)

    def check_balance(self, got, shift=True):
        """Below 0.6 before the first plan; above 0.95 in every window between a plan and a shift."""
        windows, at = got["windows"], got["shift"]
        applied = [w["last"] for w in windows if w["applied"] is not None]
        first = applied[0]
        again = next(last for last in applied if last > at + WINDOW)
        spans = ((0, windows[[w["last"] for w in windows].index(first)]["first"], 0, 0.6),
                 (first + 1, at, 0.95, 1), (at, again - WINDOW + 1, 0, 0.85), (again + 1, NEVER, 0.95, 1))
        for begin, end, low, high in spans:
            inside = [w["balancedness"] for w in windows if w["first"] >= begin and w["last"] < end]
            self.assertGreaterEqual(len(inside), 1, (begin, end))
            self.assertTrue(all(low <= b <= high for b in inside), (begin, end, low, high, inside))
        moved = [w for w in windows if w["moved"]]
        self.assertTrue(all(w["moved_mb"] > 0 and w["moved_ms"] > 0 for w in moved))
        self.assertGreaterEqual(sum(w["moved"] for w in moved), 2 * got["layers"])
        # a job that is less uneven is faster: the busiest rank is waited for
        self.assertTrue(all(w["applied"] is None or w["verdict"] in ("plan", "keep") for w in windows))
        return [w["applied"] for w in windows if w["applied"] is not None]

    def test_now(self):
        got = loop("now")
        self.check_counts(got)
        applied = self.check_balance(got)
        self.assertEqual(got["loads_unknown"], 0)
        # a plan, the job's move and its answer, in this order, and nothing is planned while it is stable
        windows = got["windows"]
        planned = next(i for i, w in enumerate(windows) if w["verdict"] == "plan")
        self.assertGreater(applied[0], windows[planned]["last"])
        self.assertTrue(all(w["verdict"] == "keep" and "transient" in w["reason"] for w in windows[:planned]))
        self.assertEqual({w["in_force"] for w in windows[:planned + 1]}, {"start"})
        self.assertEqual(windows[-1]["in_force"], "acknowledged")
        self.assertEqual([w["shifted"] for w in windows].count(True), 1)
        shift = [w["shifted"] for w in windows].index(True)
        self.assertFalse(windows[shift]["stable"])
        self.assertTrue(windows[-1]["stable"])

    def test_late(self):
        """Applied long after the hint, told long after it was applied."""
        got = loop("late")
        self.check_counts(got)
        self.check_balance(got)
        self.assertEqual(got["loads_unknown"], 0)
        self.assertEqual(got["windows"][-1]["in_force"], "acknowledged")
        late = [w for w in got["windows"] if w["applied"] is not None]
        self.assertTrue(all(w["acknowledged"] == 0 or w["last"] > w["applied"] + 30 for w in late))

    def test_layers(self):
        """One layer after the other, each with its own acknowledgement."""
        got = loop("layers")
        self.check_counts(got)
        self.check_balance(got)
        self.assertEqual(got["loads_unknown"], 0)
        self.assertEqual(sum(w["acknowledged"] for w in got["windows"]) % got["layers"], 0)

    def test_silent(self):
        """Applied and never told: noticed in the traffic."""
        got = loop("silent")
        self.check_counts(got)
        self.check_balance(got)
        self.assertEqual(sum(w["acknowledged"] for w in got["windows"]), 0)
        self.assertIn("noticed", {w["in_force"] for w in got["windows"]})

    def test_never(self):
        """Never applied: nothing is taken for a new placement, and the ranks stay as uneven."""
        got = loop("never")
        self.check_counts(got)
        self.assertEqual(got["loads_unknown"], 0)
        windows = got["windows"]
        self.assertEqual({w["in_force"] for w in windows}, {"start"})
        self.assertGreater([w["verdict"] for w in windows].count("plan"), 1)
        self.assertTrue(all(w["applied"] is None and w["moved"] == 0 for w in windows))
        self.assertLess(max(w["balancedness"] for w in windows), 0.6)


class End(unittest.TestCase):
    """However it ends, nothing is left."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="moetap-test-")
        self.addCleanup(self.folder.cleanup)
        self.demo = subprocess.Popen([MOETAP, "demo", "--loop", "--ascii"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     text=True, env=dict(os.environ, TMPDIR=self.folder.name),
                                     # what runs the tests may be out of reach of SIGHUP (nohup), and so its children
                                     preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
        self.addCleanup(self.demo.stdout.close)
        self.addCleanup(self.demo.stderr.close)
        self.addCleanup(self.demo.kill)
        self.page = f"demo-loop-{self.demo.pid}"
        while "keep" not in (line := self.demo.stdout.readline()):     # traffic and hints are flowing
            self.assertTrue(line, self.demo.stderr.read() if not line else "")

    def parts(self):
        """{name: process id} of the programs that run for it."""
        found = {}
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path) as f:
                    words = f.read().split("\0")
            except OSError:
                continue
            if self.page in words:
                found[os.path.basename(words[0])] = int(path.split("/")[2])
        return found

    def check_end(self, status, told=""):
        _, err = self.demo.communicate(timeout=60)
        self.assertEqual(self.demo.returncode, status, err)
        self.assertIn(told, err)
        self.assertEqual(self.parts(), {})
        self.assertEqual(glob.glob(f"/dev/shm/*{self.page}*") + os.listdir(self.folder.name), [])

    def test_interrupt(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGINT:
                self.setUp()
            self.assertEqual(set(self.parts()), {"moetap-fw", "moetap-job"})
            self.demo.send_signal(number)
            self.check_end(-number)

    def test_nobody_reads(self):
        """As in `moetap demo --loop | head`."""
        self.demo.stdout.close()
        self.assertEqual(self.demo.wait(timeout=60), -signal.SIGPIPE)
        self.assertEqual(self.parts(), {})
        self.assertEqual(glob.glob(f"/dev/shm/*{self.page}*") + os.listdir(self.folder.name), [])

    def test_job_dies(self):
        os.kill(self.parts()["moetap-job"], signal.SIGKILL)
        self.check_end(1, "moetap-job died of signal 9")

    def test_firmware_dies(self):
        os.kill(self.parts()["moetap-fw"], signal.SIGKILL)
        self.check_end(1, "died")

    def test_killed(self):
        """Its programs end with it, and the firmware's page."""
        self.demo.kill()
        end = time.monotonic() + 20
        while self.parts() and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(self.parts(), {})
        self.assertFalse(os.path.exists(f"/dev/shm/moetap-{self.page}"))
        for left in glob.glob(f"/dev/shm/*{self.page}*"):
            os.unlink(left)


class Refused(unittest.TestCase):
    def test_folder(self):
        with tempfile.TemporaryDirectory(prefix="moetap-test,") as comma:
            for folder, told in (("/nonexistent", "No such file or directory"), (comma, "Invalid argument"),
                                 ("/tmp/" + "x" * 100, "Invalid argument")):
                done = subprocess.run([MOETAP, "demo", "--loop"], capture_output=True, text=True, timeout=60,
                                      env=dict(os.environ, TMPDIR=folder))
                self.assertEqual(done.returncode, 1)
                self.assertIn("set TMPDIR", done.stderr)
                self.assertIn(told, done.stderr)
            self.assertEqual(os.listdir(comma), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
