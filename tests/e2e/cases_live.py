# SPDX-License-Identifier: BSD-3-Clause
"""Live cases: tcpreplay over a veth pair between two network namespaces into a running moetap-fw;
and what is left when moetap-fw or a reader is killed at any moment."""
import collections
import contextlib
import ipaddress
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import gen
import moetap
import page
import pcapmod
import roce
from moetap import CAPTURES, DATA, Failure, Skip

PPS = 60000         # asked of tcpreplay; the goal is at least MIN_PPS
MIN_PPS = 50000
KILLS = 100
LIVE_TRIES = 5
OUTCOMES = ("dispatch", "combine", "count", "control", "body", "orphan", "response", "duplicate", "stale",
            "unmatched", "contradiction", "unknown_rank", "no_room", "truncated", "malformed",
            "fragment", "uc", "rd", "ud", "cnp", "xrc", "other_transport", "rocev1", "vxlan", "pfc",
            "not_roce", "atomic_form")
TOLD = re.compile(r"restart|died|killed", re.IGNORECASE)   # of a firmware, on a reader's stderr


def sh(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise Skip(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


class Namespaces:
    """Two namespaces joined by a veth pair; nothing but the replay talks on it."""

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skip("network namespaces need root")
        for tool in ("ip", "tcpreplay"):
            if shutil.which(tool) is None:
                raise Skip(f"{tool} is not installed")
        tag = f"mt{os.getpid()}"
        self.sender, self.tap = tag + "s", tag + "t"
        self.undo = contextlib.ExitStack()
        for ns in (self.sender, self.tap):
            sh("ip", "netns", "add", ns)
            self.undo.callback(subprocess.run, ["ip", "netns", "del", ns], capture_output=True)
        sh("ip", "link", "add", "v0", "netns", self.sender, "type", "veth",
           "peer", "name", "v0", "netns", self.tap)
        for ns in (self.sender, self.tap):
            # no neighbour discovery, no multicast: only the replay
            sh("ip", "netns", "exec", ns, "sh", "-c",
               "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
            sh("ip", "-n", ns, "link", "set", "v0", "up")
        return self

    def __exit__(self, *_):
        self.undo.close()

    def replay(self, capture, pps, *options, wait=True):
        argv = ["ip", "netns", "exec", self.sender, "tcpreplay", "-i", "v0", "--preload-pcap",
                f"--pps={pps}", *options, capture]
        if not wait:
            return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return sh(*argv)


class Firmware:
    """A running moetap-fw on page `name`; port is its --vdev."""
    runs = 0

    def __init__(self, name, port, map_path, ns=None, options=(), wait=True, prefix=None, lcores="0@0,1@1"):
        Firmware.runs += 1
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        argv = ["ip", "netns", "exec", ns] if ns else []
        argv += [moetap.FIRMWARE, "--no-huge", "-m", "256", "--no-pci", "--file-prefix",
                 prefix or f"mt{os.getpid()}-{Firmware.runs}", "--lcores", lcores, "--vdev", port, "--",
                 "--map", map_path, "--page", name, *options]
        self.argv = argv
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=self.log)
        if wait:
            self.wait_running()

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def wait_running(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failure(f"{self.argv}: ended with {self.process.returncode}\n{self.text()}")
            with contextlib.suppress(OSError, ValueError):
                p = page.Page(self.name)
                if p.state == page.RUNNING and p.pid == self.process.pid:
                    return p
            time.sleep(0.01)
        self.kill()     # nobody else will: its constructor fails
        raise Failure(f"moetap-fw does not run after {seconds} s\n{self.text()}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM: must end well, and leave no page behind."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"SIGTERM did not end moetap-fw\n{self.text()}")
        moetap.alive(self.argv, status, self.text())
        if status != 0:
            raise Failure(f"moetap-fw ended with {status} after SIGTERM\n{self.text()}")
        prefix = self.argv[self.argv.index("--file-prefix") + 1]
        for left in (page.path_of(self.name), "/var/run/dpdk/" + prefix):
            if os.path.exists(left):
                raise Failure(f"SIGTERM left {left} behind")


@contextlib.contextmanager
def started(*args, **kw):
    fw = Firmware(*args, **kw)
    try:
        yield fw
    finally:
        if fw.process.poll() is None:
            fw.kill()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(page.path_of(fw.name))


class Reader:
    """`moetap count --page NAME --follow`, its output in files."""

    def __init__(self, name, first=0):
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.argv = [moetap.MOETAP, "count", "--page", name, "--follow", "--from", str(first)]
        self.name = name
        self.process = subprocess.Popen(self.argv, stdout=self.out, stderr=self.err)

    def wait_attached(self):
        """Until it has mapped the page, which may be gone the moment after."""
        def mapped():
            with contextlib.suppress(OSError), open(f"/proc/{self.process.pid}/maps") as f:
                return page.path_of(self.name) in f.read()
            return True     # it has ended
        wait_until("a reader maps the page", lambda: self.process.poll() is not None or mapped())

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self, seconds=10):
        """Its (stdout, stderr) once it has seen the end of the page."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.argv} does not end with its page")
        out, err = self.texts()
        moetap.alive(self.argv, self.process.returncode, err)
        return out, err

    def texts(self):
        self.out.seek(0)
        self.err.seek(0)
        return self.out.read(), self.err.read()


class Follower:
    """A reader of every round of a page, through the deaths of its firmware: a reader that ends with a
    firmware is followed by one that goes on where it stopped."""

    def __init__(self, name):
        self.name, self.rounds, self.told = name, [], ""
        self.reader = Reader(name)

    def harvest(self):
        out, err = self.reader.end()
        self.rounds += rounds_of(out)
        self.told += err

    def go_on(self):
        if self.reader.process.poll() is not None:
            self.harvest()
            self.reader = Reader(self.name, len(self.rounds))

    def kill(self):
        self.reader.kill()


def rounds_of(csv):
    """[{(src, expert): tokens}] of the rounds that a reader printed, in order."""
    out, last = [], None
    for row in moetap.read_csv(csv):
        cell = int(row["src"]), int(row["expert"])
        if row["round"] != last or cell in out[-1]:
            out.append({})
            last = row["round"]
        out[-1][cell] = int(row["tokens"])
    return out


def wait_until(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def unpacked(folder, where):
    """(path, frames) of a capture without gzip, which neither tcpreplay nor DPDK read."""
    packets = roce.read_pcap(os.path.join(folder, "capture.pcap.gz"))
    path = os.path.join(where, "capture.pcap")
    roce.write_pcap(path, packets)
    return path, len(packets)


def many_rounds(where, seed):
    """(map, truth, capture, frames) of a job whose rounds follow each other fast."""
    gen.generate(["--out", where, "--seed", str(seed), "--steps", "150", "--tokens", "8"])
    truth = moetap.read_truth(os.path.join(where, "truth.csv"))
    return os.path.join(where, "map.yaml"), truth, *unpacked(where, where)


def replayed(name):
    """(counts, frames that the port dropped, packets a second) of one replay into a running moetap-fw."""
    map_path = os.path.join(DATA, name, "map.yaml")
    tag = f"live-{os.getpid()}"
    with Namespaces() as net, tempfile.TemporaryDirectory() as where:
        capture, frames = unpacked(os.path.join(DATA, name), where)
        with started(tag, "net_af_xdp0,iface=v0", map_path, ns=net.tap) as fw:
            p, reader = page.Page(tag), Reader(tag)
            reader.wait_attached()
            said = net.replay(capture, PPS)
            rate = float(re.search(r"([\d.]+) pps", said)[1])
            sent = int(re.search(r"Successful packets:\s+(\d+)", said)[1])
            wait_until("all packets received", lambda: p.packets + p.nic_drops >= sent)
            if sent != frames or p.packets + p.nic_drops != sent:
                raise Failure(f"{frames} frames, {sent} sent, {p.packets} received, "
                              f"{p.nic_drops} dropped")
            drops = p.nic_drops
            fw.stop()
            return moetap.Counts(*reader.end()), drops, rate


def live(name, seed):
    """Replayed at 50,000 packets a second or more: nothing dropped, 0 differences. A machine whose CPUs
    are wanted elsewhere drops frames at its ports, or sends too slowly: then what is said of the rounds
    is looked at, and it gets another try."""
    truth = moetap.read_truth(os.path.join(DATA, name, "truth.csv"))
    for _ in range(LIVE_TRIES):
        counts, drops, rate = replayed(name)
        what = f"{name} live at {rate:.0f} packets a second"
        if drops:
            moetap.must_not_be_silent(counts, truth, f"{what}, {drops} dropped", ended=True)
            continue
        moetap.must_equal(counts, truth, what)
        if rate >= MIN_PPS:
            return
    raise Failure(f"in {LIVE_TRIES} replays never {MIN_PPS} packets a second without a drop")


def ask(fw, command):
    """What a running firmware answers to a telemetry command; DPDK's own protocol, version 2."""
    prefix = fw.argv[fw.argv.index("--file-prefix") + 1]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(10)
        s.connect(f"/var/run/dpdk/{prefix}/dpdk_telemetry.v2")
        longest = json.loads(s.recv(1024))["max_output_len"]
        s.send(command.encode())
        return json.loads(s.recv(longest))[command.partition(",")[0]]


def telemetry(seed):
    """The commands under /moetap/ say what the page says."""
    if os.geteuid() != 0:
        raise Skip("DPDK's run-time folder is root's")
    tag, name = f"tele-{os.getpid()}", "rxe-2ranks"
    with tempfile.TemporaryDirectory() as where:
        capture, frames = unpacked(os.path.join(DATA, name), where)
        map_path = os.path.join(DATA, name, "map.yaml")
        with started(tag, f"net_pcap0,rx_pcap={capture}", map_path) as fw:
            p = page.Page(tag)
            wait_until("the whole capture is read", lambda: p.packets == frames)
            wait_until("silence closes the last rounds", lambda: p.head == 6)
            stats, rounds, loaded = (ask(fw, "/moetap/" + c) for c in ("stats", "rounds", "map"))
            outcomes = sum(stats[o] for o in OUTCOMES)
            if stats["packets"] != frames or outcomes != frames or stats["dispatch"] != 199:
                raise Failure(f"/moetap/stats: {stats}")
            if rounds["published"] != 6 or (rounds["step"], rounds["layer"]) != (2, 1):
                raise Failure(f"/moetap/rounds: {rounds}")
            if loaded["job"] != name or loaded["layers"] != 2 or loaded["generation"] != 1:
                raise Failure(f"/moetap/map: {loaded}")
            if ask(fw, "/moetap/atomics") != {"form": "standard", "unknown": 0}:
                raise Failure(f"/moetap/atomics: {ask(fw, '/moetap/atomics')}")
            if sum(ask(fw, "/moetap/cores")) != frames:
                raise Failure(f"/moetap/cores: {ask(fw, '/moetap/cores')}")
            fw.stop()
    for changes in (["congestion=0.2"], ["ipv6", "congestion=0.2"], ["congestion=0.1", "vxlan"]):
        congestion("rxe-4ranks", changes, seed)


def ports(seed):
    """/moetap/ports has the pairs of ranks whose queue pairs share source ports, those first that have
    most of them a port; where each has its own it has none."""
    if os.geteuid() != 0:
        raise Skip("DPDK's run-time folder is root's")
    data = os.path.join(DATA, "rxe-4ranks")
    whole = roce.read_pcap(os.path.join(data, "capture.pcap.gz"))
    map_path = os.path.join(data, "map.yaml")
    with open(map_path) as f:
        ranks = {ipaddress.ip_address(a): int(r)
                 for r, a in re.findall(r"rank: (\d+), address: ([\d.]+)", f.read())}
    for changes in [], ["source-ports=1"], ["source-ports=2"], ["source-ports=1", "vxlan", "vlan"]:
        packets, tag, flows = list(pcapmod.apply(whole, changes, seed)), f"ports-{os.getpid()}", {}
        for r in (r for r in map(roce.parse, (p.data for p in packets)) if pcapmod.is_request(r)):
            flows.setdefault(r.flow, (ranks[r.src], ranks[r.dst], r.port))
        pairs = {}
        for src, dst, port in flows.values():
            pairs.setdefault((src, dst), []).append(port)
        wanted = {pair: (len(p), len(set(p))) for pair, p in pairs.items() if len(set(p)) < len(p)}
        if bool(wanted) != bool(changes):
            raise Failure(f"{changes}: the capture has {wanted}")
        with tempfile.TemporaryDirectory() as where:
            capture = os.path.join(where, "capture.pcap")
            roce.write_pcap(capture, packets)
            with started(tag, f"net_pcap0,rx_pcap={capture}", map_path, prefix=f"moetap-{tag}") as fw:
                wait_until("the whole capture is read", lambda: page.Page(tag).packets == len(packets))
                told = ask(fw, "/moetap/ports")
                rows = list(zip(*(told[k] for k in ("src", "dst", "queue_pairs", "ports"))))
                doctor = moetap.run([moetap.MOETAP, "doctor", "--page", tag, "--format", "json"])
                fw.stop()
        found = {c["check"]: c for c in json.loads(doctor.stdout)["checks"]}
        said = found["source ports"]["standing"], found["drops"]["standing"]
        if said != ("warning" if wanted else "ok", "ok"):
            raise Failure(f"{changes}: doctor: {found['source ports']} {found['drops']}")
        crowds = [q / p for _, _, q, p in rows]
        if {r[:2]: r[2:] for r in rows} != wanted or told["pairs"] != len(rows) or crowds != sorted(crowds)[::-1]:
            raise Failure(f"{changes}: /moetap/ports: {told}, not {wanted}")
        print(f"{changes}: {rows[:3]} of {len(rows)}")


def congestion(name, changes, seed):
    """/moetap/congestion has what a capture has, by pairs of ranks; before a map is loaded anew."""
    data, tag, pairs, flows = os.path.join(DATA, name), f"congest-{os.getpid()}", {}, {}
    map_path = os.path.join(data, "map.yaml")
    packets = pcapmod.apply(roce.read_pcap(os.path.join(data, "capture.pcap.gz")), changes, seed)
    ranks = {}
    with open(map_path) as f:
        for rank, address in re.findall(r"rank: (\d+), address: ([\d.]+)", f.read()):
            address = ipaddress.ip_address(address)
            ranks[pcapmod.ipv6_of(address) if "ipv6" in changes else address] = int(rank)
    for r in map(roce.parse, (p.data for p in packets)):
        if r is not None and r.op == roce.CNP:
            pairs.setdefault((ranks[r.dst], ranks[r.src]), [0, 0])[1] += 1
            key = ranks[r.dst], ranks[r.src], r.qpn, "notified"
        elif r is not None and r.tos & 3 == 3:
            pairs.setdefault((ranks[r.src], ranks[r.dst]), [0, 0])[0] += 1
            key = ranks[r.src], ranks[r.dst], r.qpn, "marked"
        else:
            continue
        flows[key] = flows.get(key, 0) + 1
    with tempfile.TemporaryDirectory() as where:
        capture = os.path.join(where, "capture.pcap")
        roce.write_pcap(capture, packets)
        if "ipv6" in changes:
            map_path = pcapmod.map_to_ipv6(map_path, os.path.join(where, "map.yaml"))
        with started(tag, f"net_pcap0,rx_pcap={capture}", map_path) as fw:
            wait_until("the whole capture is read", lambda: page.Page(tag).packets == len(packets))
            told, stats = ask(fw, "/moetap/congestion"), ask(fw, "/moetap/stats")
            got = {(s, d): [m, n] for s, d, m, n in zip(*(told[k] for k in ("src", "dst", "marked", "notified")))}
            if got != pairs or len(got) < 2 or len(got) != len(told["src"]):
                raise Failure(f"{changes}: /moetap/congestion: {told}, not {pairs}")
            one = next(iter(pairs))
            for asked, wanted in ("", flows), (",%d,%d" % one, {k: n for k, n in flows.items() if k[:2] == one}):
                told_flows = ask(fw, "/moetap/congestion/flows" + asked)
                rows = zip(*(told_flows[k] for k in ("src", "dst", "qpn", "marked", "notified")))
                found = {(s, d, q, "marked" if m else "notified"): m + n for s, d, q, m, n in rows}
                same = found == wanted if len(wanted) <= 128 else found.items() <= wanted.items() and len(found) == 128
                if not same or (told_flows["flows"], told_flows["others"]) != (len(wanted), 0):
                    raise Failure(f"{changes}: /moetap/congestion/flows{asked}: {told_flows}, not {wanted}")
            weights = [m + n for m, n in got.values()]
            if weights != sorted(weights, reverse=True):
                raise Failure(f"/moetap/congestion: not sorted: {told}")
            sums = tuple(map(sum, zip(*pairs.values())))
            if (stats["marked"], stats["cnp"]) != sums:
                raise Failure(f"{changes}: {stats}, not {sums}")
            print(f"{changes}: {got}")
            loaded = moetap.run([moetap.MOETAP, "map", "load", "--page", tag, map_path])
            if loaded.returncode or ask(fw, "/moetap/congestion")["src"] != []:
                raise Failure(f"after a map: {loaded.stderr} {ask(fw, '/moetap/congestion')}")
            fw.stop()


def map_load(seed):
    """Maps are loaded again and again under traffic: every packet is counted under one whole map, a
    wrong one is refused and leaves the old one in force, and no round that a load may have mixed says
    that it is exact. The lives of the job before and after are counted exactly."""
    rng, tag, name = random.Random(seed), f"load-{os.getpid()}", "rxe-4ranks"
    folder = os.path.join(DATA, name)
    good = os.path.join(folder, "map.yaml")
    truth = by_round(moetap.read_truth(os.path.join(folder, "truth.csv")), good)
    known = [{c: n for c, n in t.items() if n} for t in truth.values()]
    packets = roce.read_pcap(os.path.join(folder, "capture.pcap.gz"))
    with Namespaces() as net, tempfile.TemporaryDirectory() as where:
        capture, wrong = os.path.join(where, "capture.pcap"), os.path.join(where, "wrong.yaml")
        with open(good) as f, open(wrong, "w") as g:
            g.write(f.read().replace("layers: 3", "layers: 0"))
        with started(tag, "net_af_xdp0,iface=v0", good, ns=net.tap) as fw:
            p, loads, seen = page.Page(tag), 0, 0
            for life in range(3):
                roce.write_pcap(capture, pcapmod.apply(
                    packets, [f"new-queue-pairs={0x100 * life}"], seed + life))
                drops = p.nic_drops
                replay = net.replay(capture, PPS // 2, wait=False)
                while life == 1 and replay.poll() is None:
                    done = moetap.run([moetap.MOETAP, "map", "load", "--page", tag, good])
                    if done.returncode:
                        raise Failure(f"map load: {done.stderr}\n{fw.text()}")
                    loads += 1
                    time.sleep(rng.uniform(0, 0.2))
                replay.wait()
                silence(p)
                rounds = [page.decode(p.slot(n)) for n in range(seen, p.head)]
                seen = p.head
                whole = [r for r in rounds if not r.quality & page.INEXACT]
                if any({c: n for c, n in r.tokens.items() if n} not in known for r in whole):
                    raise Failure(f"life {life}: an exact round is none of the job's")
                if life != 1 and p.nic_drops == drops and len(whole) != len(truth):
                    raise Failure(f"life {life}: {len(rounds)} rounds, {len(whole)} exact")
                print(f"life {life}: {loads} loads, {len(rounds)} rounds, {len(whole)} exact")
            refused = moetap.run([moetap.MOETAP, "map", "load", "--page", tag, wrong])
            if refused.returncode != 1 or "wrong.yaml:5:" not in refused.stderr:
                raise Failure(f"a wrong map: {refused.returncode} {refused.stderr}")
            if not loads or ask(fw, "/moetap/map")["generation"] != loads + 1:
                raise Failure(f"{loads} loads, {ask(fw, '/moetap/map')}")
            stats = ask(fw, "/moetap/stats")
            if sum(stats[o] for o in OUTCOMES) != stats["packets"]:
                raise Failure(f"some packets have no outcome: {stats}")
            missing = 3 * sum(n for r in truth.values() for n in r.values()) - stats["dispatch"]
            if not 0 <= missing - stats["stale"] <= stats["nic_drops"]:
                raise Failure(f"tokens were lost or counted twice: {stats}")
            fw.stop()


def silence(p, seconds=20):
    """Wait until silence, 2 s as the map has it, has closed the last rounds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        head = p.head
        time.sleep(3)
        if p.head == head:
            return


def no_room(seed):
    """A job starts again with new queue pairs until the table of flows is full: then the dead ones go,
    and the next life is counted exactly."""
    tag, name = f"room-{os.getpid()}", "rxe-2ranks"
    folder = os.path.join(DATA, name)
    truth = by_round(moetap.read_truth(os.path.join(folder, "truth.csv")),
                     os.path.join(folder, "map.yaml"))
    with Namespaces() as net, tempfile.TemporaryDirectory() as where:
        packets = roce.read_pcap(os.path.join(folder, "capture.pcap.gz"))
        with started(tag, "net_af_xdp0,iface=v0", os.path.join(folder, "map.yaml"), ns=net.tap,
                     options=("--flows", "20")) as fw:
            p, seen, lives = page.Page(tag), 0, 4
            for life in range(lives):   # of 8 flows each
                path = os.path.join(where, f"{life}.pcap")
                roce.write_pcap(path, pcapmod.apply(
                    packets, [f"new-queue-pairs={0x100 * life}"], seed + life))
                net.replay(path, 20000)
                silence(p)
                rounds = [page.decode(p.slot(n)) for n in range(seen, p.head)]
                seen = p.head
                good = [r for r in rounds if not r.quality & page.INEXACT]
                for r in good:
                    if r.tokens not in [{**r.tokens, **t} for t in truth.values()]:
                        raise Failure(f"life {life}: round {r.round} is none of the job's")
                print(f"life {life}: {len(rounds)} rounds, {len(good)} exact")
                if life in (0, lives - 1) and len(good) != len(truth):
                    raise Failure(f"life {life} is not counted exactly")
            stats = ask(fw, "/moetap/stats")
            if not stats["no_room"]:
                raise Failure(f"the table was never full: {stats}")
            fw.stop()


# ---- kills ---------------------------------------------------------------------------------------

def published(p):
    """{number: bytes} of the rounds that the page says it holds; all of them must be there, but for
    the oldest, whose slot a firmware may have been writing round `head` to when it was killed."""
    head = p.head
    slots = {n: p.slot(n) for n in range(max(0, head - p.slots), head)}
    if slots and slots[min(slots)] is None and head >= p.slots:
        del slots[head - p.slots]
    lost = [n for n, data in slots.items() if data is None]
    if lost:
        raise Failure(f"rounds {lost[:5]} were published (head {head}), but are not there")
    return slots


def by_round(truth, map_path):
    """[{(src, expert): tokens}] in the order of the rounds of a capture of pattern inference."""
    with open(map_path) as f:
        layers = int(re.search(r"^layers: (\d+)", f.read(), re.MULTILINE)[1])
    out = collections.defaultdict(dict)
    for k, n in truth.items():
        out[k.step * layers + k.layer][k.src, k.expert] = n
    return out


def must_hold_truth(slots, lives, truth, what):
    """Every life began at the first packet: its n-th round is round n of the truth, or says that it
    is not exact."""
    firsts, checked = {}, 0
    for number in sorted(slots):
        r = page.decode(slots[number])
        firsts.setdefault(r.boot_id, number)
        if r.quality & page.INEXACT:
            continue
        wrong = [c for c, n in truth[r.round].items() if r.tokens[c] != n]
        if wrong:
            raise Failure(f"{what}: round {number} (round {r.round} of its life) differs in "
                          f"{len(wrong)} cells from the truth, and does not say so")
        checked += 1
    if not checked or len(firsts) > lives:
        raise Failure(f"{what}: {checked} exact rounds of {len(firsts)} lives")
    return checked, len(firsts)


def must_have_heard(follower, slots, what):
    """The reader has every round that was ever published, in order and as it was, and was told of
    every restart between two of them."""
    rounds = [page.decode(slots[n]) for n in sorted(slots)]
    if len(follower.rounds) != len(rounds):
        raise Failure(f"{what}: {len(rounds)} rounds were published, the reader has "
                      f"{len(follower.rounds)}\n{follower.told[-2000:]}")
    for n, (r, heard) in enumerate(zip(rounds, follower.rounds)):
        wrong = [c for c, tokens in heard.items() if r.tokens[c] != tokens]
        if wrong or not heard:
            raise Failure(f"{what}: round {n} reached the reader with {len(wrong)} other cells")
    lives = len({r.boot_id for r in rounds})
    told = len(TOLD.findall(follower.told))
    if told < lives - 1:
        raise Failure(f"{what}: {lives} lives published, the reader was told of {told} restarts\n"
                      f"{follower.told[-2000:]}")


def kill_firmware(seed, kills=KILLS):
    """kill -9 of moetap-fw at random moments of a capture: whatever it had published stays on the page,
    the next life goes on with the page, and readers get every round and hear of every restart."""
    rng, tag, everything = random.Random(seed), f"kill-{os.getpid()}", {}

    def look(p, life):
        for number, data in published(p).items():
            if everything.setdefault(number, data) != data:
                raise Failure(f"life {life}: round {number}, published before, was changed")

    with tempfile.TemporaryDirectory() as where, contextlib.ExitStack() as undo:
        map_path, truth, capture, _ = many_rounds(where, seed)
        port = f"net_pcap0,rx_pcap={capture}"
        with started(tag, port, map_path) as fw:
            p, follower = page.Page(tag), Follower(tag)
            undo.callback(follower.kill)
            begun = time.monotonic()
            wait_until("the first life publishes", lambda: p.head > 10)
            # moments from before the first packet to a little after the last round
            span = time.monotonic() - begun + 0.5
            for life in range(kills):
                time.sleep(rng.uniform(0, span))
                if fw.process.poll() is not None:
                    raise Failure(f"life {life} ended by itself: {fw.text()}")
                fw.kill()
                if page.Page(tag).inode != p.inode:
                    raise Failure(f"life {life}: the page was replaced, not gone on with")
                look(p, life)
                follower.go_on()
                fw = Firmware(tag, port, map_path, wait=False)
                undo.callback(fw.kill)
            fw.wait_running()
            wait_until("the last life publishes", lambda: p.head > max(everything) + 10)
            follower.go_on()
            follower.reader.wait_attached()
            fw.stop()
            look(p, kills)
            follower.harvest()
        truth = by_round(truth, map_path)
    checked, lives = must_hold_truth(everything, kills + 1, truth, "kills")
    must_have_heard(follower, everything, "kills")
    print(f"{kills} kills: {len(everything)} rounds of {lives} lives, all there and all heard of; "
          f"{checked} equal to the truth")


def whole_rounds(csv):
    """CSV without what a kill may have cut: its last round."""
    lines = csv.splitlines()
    last = lines[-1].split(",")[0] if lines else ""
    return [line for line in lines[1:-1] if line.split(",")[0] != last]


def kill_reader(seed, kills=KILLS):
    """kill -9 of a reader at random moments of a live replay; the next one goes on after the last whole
    round: together they have every round, once, equal to the truth, and nothing was lost."""
    rng, tag = random.Random(seed), f"kill-{os.getpid()}"
    with Namespaces() as net, tempfile.TemporaryDirectory() as where:
        map_path, truth, capture, frames = many_rounds(where, seed)
        seconds = 0.09 * kills
        with started(tag, "net_af_xdp0,iface=v0", map_path, ns=net.tap) as fw:
            p, rows, following = page.Page(tag), [], 0
            replay = net.replay(capture, int(frames / seconds), wait=False)
            for _ in range(kills):
                reader = Reader(tag, following)
                time.sleep(rng.uniform(0, 2 * seconds / kills))
                reader.kill()
                whole = whole_rounds(reader.texts()[0])
                rows += whole
                if whole:
                    following = int(whole[-1].split(",")[0]) + 1
            replay.wait()
            wait_until("all packets received", lambda: p.packets + p.nic_drops >= frames)
            reader = Reader(tag, following)
            reader.wait_attached()
            fw.stop()
            out, err = reader.end()
    header, *rest = out.splitlines()
    counts = moetap.Counts("\n".join([header, *rows, *rest]), err)
    moetap.must_equal(counts, truth, f"{kills} killed readers")


def cases():
    out = {}
    for name in CAPTURES:
        out[f"live {name}"] = lambda s, n=name: live(n, s)
    out["live telemetry"] = telemetry
    out["live ports"] = ports
    out["live map-load"] = map_load
    out["live no-room"] = no_room
    out["kill firmware"] = kill_firmware
    out["kill reader"] = kill_reader
    return out
