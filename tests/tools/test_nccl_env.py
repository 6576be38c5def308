#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""NCCL's environment plugin, loaded as NCCL loads it (nccl_load.c), in a process of its own."""
import json
import os
import subprocess
import unittest

MOETAP, LOAD, PLUGIN = (os.environ[name] for name in ("MOETAP", "MOETAP_NCCL_LOAD", "MOETAP_NCCL_ENV"))
NAME = f"test-nccl-{os.getpid()}"
PATH = f"/dev/shm/moetap-hint-{NAME}"


class NcclEnv(unittest.TestCase):
    NAMES = ("NCCL_IB_QPS_PER_CONNECTION", "NCCL_IB_TC", "NCCL_IB_SL", "HOME")

    def tearDown(self):
        if os.path.exists(PATH):
            os.unlink(PATH)

    def publish(self, *args):
        """Ranks 0 and 1 send 30, 10 tokens a layer and step: the busiest pair has 1.5 times the mean."""
        counts = "round,step,layer,phase,src,dst,expert,tokens,bytes\n" + "".join(
            f"{n},{n // 2},{n % 2},dispatch,{s},{1 - s},{1 - s},{30 - 20 * s},0\n" for n in range(8) for s in (0, 1))
        done = subprocess.run([MOETAP, "hints", "publish", "--horizon", "4", "--ranks", "2", "--slots", "2",
                               "--format", "json", *args, NAME, "-"], input=counts, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def answers(self, version=2, **env):
        env = {"MOETAP_HINT_PAGE": NAME, "HOME": "/h", **env}
        done = subprocess.run([LOAD, PLUGIN, str(version), *self.NAMES], capture_output=True, text=True,
                              env={k: v for k, v in {**os.environ, **env}.items() if v is not None})
        self.assertEqual(done.returncode, 0, done.stderr)
        return [line[1:] if line[0] == "=" else None for line in done.stdout.splitlines()]

    def test_hint(self):
        shown = self.publish("--queue-pairs", "8", "--traffic-class", "106")
        self.assertEqual([(round(n["busiest"]), round(n["mean"]), n["queue_pairs"], n["traffic_class"])
                          for n in (layer["network"] for layer in shown["layers"])], [(30, 20, 2, 106)] * 2)
        for version in 1, 2:
            self.assertEqual(self.answers(version), ["2", "106", None, "/h"])
        self.assertEqual(self.answers(NCCL_IB_TC="7", NCCL_IB_SL="3"), ["2", "7", "3", "/h"])
        self.publish("--queue-pairs", "1")
        self.assertEqual(self.answers(), ["1", None, None, "/h"])

    def test_nothing_to_say(self):
        for env in {"MOETAP_HINT_PAGE": None}, {}, {"MOETAP_HINT_PAGE": "../x"}:
            self.assertEqual(self.answers(**env), [None, None, None, "/h"])
        self.assertIsNone(self.publish()["layers"][0]["network"])
        self.assertEqual(self.answers(), [None, None, None, "/h"])

    def test_stale(self):
        self.publish("--queue-pairs", "8", "--lifetime", "0.001")
        self.assertEqual(self.answers(), [None, None, None, "/h"])

    def test_damaged(self):
        self.publish("--queue-pairs", "8")
        size = os.path.getsize(PATH)
        for at in range(8192, -1, -509):    # its ends first, and the page's header last
            with open(PATH, "r+b") as page:
                page.seek(at)
                page.write(b"\xff" * 64)
            self.assertIn(self.answers()[0], (None, "2"))
        os.truncate(PATH, size // 2)
        self.assertEqual(self.answers(), [None, None, None, "/h"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
