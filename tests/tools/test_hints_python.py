# SPDX-License-Identifier: BSD-3-Clause
"""The package tools/python/moetap against the pages that the verbs make, and the examples of docs/hints.md."""
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import unittest

SOURCE, MOETAP = os.environ["MOETAP_SOURCE"], os.environ["MOETAP"]
sys.path.insert(0, os.path.join(SOURCE, "tools", "python"))
try:
    import numpy
    import moetap
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)
NAME = f"test-python-{os.getpid()}"
PATH = f"/dev/shm/moetap-hint-{NAME}"
LAYERS, EXPERTS, SLOTS = 2, 6, 8


def run(*args, stdin=None):
    done = subprocess.run([str(a) for a in args], input=stdin, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def publish(*args, steps=300):
    lines = ["step," + ",".join(f"l{l}_e{e}" for l in range(LAYERS) for e in range(EXPERTS))]
    for step in range(steps):
        lines.append(",".join(map(str, [step] + [(e + 1) * 100 + l + step % 3
                                                 for l in range(LAYERS) for e in range(EXPERTS)])))
    run(MOETAP, "hints", "publish", "--horizon", 50, "--ranks", 2, "--nodes", 2, "--slots", SLOTS, *args, NAME, "-",
        stdin="\n".join(lines) + "\n")


def show():
    return json.loads(run(MOETAP, "hints", "show", "--format", "json", NAME))


class Python(unittest.TestCase):
    def tearDown(self):
        if os.path.exists(PATH):
            os.unlink(PATH)

    def test_read(self):
        publish("--lifetime", 1000)
        hints = moetap.Hints(NAME)
        self.assertTrue(hints.changed)
        hint, shown = hints.read(), show()
        self.assertFalse(hints.changed)
        for key in ("generation", "placement_generation", "publish_time_ns", "made_after_step", "valid_from_step",
                    "horizon", "expires_step", "expires_ns", "moves", "reason", "method"):
            self.assertEqual(getattr(hint, key), shown[key], key)
        self.assertTrue(hint.plan)
        for name in ("placement", "share", "low", "high", "split", "bias", "capacity"):
            numpy.testing.assert_allclose(getattr(hint, name), [l[name] for l in shown["layers"]], rtol=1e-8,
                                          err_msg=name)
        self.assertEqual([bool(s) for s in hint.state["stable"]],
                         [l["state"] == "stable" for l in shown["layers"]])
        with self.assertRaises(ValueError):
            hint.share[0, 0] = 1

    def test_network(self):
        counts = "round,step,layer,phase,src,dst,expert,tokens,bytes\n" + "".join(
            f"{n},{n},0,dispatch,{s},{1 - s},{1 - s},{30 - 20 * s},0\n" for n in range(8) for s in (0, 1))
        run(MOETAP, "hints", "publish", "--horizon", 4, "--ranks", 2, "--slots", 2, "--queue-pairs", 4, NAME, "-",
            stdin=counts)
        network = moetap.Hints(NAME).read().network
        self.assertEqual(network.shape, (1,))
        self.assertEqual([round(float(x), 3) for x in network[0]], [30, 20, 2, -1])
        publish()
        self.assertIsNone(moetap.Hints(NAME).read().network)

    def test_views(self):
        """Views are the page itself, and it is noticed when the writer comes back to their place."""
        publish()
        hints = moetap.Hints(NAME)
        hint, kept = hints.read(), hints.read(copy=True)
        self.assertTrue(hint.whole)
        publish("--bias-rate", 0.5)
        self.assertTrue(hint.whole)
        self.assertEqual(hints.stale(hint, 0), {"newer"})
        publish("--bias-rate", 0.25)
        self.assertFalse(hint.whole)
        self.assertAlmostEqual(float(abs(hint.bias).max()), 0.25)     # the view moved on
        self.assertAlmostEqual(float(abs(kept.bias).max()), 1e-3)     # the copy did not
        self.assertEqual(hints.stale(hints.read(), 351), {"step"})
        with open(PATH, "r+b") as file:
            file.seek(hints._bank[1] + 300)
            file.write(b"\xff")
        with self.assertRaises(RuntimeError):
            hints.read()

    def test_ack(self):
        publish()
        hints = moetap.Hints(NAME, ack=True)
        with self.assertRaises(BlockingIOError):
            moetap.Hints(NAME, ack=True)
        hint = hints.read()
        hints.ack(hint, 320, layer=1)
        self.assertIn("acknowledged  generation 1 from step 320 on, layers 1 to 1\n", run(MOETAP, "hints", "show", NAME))
        hints.ack(None, 340)
        self.assertIn("acknowledged  generation 0 from step 340 on, layers 0 to 1\n", run(MOETAP, "hints", "show", NAME))
        for wrong in ((hint, -1), (hint, 0, LAYERS)):
            with self.assertRaises(ValueError):
                hints.ack(*wrong)
        hints.close()
        with self.assertRaises(PermissionError):
            moetap.Hints(NAME).ack(hint, 0)

    def test_while_written(self):
        """Every read is whole while hints are published."""
        publish()
        hints, generations = moetap.Hints(NAME), set()
        writer = threading.Thread(target=lambda: [publish("--bias-rate", n) for n in range(1, 21)])
        writer.start()
        while writer.is_alive():
            hint = hints.read()
            rates = set(abs(hint.bias).ravel().tolist())
            if hint.whole:
                self.assertEqual(rates, {float(hint.generation - 1) if hint.generation > 1 else
                                         float(numpy.float32(1e-3))})
                generations.add(hint.generation)
        writer.join()
        self.assertGreater(len(generations), 3)

    def test_errors(self):
        with self.assertRaises(FileNotFoundError):
            moetap.Hints("nobody-publishes-here")
        for text in (b"", b"x" * 300):
            with open(PATH, "wb") as file:
                file.write(text)
            with self.assertRaises(ValueError):
                moetap.Hints(NAME)

    def test_examples(self):
        """Those of docs/hints.md, as they stand."""
        with open(os.path.join(SOURCE, "docs", "hints.md")) as file:
            text = file.read()
        publish()
        placement = show()["layers"][0]["placement"]
        said = "acknowledged  generation 1 from step 300 on, layers 0 to 1\n"
        with tempfile.TemporaryDirectory() as folder:
            for kind, number in (("c", 1), ("python", 2)):
                path = os.path.join(folder, f"job.{kind}")
                with open(path, "w") as file:
                    file.write(re.search(rf"^<!-- {kind} -->\n```\w+\n(.*?)^```", text, re.M | re.S)[1])
                if kind == "c":
                    run("cc", "-Wall", "-Wextra", "-Werror", "-I", os.path.join(SOURCE, "host-lib"), path, "-o",
                        path + ".out")
                    out = run(path + ".out", NAME)
                else:
                    out = run("env", "PYTHONPATH=" + os.path.join(SOURCE, "tools", "python"), sys.executable, path, NAME)
                self.assertEqual([int(x) for x in out.split()], placement)
                self.assertIn(said, run(MOETAP, "hints", "show", NAME))
                hints = moetap.Hints(NAME)
                self.assertEqual(int.from_bytes(hints._page[hints._ack_at:hints._ack_at + 8], "little"), LAYERS * number)


if __name__ == "__main__":
    unittest.main(verbosity=2)
