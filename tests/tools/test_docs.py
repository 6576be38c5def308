# SPDX-License-Identifier: BSD-3-Clause
"""What the documents say against what is there: options in manual pages, links, paths, and the commands of
README.md that are marked with <!-- run -->. No program writes into the source tree."""
import glob
import json
import os
import re
import subprocess
import tempfile
import unittest

MOETAP = os.environ["MOETAP"]
FIRMWARE = os.environ["MOETAP_FW"]
SOURCE = os.environ["MOETAP_SOURCE"]
BUILD = os.path.dirname(os.path.dirname(MOETAP))
NOT_OURS = re.compile(r"(^|/)(build[^/]*|\.[^/]+|subprojects)/")
DOCUMENTS = sorted(p for p in glob.glob("**/*.md", root_dir=SOURCE, recursive=True) if not NOT_OURS.search(p))
README = "README.md"
FRAMEWORKS = "docs/frameworks.md"
PAGES = [p for p in DOCUMENTS if p.startswith("docs/frameworks/")]
LINES = 200     # of README.md


def read(path):
    with open(os.path.join(SOURCE, path)) as file:
        return file.read()


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def words_of(text):
    """Options that a text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def without_fences(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def links_of(path):
    """Files that a document links, as paths from the root of the source tree."""
    return {os.path.normpath(os.path.join(os.path.dirname(path), target))
            for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(read(path)))}


def maps_of(path):
    """Maps in a document, each with what `moetap map check` says of it."""
    for block in re.findall(r"^```yaml\n(moetap-map:.*?)^```", read(path), re.M | re.S):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(block)
            file.flush()
            yield block, run(MOETAP, "map", "check", file.name)


def snap_of(printed):
    return int(re.search(r"^snap length +(\d+) bytes or more$", printed, re.M)[1])


class ManualPages(unittest.TestCase):
    def verbs(self):
        for verb in run(MOETAP, "--complete").split():
            text = run(MOETAP, verb, "--help")
            below = re.findall(r"^  ([a-z]+) {2,}", text.split("Verbs:")[1], re.M) if "Verbs:" in text else []
            yield from ([verb, b] for b in below) if below else ([verb],)

    def test_every_option_of_a_verb(self):
        found = list(self.verbs())
        self.assertGreater(len(found), 8)
        for verb in found:
            options = words_of(run(MOETAP, *verb, "--help").split("\nOptions:\n")[1]) - {"--help"}
            page = read(f"docs/man/moetap-{verb[0]}.1.scd")
            self.assertIn("\n# NAME\n", page)
            self.assertEqual(options - words_of(page), set(), " ".join(verb))

    def test_every_option_of_the_firmware(self):
        help_text, page = run(FIRMWARE, "--help"), read("docs/man/moetap-fw.8.scd")
        options = set(re.findall(r"^  (--[a-z-]+)", help_text, re.M))
        documented = set(re.findall(r"^\*(--[a-z-]+)\*", page.split("\n# OPTIONS\n")[1].split("\n# ")[0], re.M))
        self.assertGreater(len(options), 5)
        self.assertEqual(options, documented)

    def test_every_verb_has_a_page(self):
        main, built = read("docs/man/moetap.1.scd"), read("docs/man/meson.build")
        for verb in {v[0] for v in self.verbs()}:
            self.assertRegex(main, rf"(?m)^\*{verb}\*$")
            self.assertIn(f"'moetap-{verb}.1'", built)
        for path in glob.glob("docs/man/*.scd", root_dir=SOURCE):
            self.assertIn(f"'{os.path.basename(path)[:-4]}'", built)

    def test_every_verb_in_use_is_there(self):
        """A document that names `moetap VERB` names one that there is."""
        verbs = set(run(MOETAP, "--complete").split())
        for path in DOCUMENTS + glob.glob("docs/man/*.scd", root_dir=SOURCE):
            named = set(re.findall(r"[`/]moetap ([a-z]+)", read(path)))
            self.assertEqual(named - verbs, set(), path)


class Names(unittest.TestCase):
    """Outcomes and quality words are the same in the code and in all documents."""

    def test_words(self):
        page, firmware, source = (read(p) for p in ("docs/device-page.md", "docs/firmware.md", "driver/page.c"))
        rows = re.findall(r"^\| (\d+) \| `([a-z0-9-]+)` \|", page, re.M)
        for function, part in (("mt_outcome_name", rows[:27]), ("mt_quality_names", rows[27:])):
            table = re.search(r"names\[\w*\] = \{([^}]*)\}", source[source.index(function + "("):])[1]
            self.assertEqual([w for _, w in part], re.findall(r'"([a-z0-9-]+)"', table))
            self.assertEqual([int(n) for n, _ in part], [*range(len(part))])
        told = firmware.split("\n## Outcomes\n")[1]
        for _, word in rows:
            self.assertRegex(told, rf"(?m)^\|.*`{word}`.*\|")
        quality = told.split("\n## Quality\n")[1]
        self.assertEqual(re.findall(r"^\| `([a-z-]+)` \|", quality, re.M), [w for _, w in rows[27:]])
        trust = read(README).split("## How far the counts can be trusted")[1].split("\n## ")[0]
        for _, word in rows[27:]:
            self.assertIn(f"`{word}`", trust)
        manual = read("docs/man/moetap-count.1.scd")
        for _, word in rows[27:]:
            self.assertRegex(manual, rf"(?m)[*_]{word}[*_]")


class Links(unittest.TestCase):
    def test_relative_links(self):
        self.assertIn(README, DOCUMENTS)
        for path in DOCUMENTS:
            for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(read(path))):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                whole = os.path.join(SOURCE, os.path.dirname(path), file) if file else os.path.join(SOURCE, path)
                self.assertTrue(os.path.exists(whole), f"{path}: no {target}")
                self.assertFalse(anchor, f"{path}: {target}: anchors are not checked, name the section")

    def test_paths(self):
        """Paths in code and in text that begin with a folder of ours."""
        folders = "|".join(d for d in ("docs", "driver", "firmware", "host-lib", "tests", "tools"))
        pattern = re.compile(rf"(?<![\w./-])((?:{folders})/[\w.*/-]*)")
        for path in DOCUMENTS:
            for name in pattern.findall(read(path)):
                name = name.rstrip(".")
                if path != README and re.match(r"(firmware|host-lib|driver|tools)/[a-z]+$", name):
                    continue    # a test's name, as in `meson test host-lib/plan`
                self.assertTrue(glob.glob(os.path.join(SOURCE, name)), f"{path}: no {name}")

    def test_index(self):
        """README.md leads to every document, by way of docs/frameworks.md to those of frameworks."""
        for path in DOCUMENTS:
            if path.startswith("docs/"):
                self.assertIn(path, links_of(FRAMEWORKS if path.startswith("docs/frameworks/") else README))

    def test_form(self):
        for path in DOCUMENTS:
            self.assertTrue(read(path).startswith("<!-- SPDX-License-Identifier: BSD-3-Clause -->\n"), path)
        self.assertLessEqual(len(read(README).splitlines()), LINES)


class Frameworks(unittest.TestCase):
    """docs/frameworks.md and its pages, against `moetap map check` and the presets."""
    SECTIONS = ["What is read", "What must be known", "What cannot be seen", "The map", "Run it", "The first counts"]

    def test_maps(self):
        """Every map is good, and what a page shows of the check is what it prints."""
        for path in [FRAMEWORKS, *PAGES]:
            for block, printed in maps_of(path):
                if path == FRAMEWORKS:
                    continue
                after = read(path).split(block)[1]
                told = "prints of it (an excerpt):\n```\n"
                self.assertIn(told, after[:200], path)
                shown = after.split(told)[1].split("```")[0].splitlines()
                self.assertIn(f"snap length     {snap_of(printed)} bytes or more", shown, path)
                for line in shown:
                    self.assertIn(line, printed.splitlines(), path)

    def test_snap_lengths(self):
        """Where a page says how to cut frames, and in the index, it is what the page's first map needs."""
        rows = dict(re.findall(r"^\| \[[^]]*\]\((frameworks/[^)]*)\) \|(.*)\|$", read(FRAMEWORKS), re.M))
        self.assertEqual({f"docs/{name}" for name in rows}, set(PAGES))
        for path in PAGES:
            snap = snap_of(next(maps_of(path))[1])
            self.assertEqual(re.findall(r"cut at (\d+) bytes or later", read(path)), [str(snap)], path)
            self.assertEqual(rows[path[len("docs/"):]].split(" | ")[4].strip(), str(snap), path)
            for told in re.findall(r"\| `truncated` \|[^|]*\| (\d+) \|", read(path)):
                self.assertEqual(told, str(snap), path)

    def test_presets(self):
        """Every preset has a map. Pages name the versions that their presets were read from, and every parameter."""
        index, by_preset = read(FRAMEWORKS), {}
        for path in [FRAMEWORKS, *PAGES]:
            for block, _ in maps_of(path):
                for name in re.findall(r"^preset: (\S+)$", block, re.M):
                    by_preset[name] = path
        presets = {os.path.basename(p)[:-5] for p in glob.glob("driver/presets/*.yaml", root_dir=SOURCE)}
        self.assertEqual(set(by_preset), presets)
        self.assertEqual(set(by_preset.values()) - {FRAMEWORKS}, set(PAGES))
        for name, path in by_preset.items():
            if path == FRAMEWORKS:
                continue
            preset = json.loads(run(MOETAP, "map", "presets", "--format", "json", name))
            for version in re.findall(r"[\w.-]+/[\w.-]+@[0-9a-f]+", preset["source"]):
                self.assertIn(version, read(path), f"{path}: preset {name}")
            self.assertRegex(index, rf"\({re.escape(path[5:])}\) \|[^|]*@[0-9a-f]+ \|[^|]*`{name}`")
            known = read(path).split("\n## What must be known\n")[1].split("\n## ")[0]
            for parameter in preset["parameters"]:
                self.assertRegex(known, rf"(?m)^\|[^|]*`{parameter['name']}`", f"{path}: preset {name}")

    def test_sections(self):
        for path in PAGES:
            self.assertEqual(re.findall(r"^## (.*)$", without_fences(read(path)), re.M), self.SECTIONS, path)
            for name in ("wire-formats.md", "frameworks.md"):
                self.assertIn(f"docs/{name}", links_of(path), path)

    def test_versions(self):
        """A repository is named with one commit throughout, but for branches."""
        known = set()
        for path in glob.glob("driver/presets/*.yaml", root_dir=SOURCE):
            known |= set(re.findall(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,}", read(path)))
        facts = read("docs/wire-formats.md")
        for version in known:
            self.assertIn(version, facts)
        for path in [FRAMEWORKS, *PAGES]:
            self.assertEqual(set(re.findall(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,}", read(path))) - known, set(), path)


class Readme(unittest.TestCase):
    def test_marked_commands(self):
        """In a folder that looks like a clone after tools/quickstart."""
        text = read(README)
        blocks = re.findall(r"^<!-- run -->\n```sh\n(.*?)^```", text, re.M | re.S)
        self.assertTrue(any("moetap map check" in b for b in blocks))
        with tempfile.TemporaryDirectory() as where:
            for name in ("docs", "tests", "tools"):
                os.symlink(os.path.join(SOURCE, name), os.path.join(where, name))
            os.symlink(BUILD, os.path.join(where, "build"))
            for name, body in re.findall(r"^<!-- file (\S+) -->\n```\w*\n(.*?)^```", text, re.M | re.S):
                with open(os.path.join(where, name), "w") as file:
                    file.write(body)
            for block in blocks:
                done = subprocess.run(["sh", "-eu", "-c", block], cwd=where, capture_output=True, text=True,
                                      timeout=120, check=False)
                self.assertEqual(done.returncode, 0, f"{block}\n{done.stderr}")
            with open(os.path.join(where, "counts.csv")) as counts:
                self.check_counts(counts.read(), done.stderr)

    def check_counts(self, counts, told):
        """The map of README.md counts what the job itself counted."""
        truth = set()
        for line in read("tests/data/rxe-2ranks/truth.csv").splitlines()[1:]:
            step, layer, src, dst, expert, tokens = line.split(",")
            if src != dst:
                truth.add((step, layer, src, dst, expert, tokens))
        got = {tuple(line.split(",")[i] for i in (1, 2, 4, 5, 6, 7)) for line in counts.splitlines()[1:]}
        self.assertEqual(got, truth)
        self.assertIn("6 exact", told)

    def test_excerpt(self):
        """The excerpt of `tools/quickstart` is what it prints, but for the time it took."""
        shown = read(README).split("prints (an excerpt):\n```\n")[1].split("```")[0]
        env = dict(os.environ, LC_ALL="C.UTF-8", NO_COLOR="1")
        demo = subprocess.run([MOETAP, "demo"], capture_output=True, text=True, timeout=120, env=env, check=True)
        printed = {re.sub(r"in [\d.]+ s", "in", line) for line in demo.stdout.splitlines()}
        for line in shown.splitlines():
            self.assertIn(re.sub(r"in [\d.]+ s", "in", line), printed)

    def test_programs_of_other_blocks(self):
        """Programs and options in blocks that cannot be run here are there."""
        text = read(README)
        for program in re.findall(r"(?m)^(build/[\w/-]+|tools/[\w.-]+)", text):
            whole = os.path.join(BUILD, program[6:]) if program.startswith("build/") else \
                os.path.join(SOURCE, program)
            self.assertTrue(os.access(whole, os.X_OK), program)
        known = words_of(run(FIRMWARE, "--help")) | {"--lcores", "--vdev", "--no-huge", "--no-pci"}
        known |= {"--benchmark", "--verbose", "--reconfigure", "--prefix"}
        for verb in ("count", "plan", "forecast"):
            known |= words_of(run(MOETAP, verb, "--help"))
        known |= words_of(run(MOETAP, "hints", "publish", "--help"))
        self.assertEqual(words_of(text) - known, set())


if __name__ == "__main__":
    unittest.main(verbosity=2)
