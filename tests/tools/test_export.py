# SPDX-License-Identifier: BSD-3-Clause
"""`moetap hints export`: what it writes is read back by the parsers that the frameworks use (JSON, PyYAML, NumPy),
and checked as the frameworks check it."""
import csv
import io
import json
import os
import subprocess
import tempfile
import time
import unittest

import numpy
import yaml

MOETAP = os.environ["MOETAP"]
TRACE = os.path.join(os.environ["MOETAP_SOURCE"], "tests/data/gpt-4x16-short.csv")
LAYERS, EXPERTS, RANKS, SLOTS = 4, 16, 4, 24
IDS, HIDDEN = [1, 3, 4, 6], 8
NUMBERING = ("--layers", "1,3-4,6", "--hidden-layers", HIDDEN)


def run(*args):
    return subprocess.run([MOETAP, *map(str, args)], capture_output=True, text=True, timeout=60)


class Export(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.plan = os.path.join(self.folder.name, "plan.json")
        made = run("plan", "--ranks", RANKS, "--slots", SLOTS, TRACE)
        self.assertEqual(made.returncode, 0, made.stderr)
        with open(self.plan, "w") as f:
            f.write(made.stdout)
        self.made = json.loads(made.stdout)
        self.map = self.made["physical_to_logical_map"]

    def tearDown(self):
        self.folder.cleanup()

    def export(self, kind, *args):
        done = run("hints", "export", "--as", kind, "--plan", self.plan, *args)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    @staticmethod
    def read(path):
        with open(path) as f:
            return json.load(f)

    def test_sglang(self):
        """One key; a row for every layer of the model, each with all experts (ExpertLocationMetadata)."""
        told = json.loads(self.export("sglang", *NUMBERING))
        self.assertEqual(list(told), ["physical_to_logical_map"])
        rows = told["physical_to_logical_map"]
        self.assertEqual(len(rows), HIDDEN)
        self.assertEqual([rows[i] for i in IDS], self.map)
        for i in set(range(HIDDEN)) - set(IDS):
            self.assertEqual(rows[i], [s % EXPERTS for s in range(SLOTS)])

    def test_tensorrt(self):
        """Three keys, no other; layers are integers (MoeLoadBalancerConfig)."""
        told = yaml.safe_load(self.export("tensorrt-llm", *NUMBERING))
        self.assertEqual(told, {"num_slots": SLOTS, "layer_updates_per_iter": 0,
                                "initial_global_assignments": dict(zip(IDS, self.map))})

    def test_vllm(self):
        self.assertEqual(json.loads(self.export("vllm", *NUMBERING)), self.map)

    def test_ascend(self):
        told = json.loads(self.export("vllm-ascend", *NUMBERING))
        self.assertEqual(told["moe_layer_count"], LAYERS)
        for i, layer in enumerate(told["layer_list"]):
            self.assertEqual((layer["layer_id"], layer["device_count"]), (i, RANKS))
            self.assertEqual([d["device_id"] for d in layer["device_list"]], list(range(RANKS)))
            self.assertEqual(sum((d["device_expert"] for d in layer["device_list"]), []), self.map[i])

    def test_eplb(self):
        path = os.path.join(self.folder.name, "x.npz")
        self.export("eplb", "--output", path)
        told = numpy.load(path, allow_pickle=False)
        self.assertEqual(sorted(told), ["log2phy", "logcnt", "phy2log"])
        self.assertTrue(all(told[k].dtype == numpy.int64 for k in told))
        self.assertEqual(told["phy2log"].tolist(), self.map)
        self.assertEqual(told["logcnt"].tolist(), self.made["expert_count"])
        self.assertEqual(told["log2phy"].tolist(), self.made["logical_to_physical_map"])

    def test_csv(self):
        rows = list(csv.reader(io.StringIO(self.export("csv", *NUMBERING))))
        self.assertEqual(rows[0], ["layer", "slot", "rank", "expert"])
        self.assertEqual([list(map(int, r)) for r in rows[1:]],
                         [[IDS[i], s, s // (SLOTS // RANKS), e]
                          for i, row in enumerate(self.map) for s, e in enumerate(row)])

    def test_refused(self):
        for args, why in (
                (("--as", "foo", "--plan", self.plan), "there is no 'foo'; --as list names all"),
                (("--as", "csv"), "wanted: either a PAGE or --plan"),
                (("--as", "csv", "--plan", self.plan, "page"), "wanted: either a PAGE or --plan"),
                (("--as", "csv", "--plan", TRACE), "gpt-4x16-short.csv:1: column"),
                (("--as", "csv", "--plan", "/no/such"), "/no/such: No such file"),
                (("--as", "csv", "no-such-page"), "nobody published hints as 'no-such-page'"),
                (("--as", "csv", "--plan", self.plan, "--layers", "3"), "names 1 layers, but the placement has 4"),
                (("--as", "csv", "--plan", self.plan, "--layers", "4-2"), "no list of rising numbers"),
                (("--as", "csv", "--plan", self.plan, "--layers", "1,1,2,3"), "no list of rising numbers"),
                (("--as", "csv", "--plan", self.plan, "--hidden-layers", 3), "layer 3 has experts"),
                (("--as", "csv", "--plan", self.plan, "--output", "/no/such/file"), "/no/such/file: No such file"),
                (("--as", "csv", "--plan", self.plan, "--watch"), "--watch wants a PAGE")):
            done = run("hints", "export", *args)
            self.assertNotEqual(done.returncode, 0, args)
            self.assertIn(why, done.stderr)
            self.assertEqual(done.stdout, "")

    def test_watch(self):
        """Follows a page that does not exist yet; the file is whole whenever it is read, and only a new placement
        replaces it."""
        name, path = f"test-export-{os.getpid()}", os.path.join(self.folder.name, "map.json")
        process = subprocess.Popen([MOETAP, "hints", "export", "--as", "vllm", "--watch", "--output", path, name],
                                   stderr=subprocess.PIPE, text=True)
        try:
            for threshold in (1, 0, 0):     # the placement in force; a plan, or not; the same again
                made = run("hints", "publish", "--horizon", 100, "--ranks", RANKS, "--slots", SLOTS, "--format",
                           "json", "--threshold", threshold, name, TRACE)
                self.assertEqual(made.returncode, 0, made.stderr)
                wanted = [layer["placement"] for layer in json.loads(made.stdout)["layers"]]
                end = time.monotonic() + 20
                while not os.path.exists(path) or self.read(path) != wanted:
                    self.assertLess(time.monotonic(), end, "the file does not follow the page")
                    time.sleep(0.02)
            process.terminate()
            self.assertEqual(process.wait(20), 0)
            told = process.stderr.read().splitlines()
            self.assertEqual(len(told), len(set(told)), told)
            self.assertEqual(os.listdir(self.folder.name).count("map.json"), 1)
            self.assertEqual([f for f in os.listdir(self.folder.name) if f.startswith("map.json.")], [])
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
            if os.path.exists("/dev/shm/moetap-hint-" + name):
                os.unlink("/dev/shm/moetap-hint-" + name)


if __name__ == "__main__":
    unittest.main()
