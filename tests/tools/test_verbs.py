# SPDX-License-Identifier: BSD-3-Clause
"""The verbs from the outside, as users and scripts see them. What `count` counts is tested in tests/e2e."""
import csv
import glob
import gzip
import io
import json
import math
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
import zlib

MOETAP = os.environ["MOETAP"]
JOB = os.environ["MOETAP_TEST_JOB"]
SOURCE = os.environ["MOETAP_SOURCE"]
TRACE = os.path.join(SOURCE, "tests/data/gpt-4x16-short.csv")
DATA = os.path.join(SOURCE, "tests/data/rxe-2ranks")
MAP, CAPTURE = os.path.join(DATA, "map.yaml"), os.path.join(DATA, "capture.pcap.gz")
FIRMWARE = os.environ.get("MOETAP_FW", "")
LAYERS, EXPERTS = 4, 16

# The example of EPLB's README and the placement published there.
README = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
          [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
PUBLISHED = [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
             [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]


def run(*args, stdin=None, stdout=subprocess.PIPE, env=None):
    return subprocess.run([MOETAP, *map(str, args)], input=stdin, stdout=stdout, env=env,
                          stderr=subprocess.PIPE, text=True, timeout=120)


def read(path):
    with open(path) as file:
        return file.read()


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def loads_csv(loads):
    lines = ["layer,expert,share"]
    lines += [f"{l},{e},{x}" for l, layer in enumerate(loads) for e, x in enumerate(layer)]
    return "\n".join(lines) + "\n"


def balancedness(slots, loads, ranks):
    per_rank = len(slots) // ranks
    each = [loads[e] / slots.count(e) for e in slots]
    rank = [sum(each[r * per_rank:(r + 1) * per_rank]) for r in range(ranks)]
    return sum(rank) / ranks / max(rank)


def quasi_independent(cells):
    """Loads of experts, 4 a rank, whose ranks' own tokens are not seen: proportional fitting, expert by expert."""
    ranks, experts = range(len(cells)), range(len(cells[0]))
    activity = [1.0] * len(cells)
    for _ in range(200):
        rate = [sum(cells[s][e] for s in ranks) / sum(activity[s] for s in ranks if s != e // 4) for e in experts]
        activity = [sum(cells[s]) / sum(rate[e] for e in experts if e // 4 != s) for s in ranks]
    return [rate[e] * sum(activity) for e in experts]


class Case(unittest.TestCase):
    def good(self, *args, stdin=None):
        result = run(*args, stdin=stdin)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def guessed(self, percent, *args, stdin=None):
        """Good, and says that some of the loads are estimated; nothing else."""
        result = run(*args, stdin=stdin)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertIn(f": estimated: {percent} % of the tokens cross no NIC", result.stderr)
        return result.stdout

    def bad(self, status, pattern, *args, stdin=None):
        """Fails with one clear line (and a pointer to --help), and prints no result."""
        result = run(*args, stdin=stdin)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertRegex(result.stderr, pattern)
        self.assertLessEqual(len(result.stderr.splitlines()), 2)
        self.assertNotIn("{", result.stdout)
        return result


class Help(Case):
    VERBS = ("demo", "count", "learn", "map check", "map load", "forecast", "backtest", "plan", "advise", "simulate",
             "hints publish", "hints show", "hints watch", "hints network", "doctor", "map presets")

    def test_table(self):
        verbs = run("--complete").stdout.split()
        listed = re.findall(r"^  ([a-z]+) {2,}", self.good("--help"), re.M)
        self.assertEqual(verbs, listed)
        self.assertEqual({v.split()[0] for v in self.VERBS}, set(verbs))
        self.assertRegex(self.good("--version"), r"^moetap \d+\.\d+\.\d+\n$")
        self.assertEqual(run().returncode, 2)
        self.bad(2, "no verb 'dance'", "dance")
        for verb in ("hints", "map"):
            self.assertEqual(run(verb, "dance").returncode, 2)
            self.assertIn("Verbs:", run(verb, "dance").stderr)
        self.assertRegex(self.good("hints", "--help"), r"publish\b[^\0]*show\b[^\0]*watch\b")

    def test_every_verb(self):
        for verb in self.VERBS:
            text = self.good(*verb.split(), "--help")
            self.assertIn(f"Usage: moetap {verb}", text)
            self.assertRegex(text, rf"\n  moetap .*{verb.split()[0]}", "an example")
            self.bad(2, "no option --dance", *verb.split(), "--dance")

    def test_manual_pages(self):
        """Every option of a verb is in its manual page, and no other."""
        for verb in self.VERBS:
            options = re.findall(r"^  (--[a-z-]+)", self.good(*verb.split(), "--help"), re.M)
            page = os.path.join(SOURCE, f"docs/man/moetap-{verb.split()[0]}.1.scd")
            text = read(page)
            if " " in verb:
                text = text.split(f"## {verb.split()[1]}", 1)[1].split("\n## ")[0]
            documented = re.findall(r"^\*(--[a-z-]+)\*", text, re.M)
            self.assertEqual(set(options) - {"--help"}, set(documented), verb)

    def complete(self, *words):
        """What bash would offer for the last word."""
        script = os.path.join(SOURCE, "tools/completion/moetap.bash")
        shell = (f"source {script}; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _moetap;"
                 "printf '%s\\n' \"${COMPREPLY[@]}\"")
        return subprocess.run(["bash", "-c", shell, "bash", MOETAP, *words], text=True,
                              stdout=subprocess.PIPE, check=True).stdout.split()

    def test_completion(self):
        self.assertEqual(self.complete("fore"), ["forecast"])
        self.assertEqual(set(run("--complete").stdout.split()) - set(self.complete("")), set())
        self.assertEqual(self.complete("hints", "w"), ["watch"])
        self.assertIn("--horizon", self.complete("forecast", "--"))
        self.assertIn("--threshold", self.complete("hints", "publish", "--t"))
        self.assertEqual(self.complete("forecast", "--format", ""), ["csv", "json"])
        self.assertEqual(self.complete("plan", "--ranks", ""), [])
        self.assertIn(TRACE, self.complete("plan", TRACE[:-3]))
        self.assertEqual(self.complete("map", "c"), ["check"])
        self.assertEqual(self.complete("map", "p"), ["presets"])
        self.assertEqual(self.complete("map", "check", "--s"), ["--show"])
        self.assertIn("deepep-ll", self.complete("map", "presets", ""))
        self.assertEqual(self.complete("map", "presets", "ncc"), ["nccl"])
        self.assertEqual(self.complete("count", "--tap", ""), ["all", "heads"])
        self.assertIn("--total", self.complete("count", "--follow", "--t"))
        self.assertIn(CAPTURE, self.complete("count", "--total", CAPTURE[:-3]))
        self.assertIn(MAP, self.complete("count", "--map", MAP[:-3]))
        name = f"complete-{os.getpid()}"
        for page in (name, f"hint-{name}"):
            with open(f"/dev/shm/moetap-{page}", "w"):
                self.addCleanup(os.unlink, f"/dev/shm/moetap-{page}")
        self.assertEqual(self.complete("count", "--page", name[:-1]), [name])
        self.assertEqual(self.complete("map", "load", "--page", name), [name])
        self.assertEqual(self.complete("count", "--page", f"hint-{name}"), [])


class Map(Case):
    def test_check(self):
        text = self.good("map", "check", MAP)
        for words in ("job             rxe-2ranks", "inference, 2 layers", "token         va, dispatch: witness, 544 bytes",
                      "count         atomic, count: load, needs 102 bytes", "combine       va, combine: needs 98", "snap length     102 bytes",
                      "rank 1        experts 4 to 7", "10.77.0.2"):
            self.assertIn(words, text)

    def test_json(self):
        data = json.loads(self.good("map", "check", "--format", "json", MAP))
        self.assertEqual((data["job"], data["layers"], data["experts"], data["tap"]),
                         ("rxe-2ranks", 2, 8, "all"))
        self.assertEqual([r["addresses"] for r in data["ranks"]], [["10.77.0.1"], ["10.77.0.2"]])
        self.assertEqual([r["snap_length"] for r in data["rules"]], [98, 98, 102])
        self.assertEqual([r["role"] for r in data["rules"]], ["witness", None, "load"])
        self.assertEqual(data["snap_length"], 102)
        # A header of 160 bytes, 4 pairs of 24, 16 cells of 12, up to a multiple of 64.
        self.assertEqual(data["round_bytes"], 448)

    def test_snap_of_counts(self):
        """Integers for all experts of a rank count among what their rule needs."""
        data = json.loads(self.good("map", "check", "--format", "json", os.path.join(SOURCE, "docs/maps/witness.yaml")))
        # Ethernet with two tags 22, IPv6 40, UDP and BTH 20, RETH and immediate 20, then 8 x 4, or a path MTU.
        self.assertEqual([(r["role"], r["snap_length"]) for r in data["rules"]],
                         [("load", 134), ("witness", 4198), (None, 98)])

    def test_wrong_maps(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(read(MAP).replace("layers: 2", "layers: 0"))
            file.flush()
            for verb in (("map", "check"), ("map", "load", "--page", "x"), ("count", "--map")):
                where = (CAPTURE,) if verb[0] == "count" else ()
                self.bad(1, re.escape(file.name) + r":5: 0 is out of range", *verb, file.name, *where)
        self.bad(1, "No such file", "map", "check", "/nowhere.yaml")

    def test_show(self):
        """The map that --show prints means the same, with every number worked out."""
        maps = glob.glob(os.path.join(SOURCE, "docs/maps/*.yaml")) + \
            glob.glob(os.path.join(SOURCE, "tests/data/*/*.yaml")) + \
            glob.glob(os.path.join(SOURCE, "tests/fuzz/seeds/map/*.yaml"))
        self.assertGreater(len(maps), 12)
        for path in maps:
            shown = self.good("map", "check", "--show", path)
            self.assertNotRegex(shown, r"(?m)^(let|preset|with):")
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(shown)
                file.flush()
                self.assertEqual(self.good("map", "check", "--show", file.name), shown, path)
                for how in ("text", "json"):
                    self.assertEqual(self.good("map", "check", "--format", how, file.name),
                                     self.good("map", "check", "--format", how, path), path)
        self.assertEqual(self.good("map", "check", "--show", os.path.join(DATA, "preset.yaml")),
                         self.good("map", "check", "--show", MAP))
        self.bad(2, "no JSON", "map", "check", "--show", "--format", "json", MAP)

    def test_show_numbers(self):
        shown = self.good("map", "check", "--show", os.path.join(SOURCE, "docs/maps/deepep.yaml"))
        # Worked out by hand: a token 16 + 7168 + 4 x 56 bytes, a result's place 2 x 7168 + 4 x 56.
        for words in ("    length: 7408\n", "    length: 14336\n", "base: 0x7f0040000000",
                      "    offset: %d\n" % (2 * 512 + 2 * 128 * 128 * 14560),
                      "    expert: {stride: %d, count: 32, of: dst}\n" % (4 * 128 * 7408)):
            self.assertIn(words, shown)

    def test_presets(self):
        names = [line.split()[0] for line in self.good("map", "presets").splitlines()]
        files = glob.glob("*.yaml", root_dir=os.path.join(SOURCE, "driver/presets"))
        self.assertEqual(names, sorted(f[:-5] for f in files))
        listed = json.loads(self.good("map", "presets", "--format", "json"))
        self.assertEqual([p["name"] for p in listed["presets"]], names)
        documented = read(os.path.join(SOURCE, "docs/map.md"))
        for name in names:
            self.assertIn(f"\n| `{name}` |", documented)
            one = json.loads(self.good("map", "presets", "--format", "json", name))
            text = self.good("map", "presets", name)
            self.assertRegex(one["source"], r"^\w[\w-]*/[\w-]+@[0-9a-f]{7,}, ")
            for parameter in one["parameters"]:
                self.assertIn(f"\n  {parameter['name']} ", text)
        text = self.good("map", "presets", "deepep-ll")
        self.assertRegex(text, r"dtype .*\n +fp8 or bf16; fp8 if not given\n")
        self.assertRegex(text, r"hidden .*\n +128 to 65536; required\n")
        self.bad(1, "No such file", "map", "presets", "none")
        self.bad(2, r"\[NAME\]", "map", "presets", "a", "b")

    def test_presets_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            env = dict(os.environ, MOETAP_PRESETS=folder)

            def listed(*args):
                return subprocess.run([MOETAP, "map", "presets", *args], env=env, text=True,
                                      capture_output=True, timeout=60)
            self.assertEqual((listed().returncode, listed().stdout), (0, ""))
            shutil.copy(os.path.join(SOURCE, "driver/presets/nccl.yaml"), os.path.join(folder, "b.yaml"))
            with open(os.path.join(folder, "a.yaml"), "w") as file:
                file.write("moetap-preset: 1\nabout: x\n")
            self.assertEqual(listed().returncode, 1)
            self.assertRegex(listed().stdout, r"^b  ")
            self.assertRegex(listed().stderr, r"a\.yaml:1: 'source' is missing")
            env["MOETAP_PRESETS"] = "/nowhere"
            self.assertEqual(listed().returncode, 1)
            self.assertIn("/nowhere", listed().stderr)

    def test_preset_counts(self):
        """A capture counts the same with the preset of its program and with the map by hand."""
        by_hand = run("count", "--map", MAP, CAPTURE)
        by_preset = run("count", "--map", os.path.join(DATA, "preset.yaml"), CAPTURE)
        self.assertEqual((by_preset.returncode, by_preset.stdout), (0, by_hand.stdout))
        self.assertGreater(len(by_hand.stdout.splitlines()), 30)

    def test_load_errors(self):
        self.bad(2, "--page NAME is missing", "map", "load", MAP)
        self.bad(1, "is moetap-fw running", "map", "load", "--page", f"none-{os.getpid()}", MAP)


class Count(Case):
    def test_ended_early(self):
        """Whenever a signal comes (to whoever listens: nohup does not to SIGHUP), no folder or page is left."""
        with tempfile.TemporaryDirectory() as folder:
            for n in range(24):
                sent = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[n % 3]
                process = subprocess.Popen([MOETAP, "count", "--map", MAP, CAPTURE], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL, env=dict(os.environ, TMPDIR=folder))
                time.sleep(0.01 * n)
                process.send_signal(sent)
                self.assertIn(process.wait(60), (0, -sent))
                self.assertEqual(os.listdir(folder), [])
                end = time.monotonic() + 20     # its moetap-fw is told by the kernel, and tidies up itself
                while glob.glob(f"/dev/shm/moetap-capture-{process.pid}-*") and time.monotonic() < end:
                    time.sleep(0.01)
                self.assertEqual(glob.glob(f"/dev/shm/moetap-capture-{process.pid}-*"), [])

    def test_command_lines(self):
        for pattern, *args in (
                ("either --map MAP.yaml and CAPTURE, or --page",),
                ("either", CAPTURE), ("either", "--map", MAP, "--page", "x"),
                ("wanted after the options: CAPTURE", "--map", MAP),
                (r"options: \[CAPTURE\]", "--map", MAP, CAPTURE, CAPTURE),
                ("do not go together", "--page", "x", CAPTURE),
                ("--page only", "--map", MAP, "--follow", CAPTURE),
                ("--page only", "--map", MAP, "--from", 0, CAPTURE),
                ("capture only", "--page", "x", "--cores", 2),
                ("capture only", "--page", "x", "--tap", "all"),
                ("--cores must be", "--map", MAP, "--cores", 0, CAPTURE),
                ("--from must be", "--page", "x", "--from", "-1"),
                ("all|heads", "--map", MAP, "--tap", "tails", CAPTURE),
                ("csv|json", "--map", MAP, "--format", "xml", CAPTURE),
                ("no option --total=1", "--total=1", "--map", MAP, CAPTURE)):
            self.bad(2, pattern, "count", *args)
        self.bad(1, "is moetap-fw running", "count", "--page", f"none-{os.getpid()}")
        self.bad(1, "No such file", "count", "--map", MAP, "/nowhere.pcap")


@unittest.skipUnless(os.access(FIRMWARE, os.X_OK), "moetap-fw was not built")
class Firmware(Case):
    def count(self, *args):
        result = run("count", "--map", MAP, *args)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stderr, r"moetap count: 946 packets: \d+ dispatch, ")
        self.assertIn("moetap count: 6 rounds, 6 of them dispatch; 6 exact\n", result.stderr)
        return result.stdout

    def test_count(self):
        table = rows(self.count(CAPTURE))
        self.assertEqual(list(table[0]), ["round", "step", "layer", "phase", "src", "dst", "expert",
                                          "tokens", "bytes"])
        counted = {(r["step"], r["layer"], r["src"], r["dst"], r["expert"]): r["tokens"] for r in table}
        truth = {(r["step"], r["layer"], r["src"], r["dst"], r["expert"]): r["tokens"]
                 for r in rows(read(os.path.join(DATA, "truth.csv"))) if r["src"] != r["dst"]}
        self.assertEqual(counted, truth)
        lines = [json.loads(line) for line in self.count("--format", "json", CAPTURE).splitlines()]
        self.assertEqual([c["tokens"] for r in lines for c in r["cells"]],
                         [int(r["tokens"]) for r in table])
        self.assertTrue(all(r["exact"] and r["quality"] == "" for r in lines))

    def test_total(self):
        table = rows(self.count("--total", CAPTURE))
        self.assertEqual(list(table[0]), ["src", "dst", "expert", "tokens", "bytes"])
        data = json.loads(self.count("--total", "--format", "json", CAPTURE))
        self.assertEqual((data["rounds"], data["exact"]), (6, 6))
        self.assertEqual([{k: str(v) for k, v in c.items()} for c in data["cells"]], table)
        tokens = sum(int(r["tokens"]) for r in rows(self.count(CAPTURE)))
        self.assertEqual(sum(int(r["tokens"]) for r in table), tokens)

    def test_cores(self):
        """As many poll cores as there may be; with each more, DPDK needs more memory."""
        one = self.count(CAPTURE)
        for cores in (2, 16, 64):
            self.assertEqual(self.count("--cores", cores, CAPTURE), one)
        self.bad(1, "65 poll cores: at most 64", "count", "--map", MAP, "--cores", 65, CAPTURE)

    def test_pipe(self):
        """From packets to a plan."""
        forecast = self.guessed("50.0", "forecast", "--horizon", 1, "-", stdin=self.count(CAPTURE))
        plan = json.loads(self.good("plan", "--ranks", 2, "--slots", 10, "-", stdin=forecast))
        self.assertEqual(len(plan["physical_to_logical_map"]), 2)
        lines = self.count("--format", "json", CAPTURE)
        self.assertEqual(self.guessed("50.0", "forecast", "--horizon", 1, "-", stdin=lines), forecast)
        data = json.loads(self.guessed("50.0", "forecast", "--horizon", 1, "--format", "json", "-", stdin=lines))
        self.assertEqual((data["rounds"], data["flagged"], data["quality"]), (6, 0, "estimated"))
        self.assertEqual((data["estimated"], data["estimate_bounded"]), (0.5, False))
        for r in data["forecast"]:
            self.assertAlmostEqual(r["estimated"], 0.5)
            self.assertLessEqual(r["low"], r["share"] / 2 + 1e-9)
            self.assertGreaterEqual(r["high"], min(1, r["share"] + 0.5) - 1e-9)

    def test_sources_seen(self):
        """What crosses no NIC is not counted, and how many sources are seen is said."""
        result = run("count", "--map", MAP, "--format", "json", CAPTURE)
        self.assertIn("moetap count: of every expert, 1 of 2 sources pass the tap; what the others send is not in "
                      "the counts\n", result.stderr)
        self.assertNotIn("never passed the tap", result.stderr)
        for line in result.stdout.splitlines():
            self.assertEqual(json.loads(line)["sources_seen"], [1] * 8)

    def test_nodes(self):
        """Ranks whose node the map says: what it says and what passes the tap are compared."""
        four = os.path.join(SOURCE, "tests/data/rxe-4ranks")
        how = {"capture": os.path.join(four, "capture.pcap.gz"), "data": four}
        with open(os.path.join(four, "map.yaml"), encoding="utf-8") as f:
            ranks = [line for line in f if "{rank:" in line]
        text = "".join(line.replace("}\n", f", node: {i // 2}}}\n") for i, line in enumerate(ranks))
        result = self.count_with("".join(ranks), text, **how)
        self.assertEqual(result.returncode, 0)
        self.assertIn("4 pairs of ranks of one node pass the tap, the first of them rank 0 to rank 1, but by the "
                      "map none does: is 'within-node: seen' right?", result.stderr)
        self.assertIn("3 of 4 sources pass the tap", result.stderr)
        result = self.count_with("".join(ranks), text + "within-node: seen\n", **how)
        self.assertNotIn("of one node", result.stderr)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(read(os.path.join(four, "map.yaml")).replace("".join(ranks), text))
            file.flush()
            self.assertIn("sources seen    2 of 4, of every expert; a rank's tokens for itself cross no NIC, nor "
                          "do those within a node", self.good("map", "check", file.name))
            data = json.loads(self.good("map", "check", "--format", "json", file.name))
            self.assertEqual([(r["node"], r["sources_seen"]) for r in data["ranks"]],
                             [(0, 2), (0, 2), (1, 2), (1, 2)])
            self.assertEqual(data["within_node"], "unseen")
            shown = self.good("map", "check", "--show", file.name)
            self.assertIn("within-node: unseen\n", shown)
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as again:
                again.write(shown)
                again.flush()
                self.assertEqual(self.good("map", "check", "--show", again.name), shown)

    def test_standard_input(self):
        """As from `tcpdump -w - |`, or packed."""
        for data in (open(CAPTURE, "rb").read(), gzip.open(CAPTURE).read()):
            result = subprocess.run([MOETAP, "count", "--map", MAP, "-"], input=data, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, timeout=60, check=True)
            self.assertIn(b"6 exact", result.stderr)
            self.assertEqual(result.stdout.decode(), self.count(CAPTURE))
        self.bad(1, "standard input: not a capture", "count", "--map", MAP, "-", stdin="no capture at all\n")

    def test_full_disk(self):
        for args in ((), ("--total",), ("--format", "json")):
            with open("/dev/full", "w") as full:
                result = run("count", "--map", MAP, *args, CAPTURE, stdout=full)
            self.assertEqual(result.returncode, 1)
            self.assertIn("moetap: cannot write the result: No space left on device\n", result.stderr)

    def test_behind_gzip(self):
        with tempfile.NamedTemporaryFile(suffix=".pcap.gz") as file:
            file.write(open(CAPTURE, "rb").read() + b"something else")
            file.flush()
            result = run("count", "--map", MAP, file.name)
        self.assertEqual(result.returncode, 1)
        self.assertIn("after the gzip data, and 946 records, something else follows", result.stderr)
        self.assertIn("6 exact", result.stderr)

    def test_damaged(self):
        """What comes before the damage is counted."""
        whole = gzip.open(CAPTURE).read()
        with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
            file.write(whole[:len(whole) * 2 // 3])
            file.flush()
            result = run("count", "--map", MAP, file.name)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"{file.name}: cut short in record", result.stderr)
        self.assertGreater(len(rows(result.stdout)), 8)

    def count_with(self, old, new, *args, capture=CAPTURE, data=DATA):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            text = read(os.path.join(data, "map.yaml"))
            self.assertIn(old, text)
            file.write(text.replace(old, new))
            file.flush()
            return run("count", "--map", file.name, *args, capture)

    def test_wrong_map(self):
        """A map that fits nothing: a clear word, with all that was not read."""
        result = self.count_with("10.77.0.", "10.78.0.")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, "no dispatch round was found: the map does not fit.*addresses "
                         r"\([1-9]\d* packets of unknown.*\(0 packets that no rule knows, 0 that contradict")
        self.assertEqual(rows(result.stdout), [])
        result = self.count_with("base: 0x5", "base: 0x4")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"\([1-9]\d* packets that no rule knows, 0 that contradict the map")

    def test_nothing_to_count(self):
        whole = gzip.open(CAPTURE).read()
        frame = bytes(12) + b"\x08\x06" + bytes(46)
        for data, words in ((whole[:24], "the capture has no packets"),
                            (whole[:24] + struct.pack("<4I", 0, 0, 60, 60) + frame, "no packet is RoCEv2")):
            with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
                file.write(data)
                file.flush()
                result = run("count", "--map", MAP, file.name)
            self.assertEqual(result.returncode, 1)
            self.assertIn("no dispatch round was found: " + words, result.stderr)

    def test_words_of_tcp(self):
        """Of a map of TCP connections nothing is said of RoCE and bases."""
        where = {name: os.path.join(SOURCE, "tests/data/tcp-gloo", name) for name in ("map.yaml", "capture.pcap.gz")}
        for change, words in ((("connect: 8", "connect: 9"), "compare the ports of 'tcp', its 'connect'"),
                              (("tcp: {", "tcp: {ports: 1, "), "no packet is TCP between the map's ranks, on its ports")):
            text = read(where["map.yaml"])
            self.assertIn(change[0], text)
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text.replace(*change))
                file.flush()
                told = run("count", "--map", file.name, where["capture.pcap.gz"]).stderr
            self.assertIn(words, told)
            self.assertNotRegex(told, "RoCE|RDMA|base")

    def test_left_out(self):
        """As many packets that the map leaves out as messages that it counts are told, with the remedy."""
        four = os.path.join(SOURCE, "tests/data/rxe-4ranks")
        how = {"capture": os.path.join(four, "capture.pcap.gz"), "data": four}
        text = read(os.path.join(four, "map.yaml"))
        combine = text[text.index("  - name: combine"):text.index("  - name: count")]
        told = self.count_with(combine, "", **how).stderr
        self.assertRegex(told, r"\d+ packets between ranks are of no rule, but \d+ begin a dispatch message: if these are "
                         "tokens too, compare the ranks' 'base'.*else give them a rule of phase control")
        self.assertNotIn("of unknown ranks, but", told)
        self.assertNotIn("begin a dispatch", self.count_with("job:", "job:", **how).stderr)

    def test_wrong_rank(self):
        """A map that is wrong for one rank: counts of the others, and a verdict."""
        four = os.path.join(SOURCE, "tests/data/rxe-4ranks")
        how = {"capture": os.path.join(four, "capture.pcap.gz"), "data": four}
        result = self.count_with("base: 0x7fc5", "base: 0x6fc5", "--format", "json", **how)
        self.assertEqual(result.returncode, 0)
        self.assertIn("rank 1: no message to it was read, 5144 packets unmatched, 0 contradict the map: compare the "
                      "ranks' 'base'", result.stderr)
        self.assertNotIn("packets between ranks are of no rule", result.stderr)
        self.assertEqual(result.stderr.count("no message"), 1)
        unseen = run("forecast", "--horizon", 1, "-", stdin=result.stdout).stderr
        self.assertIn("experts 4 to 7 were never seen: unknown, not zero", unseen)
        result = self.count_with("10.77.0.2", "10.77.0.9", **how)
        self.assertRegex(result.stderr, r"rank 1: no message from it or to it was read, [1-9]\d* packets of "
                         "unknown ranks: is its address right")
        self.assertEqual(result.stderr.count("no message"), 1)
        self.assertNotIn("no message", self.count_with("job:", "job:", **how).stderr)

    def test_demo(self):
        data = json.loads(self.good("demo", "--format", "json"))
        capture, trace = data["capture"], data["trace"]
        self.assertEqual((capture["rounds"], capture["exact"], capture["ranks"]), (24, 24, 4))
        self.assertEqual((capture["stable"], capture["verdict"]), (False, "keep"))
        self.assertEqual((trace["stable"], trace["verdict"]), (True, "plan"))
        rounds = {}
        for r in rows(read(os.path.join(SOURCE, "tests/data/rxe-4ranks/truth.csv"))):
            cells = rounds.setdefault((int(r["step"]), int(r["layer"])), [[0] * 16 for _ in range(4)])
            cells[int(r["src"])][int(r["expert"])] = int(r["tokens"]) if r["src"] != r["dst"] else 0
        tokens = [[0] * 16 for _ in range(3)]
        for (_, layer), cells in rounds.items():
            for e, load in enumerate(quasi_independent(cells)):
                tokens[layer][e] += load / 8
        seen = sum(sum(map(sum, cells)) for cells in rounds.values())
        self.assertAlmostEqual(capture["estimated"], 1 - seen / 8 / sum(map(sum, tokens)), places=3)
        self.assertEqual(trace["estimated"], 0)
        for layer, truth in zip(capture["layers"], tokens):
            for a, b in zip(layer["tokens"], truth):
                self.assertAlmostEqual(a, b, places=4)
            load = [sum(truth[r * 4:r * 4 + 4]) for r in range(4)]
            self.assertAlmostEqual(layer["balancedness"], sum(load) / 4 / max(load), places=6)
            self.assertGreater(layer["balancedness_planned"], layer["balancedness"])
        hint = json.loads(self.good("hints", "show", "--format", "json", "demo-trace"))
        self.assertEqual((hint["reason"], hint["verdict"]), (trace["reason"], trace["verdict"]))
        # what comes of it is in test_loop.py
        self.assertEqual(data["loop"]["equal"], data["loop"]["steps"] * data["loop"]["layers"])

    def test_picture(self):
        for args in ((), ("--ascii",)):
            text = self.good("demo", *args)
            self.assertLessEqual(max(map(len, text.splitlines())), 100)
            self.assertIn("24 of 24 rounds exact; 25.1 % of the tokens cross no NIC and are estimated", text)
            self.assertEqual(text.count("of every expert, estimated in part,"), 1)
            self.assertRegex(text, r"1500 of 1500 rounds exact, 1500 with the job's own counts")
            self.assertRegex(text, r"1500 rounds as the job has them, 0 unknown, 0 wrong")
            self.assertNotIn("\033", text)
            self.assertEqual(text.isascii(), bool(args))


class Forecast(Case):
    def test_table(self):
        table = rows(self.good("forecast", "--horizon", 100, TRACE))
        self.assertEqual(list(table[0]), ["layer", "expert", "share", "low", "high"])
        self.assertEqual([(int(r["layer"]), int(r["expert"])) for r in table],
                         [(l, e) for l in range(LAYERS) for e in range(EXPERTS)])
        for l in range(LAYERS):
            shares = [float(r["share"]) for r in table if int(r["layer"]) == l]
            self.assertAlmostEqual(sum(shares), 1, places=7)
        for r in table:
            self.assertLessEqual(float(r["low"]), float(r["share"]))
            self.assertLessEqual(float(r["share"]), float(r["high"]))

    def test_figures(self):
        """The mean shares of the last window, computed here."""
        trace = [{k: float(v) for k, v in r.items()} for r in rows(read(TRACE))]
        table = rows(self.good("forecast", "--horizon", 100, "--method", "sw_avg", "--window", 30, TRACE))
        for r in table:
            mean = sum(t[f"l{r['layer']}_e{r['expert']}"] /
                       sum(t[f"l{r['layer']}_e{e}"] for e in range(EXPERTS))
                       for t in trace[-30:]) / 30
            self.assertAlmostEqual(float(r["share"]), mean, places=8)

    def test_json(self):
        table = rows(self.good("forecast", "--horizon", 100, TRACE))
        data = json.loads(self.good("forecast", "--horizon", 100, "--format", "json", TRACE))
        self.assertEqual(len(data["forecast"]), len(table))
        for a, b in zip(data["forecast"], table):
            for key in ("layer", "expert", "share", "low", "high"):
                self.assertAlmostEqual(a[key], float(b[key]), places=8)
        self.assertEqual((data["method"], data["horizon"]), ("auto", 100))
        self.assertEqual(data["made_after_step"], 1999)
        self.assertEqual((data["flagged"], data["quality"]), (None, "unknown"))
        self.assertTrue(all(r["seen"] for r in data["forecast"]))
        self.assertEqual(len(data["state"]), LAYERS)
        self.assertIn(data["state"][0]["state"], ("transient", "stable"))
        self.assertTrue(all(0 <= s["confidence"] <= 1 for s in data["state"]))

    def test_standard_input(self):
        self.assertEqual(self.good("forecast", "--horizon", 9, "-", stdin=read(TRACE)),
                         self.good("forecast", "--horizon", 9, TRACE))

    def test_counts(self):
        """What `moetap count` prints is a trace."""
        count = "round,step,layer,phase,src,dst,expert,tokens,bytes\n"
        for step in range(3):
            for layer in range(2):
                count += f"{step * 2 + layer},{step},{layer},dispatch,0,1,0,30,0\n"
                count += f"{step * 2 + layer},{step},{layer},dispatch,1,0,1,10,0\n"
        table = rows(self.guessed("50.0", "forecast", "--horizon", 1, "-", stdin=count))
        self.assertEqual([float(r["share"]) for r in table], [0.75, 0.25, 0.75, 0.25])
        # with what the ranks keep to themselves, nothing is left to estimate
        for step in range(3):
            for layer in range(2):
                count += f"{step * 2 + layer},{step},{layer},dispatch,0,0,1,5,0\n"
                count += f"{step * 2 + layer},{step},{layer},dispatch,1,1,0,15,0\n"
        table = rows(self.good("forecast", "--horizon", 1, "-", stdin=count))
        self.assertEqual([float(r["share"]) for r in table], [0.75, 0.25, 0.75, 0.25])

    @staticmethod
    def rounds(quality=(), experts=2):
        """What `moetap count --format json` prints; quality of rounds by their number."""
        lines = []
        for n in range(6):
            cells = [{"src": s, "dst": 1 - s, "expert": 1 - s, "tokens": 30 - 20 * s, "bytes": 0} for s in (0, 1)]
            lines.append(json.dumps({"round": n, "step": n // 2, "layer": n % 2, "phase": "dispatch",
                                     "exact": n not in quality, "quality": dict(quality).get(n, ""), "lost": 0,
                                     "experts": experts, "cells": cells}) + "\n")
        return "".join(lines)

    def test_quality(self):
        """Rounds with their quality: the loads of the CSV, and what is wrong with them."""
        args = ("forecast", "--horizon", 1, "--method", "sw_avg", "--format", "json", "-")
        data = json.loads(self.guessed("50.0", *args, stdin=self.rounds()))
        self.assertEqual((data["rounds"], data["flagged"], data["quality"]), (6, 0, "estimated"))
        self.assertEqual([r["share"] for r in data["forecast"]], [0.25, 0.75, 0.25, 0.75])
        flawed = self.rounds({2: "gap, duplicates", 3: "unmatched", 5: "align"})
        result = run(*args, stdin=flawed)
        data = json.loads(result.stdout)
        self.assertEqual((data["rounds"], data["flagged"], data["quality"]), (6, 2, "gap,align,estimated"))
        self.assertIn("2 of the 6 rounds behind it not exact: gap,align\n", result.stderr)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(flawed)
            file.flush()
            self.assertEqual(json.loads(run(*args[:-1], file.name).stdout), data)
            self.assertEqual(len(rows(self.guessed("50.0", "backtest", "--horizon", 1, "--from", 0, "--every", 1,
                                                   file.name))), 3)
            plan = json.loads(self.guessed("50.0", "plan", "--ranks", 2, "--slots", 4, file.name))
            self.assertEqual(plan["estimated"], 0.5)
            self.assertEqual(len(plan["physical_to_logical_map"]), 2)

    def test_never_seen(self):
        """A load that nobody saw is not zero."""
        words = "experts 2 to 4 were never seen: unknown, not zero"
        publish = ("hints", "publish", "--horizon", 1, "--ranks", 1, "--slots", 5, f"test-{os.getpid()}")
        forecast = run("forecast", "--horizon", 1, "-", stdin=self.rounds(experts=5))
        self.assertEqual(forecast.returncode, 0)
        self.assertIn(words, forecast.stderr)
        self.assertIn("\n0,2,nan,nan,nan\n", forecast.stdout)
        # no plan on a guess
        for args, loads in ((("plan", "--ranks", 1, "--slots", 5), self.rounds(experts=5)),
                            (("plan", "--ranks", 1, "--slots", 5), forecast.stdout),
                            (publish, self.rounds(experts=5))):
            result = run(*args, "-", stdin=loads)
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertIn(words, result.stderr)
            self.assertIn("layer 0, expert 2: no load is known", result.stderr)
        result = run("forecast", "--horizon", 1, "--format", "json", "-", stdin=self.rounds(experts=5))
        self.assertEqual([r["seen"] for r in json.loads(result.stdout)["forecast"]],
                         [True, True, False, False, False] * 2)
        self.assertEqual([r["share"] is None for r in json.loads(result.stdout)["forecast"]],
                         [False, False, True, True, True] * 2)
        count = "round,step,layer,phase,src,dst,expert,tokens,bytes\n0,0,0,dispatch,1,0,2,10,0\n"
        self.assertIn("experts 0 to 1 were", run("forecast", "--horizon", 1, "-", stdin=count).stderr)

    def test_errors(self):
        self.bad(1, "standard input:1: no round", "forecast", "--horizon", 1, "-", stdin='{"a": \n')
        self.bad(1, "without --total", "forecast", "--horizon", 1, "-", stdin='{"rounds":1,"cells":[]}\n')
        self.bad(2, "--horizon H is missing", "forecast", TRACE)
        self.bad(2, "--horizon must be", "forecast", "--horizon", 0, TRACE)
        self.bad(2, "--horizon must be", "forecast", "--horizon", "1e3", TRACE)
        self.bad(2, "csv|json", "forecast", "--horizon", 1, "--format", "xml", TRACE)
        self.bad(2, "TRACE", "forecast", "--horizon", 1)
        self.bad(1, "no method 'x'", "forecast", "--horizon", 1, "--method", "x", TRACE)
        self.bad(1, "No such file", "forecast", "--horizon", 1, "/nowhere.csv")
        text = read(TRACE)
        cut = self.bad(1, r"standard input:\d+: .*line feed", "forecast", "--horizon", 1, "-",
                       stdin=text[:len(text) // 2])
        self.assertIn(f":{text[:len(text) // 2].count(chr(10)) + 1}:", cut.stderr)

    def test_full_disk(self):
        with open("/dev/full", "w") as full:
            result = run("forecast", "--horizon", 1, TRACE, stdout=full)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("No space left", result.stderr)


class Backtest(Case):
    def test_table(self):
        table = rows(self.good("backtest", "--horizon", 100, "--method", "all", "--from", 200,
                               "--every", 100, TRACE))
        self.assertEqual(list(table[0]),
                         ["method", "horizon", "state", "rel", "norm", "experts", "origins"])
        self.assertEqual([(r["method"], r["state"]) for r in table],
                         [(m, s) for m in ("auto", "sw_avg", "last", "arima", "lstm")
                          for s in ("all", "transient", "stable")])
        for a, t, s in (table[k:k + 3] for k in range(0, len(table), 3)):
            self.assertEqual(int(a["origins"]), 17)  # 200, 300, ... 1800
            self.assertEqual(int(t["origins"]) + int(s["origins"]), 17)
            self.assertEqual(a["experts"], str(LAYERS * EXPERTS))
        # The mean of a window beats a single noisy step on this trace.
        error = {r["method"]: float(r["rel"]) for r in table if r["state"] == "all"}
        self.assertEqual(max(error, key=error.get), "last")
        # The order of the methods, and what they find, does not depend on which thread is first.
        self.assertEqual(table, rows(self.good("backtest", "--horizon", 100, "--method", "all",
                                               "--from", 200, "--every", 100, TRACE)))

    @unittest.skipUnless(shutil.which("gnuplot"), "no gnuplot")
    def test_plot(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, begins in (("it's.svg", b"<?xml"), ("a.png", b"\x89PNG")):
                path = os.path.join(folder, name)
                for more in ((), ("--method", "all", "--layer", LAYERS - 1)):
                    self.good("backtest", "--horizon", 100, "--every", 200, *more, "--plot", path, TRACE)
                    with open(path, "rb") as file:
                        self.assertEqual(file.read(len(begins)), begins)
                    os.unlink(path)
            args = ("backtest", "--horizon", 100, "--every", 500)
            gone = os.path.join(folder, "none", "a.svg")
            self.bad(1, "No such file", *args, "--plot", gone, TRACE)
            self.bad(1, "ends in .svg or .png", *args, "--plot", "a.pdf", TRACE)
            self.bad(1, "no layer 4, only 0 to 3", *args, "--layer", 4, "--plot", gone, TRACE)
            self.assertEqual(os.listdir(folder), [])

    def test_plot_without_gnuplot(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a.svg")
            result = run("backtest", "--horizon", 100, "--every", 500, "--plot", path, TRACE,
                         env=dict(os.environ, PATH=folder))
            self.assertEqual(result.returncode, 1)
            self.assertIn("gnuplot-nox", result.stderr)
            self.assertFalse(os.path.exists(path))

    def test_empty_state(self):
        """Before anything is stable there is no error to show, not an error of 0."""
        args = ("backtest", "--horizon", 1, "--from", 10, "--every", 500, TRACE)
        short = "".join(read(TRACE).splitlines(True)[:30])
        table = rows(self.good(*args[:-1], "-", stdin=short))
        self.assertEqual((table[2]["rel"], table[2]["norm"], table[2]["origins"]), ("", "", "0"))
        data = json.loads(self.good(*args[:-1], "--format", "json", "-", stdin=short))
        self.assertIsNone(data["backtest"][2]["rel"])

    def test_json(self):
        args = ("backtest", "--horizon", 50, "--method", "all", TRACE)
        table = rows(self.good(*args))
        data = json.loads(self.good(*args, "--format", "json"))["backtest"]
        self.assertEqual(len(data), len(table))
        for a, b in zip(data, table):
            self.assertEqual((a["method"], a["state"]), (b["method"], b["state"]))
            if b["rel"]:
                self.assertAlmostEqual(a["rel"], float(b["rel"]), places=6)
                self.assertTrue(0 <= a["coverage"] <= 1)

    def test_errors(self):
        self.bad(1, "shorter horizon", "backtest", "--horizon", 2000, TRACE)
        self.bad(1, "no method", "backtest", "--horizon", 10, "--method", "x", TRACE)


class Plan(Case):
    SHAPE = ("--ranks", 8, "--nodes", 2, "--slots", 16, "--groups", 4)

    def check(self, plan, loads, ranks, slots):
        """A plan agrees with itself and with the rules."""
        for l, layer in enumerate(plan["physical_to_logical_map"]):
            self.assertEqual(len(layer), slots)
            for r in range(ranks):
                held = layer[r * slots // ranks:(r + 1) * slots // ranks]
                self.assertEqual(len(set(held)), len(held), "an expert twice on a rank")
            for e in range(len(loads[l])):
                places = [s for s in plan["logical_to_physical_map"][l][e] if s >= 0]
                self.assertEqual(places, [s for s, x in enumerate(layer) if x == e])
                self.assertEqual(plan["expert_count"][l][e], len(places))
                self.assertGreater(len(places), 0)
            self.assertAlmostEqual(plan["balancedness"][l], balancedness(layer, loads[l], ranks),
                                   places=8)
        width = {len(e) for layer in plan["logical_to_physical_map"] for e in layer}
        self.assertEqual(width, {max(max(layer) for layer in plan["expert_count"])})

    def test_readme(self):
        loads = loads_csv(README)
        plan = json.loads(self.good("plan", *self.SHAPE, "-", stdin=loads))
        self.check(plan, README, 8, 16)
        self.assertEqual(plan["placement"], "hierarchical")
        for l in range(2):
            self.assertGreaterEqual(plan["balancedness"][l] + 1e-12,
                                    balancedness(PUBLISHED[l], README[l], 8))
        eplb = json.loads(self.good("plan", *self.SHAPE, "--policy", "eplb", "-", stdin=loads))
        self.assertEqual(eplb["physical_to_logical_map"], PUBLISHED)

    def test_trace(self):
        trace = [{k: float(v) for k, v in r.items()} for r in rows(read(TRACE))]
        loads = [[sum(t[f"l{l}_e{e}"] for t in trace[-50:]) / 50 for e in range(EXPERTS)]
                 for l in range(LAYERS)]
        plan = json.loads(self.good("plan", "--ranks", 4, "--slots", 20, "--last", 50, TRACE))
        self.check(plan, loads, 4, 20)
        self.assertEqual(plan["placement"], "global")
        each = [balancedness(s, w, 4) for s, w in zip(plan["physical_to_logical_map"], loads)]
        every = plan["balancedness_all"]
        self.assertAlmostEqual(every["mean_of_mean_over_max"], sum(each) / LAYERS, places=8)
        self.assertAlmostEqual(every["mean_of_excess_over_mean"],
                               sum(1 / b - 1 for b in each) / LAYERS, places=8)
        # Tokens of all layers are the same here, so the vLLM form is the harmonic mean.
        self.assertAlmostEqual(every["sum_of_means_over_sum_of_maxima"],
                               LAYERS / sum(1 / b for b in each), places=8)

    def test_from_forecast(self):
        forecast = self.good("forecast", "--horizon", 100, TRACE)
        plan = json.loads(self.good("plan", "--ranks", 4, "--slots", 16, "-", stdin=forecast))
        table = rows(forecast)
        loads = [[float(table[l * EXPERTS + e]["share"]) for e in range(EXPERTS)]
                 for l in range(LAYERS)]
        self.check(plan, loads, 4, 16)

    def test_csv(self):
        plan = json.loads(self.good("plan", *self.SHAPE, "-", stdin=loads_csv(README)))
        table = rows(self.good("plan", *self.SHAPE, "--format", "csv", "-", stdin=loads_csv(README)))
        self.assertEqual(list(table[0]), ["layer", "slot", "rank", "node", "expert"])
        for r in table:
            layer, slot = int(r["layer"]), int(r["slot"])
            self.assertEqual(int(r["expert"]), plan["physical_to_logical_map"][layer][slot])
            self.assertEqual((int(r["rank"]), int(r["node"])), (slot // 2, slot // 8))

    def test_current(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as current:
            before = self.good("plan", *self.SHAPE, "-", stdin=loads_csv(README))
            self.assertNotIn("moves", json.loads(before))
            current.write(before)
            current.flush()
            args = ("plan", *self.SHAPE, "--current", current.name, "-")
            same = json.loads(self.good(*args, stdin=loads_csv(README)))
            self.assertEqual(same["moves"], 0)
            self.assertEqual(same["physical_to_logical_map"],
                             json.loads(before)["physical_to_logical_map"])
            other = json.loads(self.good(*args, stdin=loads_csv([README[1], README[0]])))
            old, moves = json.loads(before)["physical_to_logical_map"], 0
            for l, layer in enumerate(other["physical_to_logical_map"]):
                for s, e in enumerate(layer):
                    rank = old[l][s // 2 * 2:s // 2 * 2 + 2]
                    moves += e not in rank
                    if e in rank:
                        self.assertEqual(old[l][s], e, "it stays on its rank but not in its slot")
            self.assertEqual(other["moves"], moves)
            self.assertGreater(moves, 0)

    def test_price(self):
        """Two ranks swap an expert; from the definition in moetap.h."""
        current = json.dumps({"physical_to_logical_map": [[0, 1, 2, 3]]})
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(current)
            file.flush()
            args = ("plan", "--ranks", 2, "--slots", 4, "--current", file.name, "--expert-bytes", 1e9,
                    "--inside", 2e9, "--token-us", 1000)
            loads = "step,l0_e0,l0_e1,l0_e2,l0_e3\n0,400,300,200,100\n"
            move = json.loads(self.good(*args, "-", stdin=loads))["move"]
            self.assertEqual(move["prices"], {"expert_bytes": 1e9, "inside": 2e9, "outside": 50e9, "token_us": 1000,
                                          "stall": 0})
            self.assertEqual((move["slots"], move["bytes_inside"], move["bytes_outside"]), (2, 2e9, 0))
            self.assertAlmostEqual(move["seconds"], 0.5)
            self.assertAlmostEqual(move["saved_a_step"], 0.2)
            self.assertAlmostEqual(move["pays_after_steps"], 2.5)
            stall = json.loads(self.good(*args, "--stall", 1.5, "-", stdin=loads))["move"]
            self.assertEqual((round(stall["seconds"], 9), stall["prices"]["stall"]), (2, 1.5))
            half = json.loads(self.good(*args, "--tokens", 500, "-", stdin=loads))["move"]
            self.assertAlmostEqual(half["pays_after_steps"], 5)
            even = json.loads(self.good(*args, "-", stdin=loads.replace("0,400,300,200,100", "0,1,1,1,1")))
            self.assertEqual((even["moves"], even["move"]["pays_after_steps"]), (0, 0))
            result = run(*args, "--format", "csv", "-", stdin=loads)
            self.assertRegex(result.stderr, r"2 slots, 2e\+09 bytes inside and 0 between nodes, 0.5 s; .* after 2.5 steps")
            shares = "layer,expert,share\n0,0,0.4\n0,1,0.3\n0,2,0.2\n0,3,0.1\n"
            result = run(*args, "-", stdin=shares)
            self.assertEqual(result.returncode, 1)
            self.assertIn("--tokens must say", result.stderr)
        self.bad(2, "--current", "plan", "--ranks", 2, "--slots", 4, "--token-us", 5, TRACE)

    def test_wrong_current(self):
        for text, pattern in (("{", r":1: column \d+:"), ("[]", "2 layers"),
                              ('{"physical_to_logical_map": [[1],[2]]}', "16 experts"),
                              (json.dumps({"physical_to_logical_map": [[0] * 16] * 2}), "no slot"),
                              (json.dumps({"physical_to_logical_map": [[-1] * 16] * 2}), "16 experts")):
            with tempfile.NamedTemporaryFile("w", suffix=".json") as current:
                current.write(text)
                current.flush()
                self.bad(1, pattern, "plan", *self.SHAPE, "--current", current.name, "-",
                         stdin=loads_csv(README))
        self.bad(1, "No such file", "plan", *self.SHAPE, "--current", "/nowhere.json", "-",
                 stdin=loads_csv(README))

    def test_wrong_plan(self):
        """A plan for other ranks, or of another model, is not taken for this one."""
        plan = json.loads(self.good("plan", *self.SHAPE, "-", stdin=loads_csv(README)))
        for change, pattern in (({"ranks": 4}, "a plan for 4 ranks, not 8"),
                                ({"nodes": 1}, "a plan for 1 nodes, not 2"),
                                ({"slots": 24}, "a plan for 24 slots, not 16"),
                                ({"expert_count": [[1] * 16] * 2}, "a model with 16 experts, not 12")):
            for option in ("--current", "--phases"):
                with tempfile.NamedTemporaryFile("w", suffix=".json") as other:
                    json.dump(plan | change, other)
                    other.flush()
                    self.bad(1, f"{other.name}: .*{pattern}", "plan", *self.SHAPE, option, other.name, "-",
                             stdin=loads_csv(README))

    def test_wrong_loads(self):
        for value, pattern in (("nan", ":2: column"), ("-1", ":2: column"), ("inf", ":2: column")):
            self.bad(1, pattern, "plan", "--ranks", 2, "--slots", 2, "-",
                     stdin=f"step,l0_e0,l0_e1\n0,1,{value}\n")
        zero = json.loads(self.good("plan", "--ranks", 2, "--slots", 4, "-", stdin="step,l0_e0,l0_e1\n0,0,0\n"))
        self.assertEqual(zero["expert_count"], [[2, 2]])
        self.assertEqual((zero["balancedness"], zero["doubled"]), ([1], 0))

    def test_phases(self):
        """Each phase gets its own plan again; a phase without one, a new plan."""
        loads = {"prefill": README[0], "decode": README[1], "idle": [1] * 11 + [50]}
        with tempfile.TemporaryDirectory() as folder:
            kept = {name: os.path.join(folder, name + ".json") for name in ("prefill", "decode")}
            plans = {}
            for name, path in kept.items():
                plans[name] = json.loads(self.good("plan", "--ranks", 4, "--slots", 16, "-",
                                                   stdin=loads_csv([loads[name]])))
                self.assertNotIn("phase", plans[name])
                with open(path, "w") as f:
                    json.dump(plans[name], f)
            args = ("plan", "--ranks", 4, "--slots", 16, "--phases", ",".join(kept.values()))
            for name in ("decode", "prefill", "decode", "idle"):
                got = json.loads(self.good(*args, "-", stdin=loads_csv([loads[name]])))
                self.check(got, [loads[name]], 4, 16)
                self.assertEqual(got["phase"], kept.get(name))
                if name in kept:
                    self.assertEqual(got["physical_to_logical_map"], plans[name]["physical_to_logical_map"])
            self.bad(1, "No such file", *args[:-1], kept["decode"] + ",", "-", stdin=loads_csv([README[0]]))
            self.bad(2, "--objective tokens alone", *args, "--objective", "experts", "-", stdin=loads_csv([README[0]]))
            for name, told in (("decode", kept["decode"]), ("idle", "a new plan")):
                got = run(*args, "--format", "csv", "-", stdin=loads_csv([loads[name]]))
                self.assertTrue(got.stderr.strip().endswith(told), got.stderr)
            self.bad(1, "more than 16 plans", *args[:-1], ",".join([kept["decode"]] * 17), "-",
                     stdin=loads_csv([README[0]]))

    def test_objective(self):
        loads = [[x / 100 for x in layer] for layer in README]
        even = json.loads(self.good("plan", *self.SHAPE, "-", stdin=loads_csv(loads)))
        plan = json.loads(self.good("plan", *self.SHAPE, "--objective", "experts", "-", stdin=loads_csv(loads)))
        self.check(plan, loads, 8, 16)
        self.assertEqual((plan["policy"], plan["placement"]), ("experts", "hierarchical"))
        self.assertNotIn("activated", even)
        for l, load in enumerate(loads):
            def most(slots):
                each = [1 - math.exp(-load[e] / slots.count(e)) for e in slots]
                return max(sum(each[s:s + 2]) for s in range(0, 16, 2))
            self.assertAlmostEqual(plan["activated"][l], most(plan["physical_to_logical_map"][l]), places=8)
            self.assertLessEqual(plan["activated"][l], most(even["physical_to_logical_map"][l]) + 1e-12)
        # Shares do not say how many tokens there are.
        shares = [[x / sum(layer) for x in layer] for layer in README]
        args = ("plan", *self.SHAPE, "--objective", "experts", "-")
        self.bad(1, "give --tokens", *args, stdin=loads_csv(shares))
        few, many = (json.loads(self.good(*args[:-1], "--tokens", t, "-", stdin=loads_csv(shares)))["activated"][0]
                     for t in (8, 800))
        self.assertLess(few, many)
        self.bad(2, "a policy of its own", *args[:-1], "--policy", "eplb", "-", stdin=loads_csv(shares))

    def test_parts(self):
        self.bad(2, "goes with --format json", "plan", *self.SHAPE, "--parts", "--format", "csv", TRACE)
        plan = json.loads(self.good("plan", "--ranks", 12, "--slots", 24, "--parts", "-", stdin=loads_csv(README)))
        better = 0
        for l, slots in enumerate(plan["physical_to_logical_map"]):
            part, load = plan["parts"][l], README[l]
            for e in range(12):
                self.assertAlmostEqual(sum(p for s, p in zip(slots, part) if s == e), 1, places=8)
            ranks = [sum(load[slots[s]] * part[s] for s in (r, r + 1)) for r in range(0, 24, 2)]
            even = sum(ranks) / 12 / max(ranks)
            self.assertAlmostEqual(plan["balancedness_parts"][l], even, places=8)
            self.assertGreaterEqual(even, plan["balancedness"][l] - 1e-9)
            better += even > plan["balancedness"][l] + 1e-3
        self.assertGreater(better, 0)

    def test_between_nodes(self):
        args = ("plan", *self.SHAPE, "--topk", 4, "--topk-groups", 2)
        kept = json.loads(self.good(*args, "-", stdin=loads_csv(README)))
        free = json.loads(self.good(*args, "--split-groups", "--token-bytes", 1000, "-", stdin=loads_csv(README)))
        self.check(free, README, 8, 16)
        self.assertEqual((kept["placement"], free["placement"]), ("hierarchical", "global"))
        self.assertIsNone(kept["between_nodes"]["bytes"])
        both = free["between_nodes"]
        self.assertAlmostEqual(both["groups_kept"]["copies"], kept["between_nodes"]["copies"], places=8)
        self.assertAlmostEqual(both["groups_kept"]["balancedness"],
                               kept["balancedness_all"]["mean_of_mean_over_max"], places=8)
        self.assertGreater(both["copies"], both["groups_kept"]["copies"])
        self.assertGreater(both["bytes"], both["groups_kept"]["bytes"])
        self.assertLess(both["copies"], 1)      # the other node of two
        for bad, pattern in ((("--topk", 13), "cannot take 13 experts"),
                             (("--topk", 2, "--topk-groups", 3), "of 3 groups out of 4"),
                             (("--topk", 7, "--topk-groups", 2), "cannot take 7 experts of 2 groups")):
            self.bad(1, pattern, "plan", *self.SHAPE, *bad, "-", stdin=loads_csv(README))
        for bad in (("--split-groups",), ("--topk-groups", 2), ("--token-bytes", 5)):
            self.bad(2, "--topk", "plan", *self.SHAPE, *bad, "-", stdin=loads_csv(README))

    def test_impossible(self):
        loads = loads_csv(README)
        for shape, pattern in (((8, 1, 15, 1), "next number that can is 16"),
                               ((8, 1, 8, 1), "do not hold 12 experts"),
                               ((8, 3, 16, 1), "evenly over 3 nodes"),
                               ((8, 1, 16, 5), "5 equal groups"),
                               ((2, 1, 26, 1), "at most 24 slots")):
            args = [str(x) for p in zip(("--ranks", "--nodes", "--slots", "--groups"), shape) for x in p]
            self.bad(1, pattern, "plan", *args, "-", stdin=loads)
        self.bad(2, "--slots S is missing", "plan", "--ranks", 4, "-", stdin=loads)
        self.bad(1, "no policy 'x'", "plan", "--ranks", 4, "--slots", 12, "--policy", "x", "-",
                 stdin=loads)


class Simulate(Case):
    def test_table(self):
        got = rows(self.good("simulate", "--ranks", 8, "--slots", 64, "--shape", "shift", "--layers", 2, "--steps", 1500))
        self.assertEqual([r["when"] for r in got], ["never", "every", "moetap"])
        never, every, ours = (float(r["seconds"]) for r in got)
        self.assertLess(ours, min(never, every))
        self.assertAlmostEqual(float(got[2]["saved"]), 1 - ours / never, places=3)

    def test_plot(self):
        if shutil.which("gnuplot") is None:
            self.skipTest("no gnuplot")
        with tempfile.TemporaryDirectory() as where:
            path = os.path.join(where, "plot.svg")
            self.good("simulate", "--ranks", 4, "--slots", 16, "--plot", path, TRACE)
            self.assertIn("<svg", read(path))
            self.bad(1, "ends in .svg or .png", "simulate", "--ranks", 4, "--slots", 16, "--plot", path + "x", TRACE)
            self.bad(1, "evenly", "simulate", "--ranks", 3, "--slots", 16, "--plot", path, TRACE)
            self.assertFalse(os.path.exists(path))  # no empty picture is left

    def test_errors(self):
        for more in ((), ("--ranks", 4, "--slots", 16)):
            self.assertIn("hot-rank", self.good("simulate", *more, "--shape", "list"))
        self.bad(1, "no loads of kind 'x'", "simulate", "--ranks", 4, "--slots", 16, "--shape", "x")
        self.bad(2, "either TRACE or --shape", "simulate", "--ranks", 4, "--slots", 16)
        self.bad(1, "evenly", "simulate", "--ranks", 3, "--slots", 16, TRACE)


class Advise(Case):
    """Should a job balance its experts? Rank 0 has more than its part, always, seldom or not at all."""
    SHAPE = ("--ranks", 2, "--slots", 4)

    def advise(self, loads, *args):
        text = "".join(["step,l0_e0,l0_e1,l0_e2,l0_e3\n"] + [f"{step},{','.join(map(str, load))}\n"
                                                           for step, load in enumerate(loads)])
        return json.loads(self.good("advise", *self.SHAPE, "--format", "json", *args, "-", stdin=text))

    def test_trial(self):
        """7 of 10 tokens on rank 0; planned on two steps, 5. By hand: of 200 s, 2 of 7 are saved."""
        price = ("--token-us", 1e3, "--expert-bytes", 160e9)
        got = self.advise([(4000, 3000, 2000, 1000)] * 40, *price)
        self.assertEqual(got["verdict"], "trial", got["reason"])
        self.assertEqual((got["planned_from"], got["judged_on"], got["slots"]), ([0, 19], [20, 39], 2))
        for key, value in {"before": 5 / 7, "after": 1, "expected": 1, "gain": 2 / 7, "low": 2 / 7, "high": 2 / 7,
                           "move_seconds": 1, "threshold": 0.05}.items():
            self.assertAlmostEqual(got[key], value, places=6, msg=key)
        for seconds in got["seconds"]:
            self.assertAlmostEqual(seconds, 20 * 2)
        self.assertIn("pays after 1 steps at most", self.advise([(4000, 3000, 2000, 1000)] * 40, *price)["reason"])
        # --window: the last steps; the plan is of those before.
        got = self.advise([(4000, 3000, 2000, 1000)] * 40, *price, "--window", 10)
        self.assertEqual((got["planned_from"], got["judged_on"]), ([0, 29], [30, 39]))

    def test_not_now(self):
        got = self.advise([(2600, 2500, 2500, 2400)] * 40)
        self.assertEqual(got["verdict"], "not now")
        self.assertIn("no more than the 5.0 % that are asked for", got["reason"])
        # Much is saved, but the move takes longer than the steps judged on.
        got = self.advise([(4000, 3000, 2000, 1000)] * 40, "--stall", 3600)
        self.assertEqual(got["verdict"], "not now")
        self.assertIn("no more than the 3.6e+03 s of the move", got["reason"])

    def test_not_enough(self):
        got = self.advise([(4000, 3000, 2000, 1000)] * 15)
        self.assertEqual(got["verdict"], "not enough evidence")
        self.assertIn("15 steps are too few", got["reason"])
        # Sometimes the plan helps, sometimes it harms.
        got = self.advise([(4000, 3000, 2000, 1000)] * 20 +
                          [(4000, 3000, 2000, 1000), (4000, 1000, 2000, 3000)] * 3 +
                          [(4000, 3000, 2000, 1000)] * 6 + [(4000, 1000, 2000, 3000)] * 8)
        self.assertEqual(got["verdict"], "not enough evidence", got)
        self.assertLess(got["low"], 0.05)
        self.assertGreater(got["high"], 0.05)
        self.assertEqual(self.advise([(4, 3, 2, 1)] * 20 + [(0, 0, 0, 0)] * 20)["verdict"], "not enough evidence")
        # Rounds that are not exact tell little.
        lines = "".join(json.dumps({
            "round": step, "step": step, "layer": 0, "phase": "dispatch", "exact": step % 5 != 0,
            "quality": "" if step % 5 else "gap", "lost": 0, "experts": 4, "cells": [{"src": src, "dst": e // 2, "expert": e, "tokens": tokens, "bytes": tokens}
                      for src in range(2) for e, tokens in enumerate((4000, 3000, 2000, 1000))]}) + "\n"
            for step in range(40))
        got = json.loads(self.good("advise", *self.SHAPE, "--format", "json", "-", stdin=lines))
        self.assertEqual(got["verdict"], "not enough evidence")
        self.assertIn("20 % of the rounds are not exact", got["reason"])
        self.assertEqual((got["rounds"], got["flagged"]), (40, 8))

    def test_text(self):
        text = self.good("advise", "--ranks", 4, "--slots", 20, TRACE)
        for words in ("verdict       not now: ", "judged on     steps 1000 to 1999", "as forecast", "80 % interval"):
            self.assertIn(words, text)
        self.assertNotIn("not exact", text)  # a CSV does not say it

    @unittest.skipUnless(os.access(FIRMWARE, os.X_OK), "moetap-fw was not built")
    def test_page(self):
        """The rounds that the page of a running firmware holds: three steps here."""
        name = f"test-advise-{os.getpid()}"
        with tempfile.TemporaryDirectory() as where:
            with gzip.open(CAPTURE) as packed, open(os.path.join(where, "c.pcap"), "wb") as file:
                shutil.copyfileobj(packed, file)
            port = f"net_pcap0,rx_pcap={file.name}"
            firmware = subprocess.Popen(
                [FIRMWARE, "--no-huge", "-m", "64", "--no-pci", "--no-telemetry", "--file-prefix", name, "--vdev", port,
                 "--", "--map", MAP, "--page", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                for _ in range(200):
                    result = run("advise", *self.SHAPE, "--page", name)
                    if result.stdout.startswith("verdict       not enough evidence: 3 steps are too few"):
                        break
                    time.sleep(0.1)
                else:
                    self.fail(result.stdout + result.stderr)
            finally:
                firmware.terminate()
                firmware.wait(20)

    def test_errors(self):
        for wrong, word in (("--threshold", 1.5), "a fraction"), (("--policy", "experts"), "judged by tokens"):
            self.bad(2, word, "advise", *self.SHAPE, *wrong, TRACE)
        self.bad(2, "either TRACE or --page", "advise", *self.SHAPE)
        self.bad(2, "either TRACE or --page", "advise", *self.SHAPE, "--page", "x", TRACE)
        self.bad(1, "is moetap-fw running", "advise", *self.SHAPE, "--page", f"none-{os.getpid()}")
        self.bad(1, "evenly", "advise", "--ranks", 3, "--slots", 16, TRACE)
        self.bad(1, "--stall must be 0 or more", "advise", "--ranks", 4, "--slots", 16, "--stall", -1, TRACE)
        shape = ("--ranks", 4, "--slots", 16)
        for option in ("--expert-bytes", "--inside", "--outside", "--token-us", "--tokens"):
            for wrong in (0, -1, "nan", "inf", 1e300, 1e-300):
                for verb in (("advise",), ("simulate",), ("plan",), ("hints", "publish", "--horizon", 9)):
                    self.bad(2, f"{option} must be a number above 0", *verb, *shape, option, wrong, TRACE)
        self.bad(1, "--stall must be 0 or more", "simulate", *shape, "--stall", 1e300, TRACE)
        zeros = "step,l0_e0,l0_e1,l0_e2,l0_e3\n" + "".join(f"{n},0,0,0,0\n" for n in range(40))
        self.bad(1, "the loads are all 0", "advise", "--ranks", 4, "--slots", 4, "-", stdin=zeros)
        said = self.good("advise", *shape, "--window", 2000, TRACE)
        self.assertIn("not enough evidence: --window 2000 leaves nothing of 2000 steps", said)


class Page:
    """Reads a hint page as moetap_hint.h says that a reader without the header may."""

    def __init__(self, name):
        with open(f"/dev/shm/moetap-hint-{name}", "rb") as file:
            self.page = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def read(self):
        magic, version, header, size = struct.unpack_from("<QIIQ", self.page, 0)
        assert magic.to_bytes(8, "little") == b"MTHINT01" and version == 2, "no hint page"
        assert header == 192 and size == len(self.page)
        bank_bytes, *bank = struct.unpack_from("<QQQ", self.page, 56)
        for _ in range(1000):
            generation, = struct.unpack_from("<Q", self.page, 128)
            at = bank[generation & 1]
            copy = self.page[at:at + bank_bytes]
            crc, size, got = struct.unpack_from("<IIQ", copy, 8)
            if got == generation and zlib.crc32(copy[16:size]) == crc:
                return self.fields(copy)
        raise AssertionError("no whole hint in 1000 attempts")

    @staticmethod
    def fields(copy):
        hint = dict(zip(("generation", "placement_generation", "publish_time_ns", "made_after_step",
                         "valid_from_step", "horizon", "verdict", "stable", "quality", "rounds",
                         "flagged", "gain", "before", "after", "moves", "layers", "experts", "slots",
                         "ranks", "nodes", "groups", "kinds_at", "kinds", "kind_bytes", "present", "known",
                         "unseen_ppm", "expires_ns", "expires_step", "plan_generation", "plan_step"),
                        struct.unpack_from("<QQQqqIIIIQQdddq6I6IQqQq", copy, 16)))
        for i in range(hint["kinds"]):
            kind, version, _, _, _, at = \
                struct.unpack_from("<II8sIII", copy, hint["kinds_at"] + i * hint["kind_bytes"])
            assert version == 1 and (hint["present"] >> i & 1) == (kind != 9)  # network: on request
            hint[{2: "placement_at", 3: "share_at"}.get(kind, f"kind_{kind}_at")] = at
        hint["reason"] = copy[232:488].split(b"\0")[0].decode()
        n = hint["slots"]
        hint["placement"] = [list(struct.unpack_from(f"<{n}I", copy, hint["placement_at"] + 4 * n * l))
                             for l in range(hint["layers"])]
        n = hint["experts"]
        hint["share"] = [list(struct.unpack_from(f"<{n}d", copy, hint["share_at"] + 8 * n * l))
                         for l in range(hint["layers"])]
        return hint


class Network(Case):
    ARGS = ("hints", "network", "--horizon", 4, "--method", "sw_avg", "--token-bytes", 100)
    COUNTS = "round,step,layer,phase,src,dst,expert,tokens,bytes\n" + "".join(
        f"{n},{n // 2},{n % 2},dispatch,{s},{1 - s},{1 - s},{30 - 20 * s},0\n" for n in range(8) for s in (0, 1))

    def network(self, *args):
        """Of ranks that keep nothing for themselves, as far as is known: half of all is estimated."""
        result = run(*self.ARGS, *args, "-", stdin=self.COUNTS)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_bytes(self):
        """A step has two layers, each with 30 tokens from rank 0 to rank 1 and 10 back."""
        self.assertEqual(self.network(), "src,dst,bytes,queue_pairs\n0,1,6000,2\n1,0,2000,1\n")
        self.assertEqual(self.network("--combine-bytes", 200, "--queue-pairs", 10),
                         "src,dst,bytes,queue_pairs\n0,1,10000,8\n1,0,14000,12\n")

    def test_json(self):
        data = json.loads(self.network("--traffic-class", 96, "--format", "json"))
        self.assertEqual([(p["src"], p["dst"], round(p["bytes"]), p["src_address"]) for p in data["pairs"]],
                         [(0, 1, 6000, None), (1, 0, 2000, None)])
        self.assertEqual((data["ranks"], data["traffic_class"], data["horizon"]), (2, 96, 4))
        self.assertIsNone(data["shared_source_ports"])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "map.yaml")
            with open(path, "w") as f:
                f.write("moetap-map: 1\njob: j\npattern: inference\nlayers: 2\nexperts-per-rank: 1\nranks:\n"
                        "  - {rank: 0, address: 10.0.0.1}\n  - {rank: 1, address: 'fd00::2'}\n"
                        "rules:\n  - {name: t, rule: qp, phase: dispatch, token-bytes: 100}\n"
                        "flows:\n  - {src: 0, dst: 1, qpn: 5, expert: 1}\n")
            data = json.loads(self.network("--map", path, "--format", "json"))
        self.assertEqual([(p["src_address"], p["dst_address"]) for p in data["pairs"]],
                         [("10.0.0.1", "fd00::2"), ("fd00::2", "10.0.0.1")])

    def test_errors(self):
        self.bad(1, "does not say which rank sent what", *self.ARGS, TRACE)
        self.bad(2, "--token-bytes B is missing", "hints", "network", "--horizon", 1, TRACE)
        self.bad(2, "go with --format json", *self.ARGS, "--page", "x", TRACE)
        self.bad(2, "a class is 0 to 255", *self.ARGS, "--traffic-class", 256, "--format", "json", TRACE)
        self.bad(1, "No such file", *self.ARGS, "--map", "/nowhere.yaml", "--format", "json", TRACE)
        gone = run(*self.ARGS, "--page", "no-such", "--format", "json", "-", stdin=self.COUNTS)
        self.assertEqual((gone.returncode, gone.stdout), (1, ""))
        self.assertIn("no moetap-fw of page no-such runs here", gone.stderr)
        gone = run("doctor", "--page", "no-such", "--format", "json")
        self.assertEqual(gone.returncode, 1)
        checks = {c["check"]: c for c in json.loads(gone.stdout)["checks"]}
        for check in "source ports", "drops":
            self.assertEqual((checks[check]["standing"], "--page" in checks[check]["remedy"]), ("wrong", True))


class Hints(Case):
    SHAPE = ("--horizon", 100, "--ranks", 4, "--slots", 20)

    def setUp(self):
        self.name = f"test-verbs-{os.getpid()}"
        self.path = f"/dev/shm/moetap-hint-{self.name}"

    def tearDown(self):
        if os.path.exists(self.path):
            os.unlink(self.path)

    def publish(self, *args):
        return self.good("hints", "publish", *self.SHAPE, *args, self.name, TRACE)

    def show(self):
        return json.loads(self.good("hints", "show", "--format", "json", self.name))

    def test_publish_and_show(self):
        before = time.time_ns()
        shown = self.publish()
        self.assertIn("generation    1,", shown)
        self.assertEqual(self.good("hints", "show", self.name), shown)
        hint = self.show()
        self.assertEqual((hint["generation"], hint["made_after_step"], hint["valid_from_step"]),
                         (1, 1999, 2000))
        self.assertTrue(before <= hint["publish_time_ns"] <= time.time_ns())
        self.assertIn(hint["reason"], shown)
        self.assertEqual(len(hint["layers"]), LAYERS)
        self.publish()
        again = self.show()
        self.assertEqual((again["generation"], again["placement_generation"]), (2, 1))

    def test_terms(self):
        """How long a hint holds, and what follows from its forecast."""
        shown = self.publish("--nodes", 2, "--lifetime", 60, "--bias-rate", 0.25)
        self.assertRegex(shown, r"\nholds         until step \d+ and 2")
        self.assertIn("\ncarries       forecast, placement, split, gate bias, capacity factors\n", shown)
        hint = self.show()
        self.assertEqual(hint["expires_step"], hint["made_after_step"] + 100)
        self.assertEqual(hint["expires_ns"], hint["publish_time_ns"] + 60 * 10**9)
        self.assertEqual(hint["in_force"], "start")
        for layer in hint["layers"]:
            for expert in range(EXPERTS):
                under = 1 / EXPERTS - layer["share"][expert]
                self.assertEqual(layer["bias"][expert], 0.25 if under > 0 else -0.25)
                self.assertAlmostEqual(layer["capacity"][expert], layer["high"][expert] * EXPERTS, places=5)
                for node in layer["split"]:
                    self.assertAlmostEqual(
                        sum(w for w, e in zip(node, layer["placement"]) if e == expert), 1, places=5)
        self.publish()
        self.assertIsNone(self.show()["expires_ns"])
        for wrong in (("--lifetime", -1), ("--bias-rate", -1)):
            self.bad(1, "must be 0 or more", "hints", "publish", *self.SHAPE, *wrong, self.name, TRACE)

    def test_quality(self):
        """Of the rounds behind a hint; a CSV does not say it."""
        self.assertIn("\nquality       unknown", self.publish())
        hint = self.show()
        self.assertEqual((hint["flagged"], hint["quality"]), (None, "unknown"))
        self.assertEqual(Page(self.name).read()["quality"], 1 << 16)
        shape = ("--horizon", 1, "--method", "sw_avg", "--ranks", 2, "--slots", 4)
        shown = self.guessed("50.0", "hints", "publish", *shape, self.name, "-",
                             stdin=Forecast.rounds({1: "late"}))
        self.assertIn("\nestimated     50.0 % of the tokens behind it", shown)
        self.assertIn("\nquality       1 of 6 rounds not exact: late\n", shown)
        hint = self.show()
        self.assertEqual((hint["flagged"], hint["quality"]), (1, "late,estimated"))
        self.assertEqual(hint["estimated"], 0.5)
        self.assertEqual(Page(self.name).read()["quality"], 1 << 17 | 1 << 7)
        self.assertIn("; 50.0 % of the tokens estimated, and nothing tells how well", hint["reason"])
        self.assertIn("1 of the 6 rounds behind it not exact (late)", hint["reason"])

    def test_readers_agree(self):
        """The header, the verb and a reader in Python see the same hint."""
        self.publish()
        page, hint = Page(self.name).read(), self.show()
        for key in ("generation", "placement_generation", "publish_time_ns", "made_after_step",
                    "valid_from_step", "horizon", "rounds", "moves", "reason", "slots",
                    "ranks", "nodes", "groups"):
            self.assertEqual(page[key], hint[key], key)
        self.assertAlmostEqual(page["gain"], hint["gain"], places=8)
        self.assertEqual(page["placement"], [l["placement"] for l in hint["layers"]])
        for a, b in zip(page["share"], hint["layers"]):
            for x, y in zip(a, b["share"]):
                self.assertAlmostEqual(x, y, places=8)
        job = subprocess.run([JOB, self.name], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertEqual(job.split(), ["1", hint["verdict"], *map(str, page["placement"][0])])

    def test_verdicts(self):
        trivial = [s % EXPERTS for s in range(20)]
        self.publish()
        hint = self.show()
        self.assertEqual(hint["verdict"], "plan", hint["reason"])
        self.assertGreater(hint["balancedness_after"], hint["balancedness_before"])
        self.assertNotEqual(hint["layers"][0]["placement"], trivial)
        # A gain too small, or loads not stable: keep what is in force.
        self.publish("--threshold", 0.9)
        hint = self.show()
        self.assertEqual(hint["verdict"], "keep")
        self.assertIn("90.0 %", hint["reason"])
        self.assertEqual(hint["layers"][0]["placement"], trivial)
        short = "".join(read(TRACE).splitlines(True)[:21])
        self.good("hints", "publish", *self.SHAPE, self.name, "-", stdin=short)
        hint = self.show()
        self.assertEqual(hint["verdict"], "keep")
        self.assertRegex(hint["reason"], "transient.*only 20 steps seen")

    def test_applied_plan_is_kept(self):
        """The plan, once it is in force, is not published as a plan again."""
        forecast = self.good("forecast", "--horizon", 100, TRACE)
        plan = self.good("plan", "--ranks", 4, "--slots", 20, "-", stdin=forecast)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as current:
            current.write(plan)
            current.flush()
            self.publish("--current", current.name)
        hint = self.show()
        self.assertEqual(hint["verdict"], "keep")
        self.assertEqual([l["placement"] for l in hint["layers"]],
                         json.loads(plan)["physical_to_logical_map"])

    def test_slots(self):
        """A trace of slots: as at the start, then as an operator states, or unknown."""
        def trace(held, steps):
            return [",".join([str(step)] + [str((e + 1) * 100 / held.count(e) + step % 3) for e in held])
                    for step in steps]
        header = "step," + ",".join(f"l0_e{s}" for s in range(8))
        start, moved = [0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5, 5, 4]
        shape = ("--horizon", 50, "--ranks", 2, "--slots", 8, "--experts", 6)
        lines = [header] + trace(start, range(300))

        def publish(*args):
            self.good("hints", "publish", *shape, *args, self.name, "-", stdin="\n".join(lines) + "\n")
            return self.show()
        hint = publish()
        self.assertEqual((hint["verdict"], hint["in_force"]), ("plan", "start"), hint["reason"])
        self.assertEqual(len(hint["layers"][0]["share"]), 6)
        # Nobody answers, and slots 6 and 7 hold what no hint says.
        lines += trace(moved, range(300, 400))
        hint = publish()
        self.assertEqual((hint["verdict"], hint["in_force"]), ("keep", "unknown"))
        self.assertIn("placement unknown: layer 0: since the plan of step 299", hint["reason"])
        self.assertIsNone(hint["layers"][0]["placement"])
        self.bad(1, "placement unknown", "hints", "export", "--as", "csv", self.name)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
            json.dump({"physical_to_logical_map": [moved]}, plan)
            plan.flush()
            hint = publish("--placement", f"{plan.name}@300")
            self.assertEqual(hint["in_force"], "stated")
            self.bad(1, "is not PLAN.json@STEP", "hints", "publish", *shape, "--placement", plan.name, self.name,
                     "-", stdin="\n".join(lines) + "\n")
        self.bad(2, "goes with", "hints", "publish", *self.SHAPE, "--placement", "x@1", self.name, TRACE)

    def test_prices(self):
        """What a plan saves at the low end must pay for the move; few tokens do not."""
        self.publish("--tokens", 8192)
        self.assertRegex(self.show()["reason"],
                         r"^plan: .* slots to move in [\d.]+ s; a trial of 1600 steps saved at least [\d.]+ s$")
        self.publish("--tokens", 100)
        self.assertRegex(self.show()["reason"], r"^keep: .* at the low end .* no more than 2 times")
        self.publish("--expert-bytes", 1000)  # the tokens of the trace
        self.assertEqual(self.show()["verdict"], "plan")
        # While loads are transient, plans of earlier steps show that a move pays, if it does.
        early = "".join(read(TRACE).splitlines(True)[:600])
        for price, said in ((262144, "^plan: balancedness"), (100, "^keep: transient")):
            self.good("hints", "publish", *self.SHAPE, "--tokens", price, self.name, "-", stdin=early)
            self.assertRegex(self.show()["reason"], said)
        self.publish("--tokens", 8192, "--stall", 60)
        self.assertRegex(self.show()["reason"], r"^keep: .* no more than 2 times the 60 s of the move$")
        shares = self.good("forecast", "--horizon", 100, TRACE)
        result = run("hints", "publish", *self.SHAPE, "--token-us", 1, self.name, "-", stdin=shares)
        self.assertEqual(result.returncode, 1)
        self.assertIn("the loads are shares: --tokens", result.stderr)

    def test_min_interval(self):
        """The page keeps the step of the last plan, over hints to keep and new writers."""
        whole = read(TRACE).splitlines(True)
        def publish(steps, *args):
            self.good("hints", "publish", *self.SHAPE, *args, self.name, "-", stdin="".join(whole[:steps + 1]))
            return self.show()["reason"]
        self.assertRegex(publish(1950, "--min-interval", 30), "^plan:")
        self.assertRegex(publish(1960, "--min-interval", 30), "^keep: the last plan is 10 steps old, less than 30")
        self.assertRegex(publish(1979, "--min-interval", 30), "^keep: the last plan is 29 steps old")
        self.assertRegex(publish(1980, "--min-interval", 30), "^plan:")

    def test_watch(self):
        with subprocess.Popen([MOETAP, "hints", "watch", self.name], text=True,
                              stdout=subprocess.PIPE) as watch:
            time.sleep(0.2)  # it waits for a page that is not there yet
            self.publish()
            self.until(watch, "generation    1,")
            self.publish()
            self.until(watch, "generation    2,")
            # Another geometry: the page is made anew.
            self.good("hints", "publish", "--horizon", 5, "--ranks", 2, "--slots", 16, self.name, TRACE)
            self.until(watch, "generation    1,")
            watch.send_signal(signal.SIGTERM)
            self.assertEqual(watch.wait(10), 0)

    def until(self, process, start):
        signal.alarm(20)
        for line in process.stdout:
            if line.startswith(start):
                signal.alarm(0)
                return
        self.fail(f"no line starts with '{start}'")

    def test_damaged_pages(self):
        self.publish()
        with open(self.path, "rb") as file:
            whole = file.read()
        bank = struct.unpack_from("<Q", whole, 72)[0] + 300  # of generation 1
        for damaged, pattern in ((whole[:100], "cut short"), (b"", "cut short"),
                                 (whole[:8] + b"\3" + whole[9:], "version"),
                                 (b"x" * len(whole), "no hint page"),
                                 (whole[:bank] + b"\xff" + whole[bank + 1:], "checksums")):
            with open(self.path, "wb") as file:
                file.write(damaged)
            result = run("hints", "show", self.name)
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, pattern)
            if pattern != "checksums":
                self.bad(1, "rm /dev/shm", "hints", "publish", *self.SHAPE, self.name, TRACE)
        # A damaged hint, unlike a damaged page, is mended by the next one.
        self.publish()
        self.assertEqual(self.show()["generation"], 2)

    def test_errors(self):
        for wrong, word in (("--threshold", -5), "a fraction"), (("--policy", "experts"), "judged by tokens"):
            self.bad(2, word, "hints", "publish", *self.SHAPE, *wrong, self.name, TRACE)
        self.bad(1, "nobody published", "hints", "show", "not-there")
        self.bad(1, "cannot name", "hints", "publish", *self.SHAPE, "a/b", TRACE)
        self.bad(2, "NAME TRACE", "hints", "publish", *self.SHAPE, self.name)
        self.bad(1, "evenly", "hints", "publish", "--horizon", 1, "--ranks", 3, "--slots", 16,
                 self.name, TRACE)
        self.assertFalse(os.path.exists(self.path))


class Header(Case):
    def test_compilers(self):
        """moetap_hint.h and moetap.h stand alone, in C and in C++."""
        compilers = [c for c in ("cc", "clang", "c++", "clang++") if shutil.which(c)]
        self.assertTrue(compilers)
        for compiler in compilers:
            kinds = (("c++", "-std=c++11"),) if "++" in compiler else (("c", "-std=gnu11"),)
            for language, standard in kinds:
                for header in ("moetap.h", "moetap_hint.h"):
                    subprocess.run([compiler, "-x", language, standard, "-fsyntax-only", "-Wall",
                                    "-Wextra", "-Werror", "-Wno-pragma-once-outside-header",
                                    "-Wno-unused-function", "-I", os.path.join(SOURCE, "host-lib"),
                                    "-include", header, "/dev/null"], check=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
