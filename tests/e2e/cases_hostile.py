# SPDX-License-Identifier: BSD-3-Clause
"""What users, files and other programs do wrong: a clear message with the remedy, an exit status that
is not 0, never a crash."""
import json
import os
import pwd
import random
import re
import shutil
import struct
import subprocess
import tempfile
import time

import moetap
import page
import roce
from cases_live import Firmware, started
from moetap import DATA, Failure, Skip

SMALL = os.path.join(DATA, "rxe-2ranks")
CAPTURE, MAP = os.path.join(SMALL, "capture.pcap.gz"), os.path.join(SMALL, "map.yaml")


def refused(argv, says, env=None, **kw):
    """argv must fail with a message that matches `says`."""
    done = moetap.run(argv, env=env, timeout=60, **kw)
    if done.returncode == 0:
        raise Failure(f"{argv}: exit status 0\n{done.stdout[-500:]}")
    if not re.search(says, done.stderr, re.IGNORECASE):
        raise Failure(f"{argv}: does not say {says!r}:\n{done.stderr[-2000:]}")
    print(f"{' '.join(argv[:2])}: {done.stderr.strip().splitlines()[-1]}")
    return done


def counting(map_path, capture, *options):
    return [moetap.MOETAP, "count", "--map", map_path, *options, capture]


def write(where, name, data):
    path = os.path.join(where, name)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return path


def captures(seed):
    """Files that are no captures."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as where:
        for name, data in {"random.pcap": rng.randbytes(5000), "empty.pcap": b"",
                           "text.pcap": "a,b\n1,2\n", "half-header.pcap": b"\xd4\xc3\xb2\xa1\x02\0",
                           "no-gzip.pcap.gz": rng.randbytes(300),
                           "elf.pcap": open("/bin/true", "rb").read()[:4096]}.items():
            refused(counting(MAP, write(where, name, data)), re.escape(name))
        refused(counting(MAP, os.path.join(where, "missing.pcap")), "missing.pcap.*no such file")
        refused(counting(MAP, where), re.escape(where))
        cut = write(where, "cut.pcap.gz", open(CAPTURE, "rb").read()[:9000])
        refused(counting(MAP, cut), "cut.pcap.gz")


def block(kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))


def interfaces(seed):
    """A pcapng file of several interfaces, as mergecap makes them of captures with other snap lengths, has all its
    packets counted, or is refused where one is not Ethernet: libpcap would leave out the others in silence."""
    rng = random.Random(seed)
    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))

    def interface(link, snap):
        return block(1, struct.pack("<HHI", link, 0, snap))

    def packet(n, p):
        us = p.ns // 1000
        return block(6, struct.pack("<IIIII", n, us >> 32, us & 0xFFFFFFFF, len(p.data), p.wire) + p.data)

    packets = roce.read_pcap(CAPTURE)
    wanted = moetap.count(MAP, CAPTURE)
    with tempfile.TemporaryDirectory() as where:
        two = section + interface(1, 262144) + interface(1, 128) + interface(1, 0)
        for name, data in {
                "merged.pcapng": two + b"".join(packet(rng.randrange(3), p) for p in packets),
                "later.pcapng": section + interface(1, 65535) + b"".join(packet(0, p) for p in packets[:300])
                + interface(1, 96) + b"".join(packet(1, p) for p in packets[300:]),
                "sections.pcapng": section + interface(1, 65535) + b"".join(packet(0, p) for p in packets[:300])
                + section + interface(1, 96) + b"".join(packet(0, p) for p in packets[300:])}.items():
            got = moetap.count(MAP, write(where, name, data))
            if got.rows != wanted.rows or got.outcomes() != wanted.outcomes():
                raise Failure(f"{name}: {got.outcomes()}, wanted {wanted.outcomes()}")
        for name, data, says in (
                ("cooked.pcapng", section + interface(113, 0) + packet(0, packets[0]), "cooked.*113 is not Ethernet"),
                ("mixed.pcapng", section + interface(1, 0) + packet(0, packets[0]) + interface(101, 0)
                 + packet(1, packets[1]), "record 4: interface 1 has link type 101"),
                ("none.pcapng", section + packet(0, packets[0]), "no interface"),
                ("third.pcapng", section + interface(1, 0) + packet(2, packets[0]), "record 3 is a packet of interface 2")):
            refused(counting(MAP, write(where, name, data)), says)


def broken_records(seed):
    """A capture whose records lie about their lengths: counted as far as it goes, or refused."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as where:
        head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
        for n, (captured, wire) in enumerate(((0xFFFFFFFF, 60), (10**6, 60), (60, 0), (0, 0), (60, 60))):
            data = head + struct.pack("<IIII", 1, 1, captured, wire) + rng.randbytes(60)
            done = moetap.run(counting(MAP, write(where, f"{n}.pcap", data)))
            if done.returncode != 1 or not re.search("\\.pcap|no dispatch round was found", done.stderr):
                raise Failure(f"record of {captured}/{wire} bytes: {done.returncode} {done.stderr}")


MAPS = {
    "random bytes": (b"\x00\xff\xfe\x01" * 200, r":\d+: "),
    "empty": ("", r":1: .*empty"),
    "not YAML": ("moetap-map: [1\n", r":\d+: "),
    "another version": ("moetap-map: 2\n", r":1: "),
    "a list": ("- 1\n- 2\n", r":\d+: "),
}

# Changes of a good map: (from, to, what the message must say besides the line)
MAP_CHANGES = {
    "unknown key": ("layers: 2", "layer: 2", "layer"),
    "no layers": ("layers: 2\n", "", "layers"),
    "layers 0": ("layers: 2", "layers: 0", r":\d+: "),
    "layers huge": ("layers: 2", "layers: 99999999999999999999", r":\d+: "),
    "negative": ("layers: 2", "layers: -2", r":\d+: "),
    "unknown pattern": ("pattern: inference", "pattern: sometimes", "sometimes|pattern"),
    "rank twice": ("rank: 1,", "rank: 0,", r":\d+: "),
    "address twice": ("address: 10.77.0.2", "address: 10.77.0.1", "twice"),
    "no address": ("address: 10.77.0.2", "address: 10.77.0.256", "10.77.0.256"),
    "unknown rule": ("rule: va", "rule: magic", "magic"),
    "region of no bytes": ("size: 69632", "size: 0", r":\d+: "),
    "stride 0": ("stride: 17408", "stride: 0", r":\d+: "),
    "too many experts": ("count: 4, of: dst", "count: 4000000000, of: dst", r":\d+: "),
    "token bytes 0": ("token-bytes: 544", "token-bytes: 0", r":\d+: "),
    "parity overlaps": ("parity: {stride: 135168, count: 2}", "parity: {stride: 100, count: 2}", r":\d+: "),
    "same key twice": ("layers: 2", "layers: 2\nlayers: 3", r":\d+: "),
}


def maps(seed):
    """Wrong maps are refused with file, line and reason, by every program that reads maps."""
    good = open(MAP).read()
    with tempfile.TemporaryDirectory() as where:
        wrong = {n: (text, says) for n, (text, says) in MAPS.items()}
        for name, (old, new, says) in MAP_CHANGES.items():
            if old not in good:
                raise Failure(f"{name}: the good map has no {old!r}")
            wrong[name] = (good.replace(old, new, 1), says)
        for name, (text, says) in wrong.items():
            path = write(where, name.replace(" ", "-") + ".yaml", text)
            for argv in (counting(path, CAPTURE), [moetap.MOETAP, "map", "check", path]):
                done = refused(argv, says)
                if os.path.basename(path) not in done.stderr:
                    raise Failure(f"{name}: the message names no file: {done.stderr}")
        refused(counting(os.path.join(where, "none.yaml"), CAPTURE), "none.yaml.*no such file")
        refused(counting(where, CAPTURE), re.escape(where))


def command_lines(seed):
    """Wrong command lines: a message, and status 2 where the line itself is wrong."""
    m = moetap.MOETAP
    for argv in ([m], [m, "no-such-verb"], [m, "count"], [m, "count", "--no-such-option"],
                 [m, "count", CAPTURE], counting(MAP, CAPTURE, "--cores", "0"),
                 counting(MAP, CAPTURE, "--cores", "many"), counting(MAP, CAPTURE, "--tap", "tails"),
                 counting(MAP, CAPTURE, "--format", "xml"), counting(MAP, CAPTURE) + ["second.pcap"],
                 [m, "doctor", "--no-such-option"], [m, "map", "no-such-verb"]):
        done = moetap.run(argv)
        if done.returncode == 0 or not done.stderr.strip():
            raise Failure(f"{argv}: exit status {done.returncode}, says {done.stderr!r}")
    for verb in ("count", "forecast", "backtest", "plan", "hints", "map", "doctor"):
        done = moetap.run([m, verb, "--help"])
        if done.returncode != 0 or verb not in done.stdout:
            raise Failure(f"{verb} --help: {done.returncode} {done.stdout}")


def pages(seed):
    """Pages that are none, are of another version, damaged, or missing."""
    name = f"hostile-{os.getpid()}"
    reader = [moetap.MOETAP, "count", "--page", name]
    refused(reader, "moetap-fw")
    for bad in ("a/b", "", "x" * 300, "../passwd"):
        refused([moetap.MOETAP, "count", "--page", bad], "page")
    rng = random.Random(seed)
    with started(name, f"net_pcap0,rx_pcap={CAPTURE_RAW()}", MAP) as fw:
        good = bytearray(open(page.path_of(name), "rb").read(4096))
        size = os.path.getsize(page.path_of(name))
        fw.stop()
        other = good[:]
        struct.pack_into("<I", other, 8, 99)
        for what, head, length, says in (
                ("of another version", other, size, "version"),
                ("of random bytes", rng.randbytes(4096), size, "page"),
                ("that is cut", good, 4096, "page"),
                ("without bytes", b"", 0, "page"),
                ("of zeros", bytes(4096), 1 << 20, "page")):
            with open(page.path_of(name), "wb") as f:
                f.write(head)
                f.truncate(length)
            done = refused(reader, says)
            print(f"page {what}: {done.stderr.strip()}")
    for at in range(40):    # a page whose header lies anywhere: any answer, but no crash
        lying = good[:]
        for _ in range(rng.randint(1, 12)):
            lying[rng.randrange(12, 704)] = rng.randrange(256)
        with open(page.path_of(name), "wb") as f:
            f.write(lying)
            f.truncate(size)
        moetap.run(reader, timeout=20)
    os.unlink(page.path_of(name))


def CAPTURE_RAW():
    """The small capture, unpacked beside the build (DPDK reads no gzip)."""
    import gzip
    path = os.path.join(tempfile.gettempdir(), f"moetap-e2e-{os.getpid()}.pcap")
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.write(gzip.open(CAPTURE).read())
        import atexit
        atexit.register(os.unlink, path)
    return path


def second_instance(seed):
    """One firmware a page: the second is refused, the first goes on."""
    name = f"second-{os.getpid()}"
    port = f"net_pcap0,rx_pcap={CAPTURE_RAW()},infinite_rx=1"
    with started(name, port, MAP) as first:
        second = Firmware(name, port, MAP, wait=False)
        status = second.process.wait(30)
        text = second.text()
        moetap.alive(second.argv, status, text)
        if status == 0 or not re.search("another moetap-fw.*--page", text):
            raise Failure(f"second instance: status {status}\n{text}")
        before = page.Page(name).packets
        time.sleep(0.5)
        if first.process.poll() is not None or page.Page(name).packets == before:
            raise Failure(f"the first instance stopped:\n{first.text()}")
        first.stop()


def page_prefix(seed):
    """Without --file-prefix: two pages, two firmwares; the message names what is taken."""
    names = [f"prefix{i}-{os.getpid()}" for i in (1, 2)]

    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))

    def start(name, *eal):
        return [moetap.FIRMWARE, "--no-huge", "-m", "64", "--no-pci", "--lcores", f"(0-1)@({cpus})", *eal, "--vdev",
                f"net_pcap0,rx_pcap={CAPTURE_RAW()}", "--", "--map", MAP, "--page", name]
    running = [subprocess.Popen(start(n), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for n in names]
    try:
        for name, process in zip(names, running):
            end = time.monotonic() + 20
            while not page.exists(name) or page.Page(name).state != page.RUNNING:
                if process.poll() is not None or time.monotonic() > end:
                    raise Failure(f"no firmware on page {name}: {process.poll()}")
                time.sleep(0.05)
        refused(start(names[0]), "moetap-fw on the same page: stop it")
        refused(start(names[0], "--file-prefix", f"other-{os.getpid()}"), "another moetap-fw runs on this page")
        refused(start("other", f"--file-prefix=moetap-{names[0]}"), "another DPDK program.*--file-prefix")
    finally:
        for process in running:
            process.terminate()
        status = [process.wait(20) for process in running]
    if status != [0, 0] or any(page.exists(n) for n in names):
        raise Failure(f"the firmwares ended with {status}")


def no_room(seed):
    """/dev/shm is full: a message, not a bus error later."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        raise Skip("mounting a small /dev/shm needs root and unshare")
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    refused(["unshare", "-m", "sh", "-c", script, "sh", *counting(MAP, CAPTURE)], "/dev/shm.*room")


def not_root(seed):
    """Without root: counts a capture, or says what it lacks; a live tap says what it lacks."""
    if os.geteuid() != 0:
        raise Skip("this case gives root up, so it needs it")
    nobody = pwd.getpwnam("nobody")
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    if subprocess.run(["test", "-x", moetap.MOETAP, "-a", "-r", CAPTURE], **user).returncode:
        raise Skip("the build directory is closed to nobody")
    with tempfile.TemporaryDirectory() as where:
        os.chmod(where, 0o777)
        env = {"HOME": where, "XDG_RUNTIME_DIR": where, "TMPDIR": where}
        done = moetap.run(counting(MAP, CAPTURE), env=env, **user)
        truth = moetap.read_truth(os.path.join(SMALL, "truth.csv"))
        if done.returncode == 0:
            moetap.must_equal(moetap.Counts(done.stdout, done.stderr), truth, "as nobody")
        elif not re.search("root|permission|privilege", done.stderr, re.IGNORECASE):
            raise Failure(f"as nobody: {done.stderr}")
        secret = write(where, "secret.yaml", open(MAP).read())
        os.chmod(secret, 0o600)
        refused(counting(secret, CAPTURE), "secret.yaml.*permission", env=env, **user)


def no_huge_pages(seed):
    """moetap-fw started without --no-huge where there are no huge pages says what to do."""
    free = int(re.search(r"HugePages_Total:\s+(\d+)", open("/proc/meminfo").read())[1])
    if free:
        raise Skip("this host has huge pages")
    argv = [moetap.FIRMWARE, "--no-pci", "--file-prefix", f"mt{os.getpid()}", "--vdev",
            f"net_pcap0,rx_pcap={CAPTURE_RAW()}", "--", "--map", MAP, "--page",
            f"huge-{os.getpid()}", "--once"]
    refused(argv, "nr_hugepages|--no-huge")


def firmware_lines(seed):
    """moetap-fw with a wrong command line, without a port, with a port that is not there."""
    name, common = f"lines-{os.getpid()}", ["--no-huge", "-m", "64", "--no-pci", "--file-prefix",
                                            f"mtl{os.getpid()}"]
    port = ["--vdev", f"net_pcap0,rx_pcap={CAPTURE_RAW()}"]
    fw = [moetap.FIRMWARE, *common]
    refused([*fw, "--", "--map", MAP, "--page", name], "port|--vdev")
    for cpus in (["--lcores", "0@0,1@900"], ["-l", f"0,{max(os.sched_getaffinity(0)) + 1}"]):
        done = refused([*fw, *cpus, *port, "--", "--map", MAP, "--page", name], "CPUs that it may not use.*online")
        if "hugepages" in done.stderr.splitlines()[-1]:
            raise Failure("huge pages mend no list of CPUs")
    refused([*fw, "--lcores", "0@x", *port, "--", "--map", MAP, "--page", name], "--lcores cannot be read")
    refused([*fw, *port, "--", "--page", name], "--map")
    refused([*fw, *port, "--", "--map", MAP], "--page")
    refused([*fw, *port, "--", "--map", MAP, "--page", name, "--no-such-option"], "no-such-option")
    refused([*fw, *port, "--", "--map", MAP, "--page", "a/b"], "page name")
    refused([*fw, *port, "--", "--map", "/no/such.yaml", "--page", name], "/no/such.yaml")
    refused([*fw, "--vdev", "net_pcap0,rx_pcap=/no/such.pcap", "--", "--map", MAP, "--page", name], ".")
    refused([*fw, "--vdev", "net_af_xdp0,iface=no-such-if", "--", "--map", MAP, "--page", name], ".")
    if page.exists(name):
        raise Failure("a refused command line left a page behind")


def doctor(seed):
    """doctor: one line a check, a remedy for what is wrong, a status that agrees."""
    for env, wanted in (({}, None), ({"MOETAP_FW": "/no/such/moetap-fw"}, 1)):
        done = moetap.run([moetap.MOETAP, "doctor", "--format", "json"], env=env)
        found = json.loads(done.stdout)
        checks = {c["check"] for c in found["checks"]}
        need = {"privileges", "huge pages", "DPDK", "moetap-fw", "/dev/shm", "BTF", "clock"}
        if not need <= checks:
            raise Failure(f"doctor has no {need - checks}")
        wrong = [c for c in found["checks"] if c["standing"] == "wrong"]
        if any(not c["remedy"] for c in wrong):
            raise Failure(f"doctor knows no remedy: {wrong}")
        if done.returncode != (1 if wrong else 0) or found["ok"] != (not wrong):
            raise Failure(f"doctor: {done.returncode}, {found}")
        if wanted is not None and done.returncode != wanted:
            raise Failure(f"doctor with {env}: {done.returncode}")
        table = moetap.run([moetap.MOETAP, "doctor"], env=env)
        if table.returncode != done.returncode or any(c not in table.stdout for c in checks):
            raise Failure(f"doctor's table differs from its JSON:\n{table.stdout}")


def doctor_checks(env=None, before=(), **kw):
    done = subprocess.run([*before, moetap.MOETAP, "doctor", "--format", "json"], capture_output=True, text=True,
                          timeout=60, env=dict(os.environ, **(env or {})), check=False, **kw)
    return json.loads(done.stdout)["checks"]


def doctor_remedies(seed):
    """Remedies that mend: none for the host's own interface, none that AF_XDP cannot take, none that leads
    back."""
    with open("/proc/net/route") as routes:
        own = {r.split()[0] for r in routes if r.split()[1] == "00000000"}
    for c in doctor_checks():
        name = c["found"].split()[0]
        mtu = re.search(r"mtu (\d+)", c["remedy"])
        if c["check"] == "interface" and name in own and (mtu or "default route" not in c["found"]):
            raise Failure(f"the interface of the default route: {c}")
        if mtu and int(mtu[1]) > 3498 or "moetap doctor" in c["remedy"]:
            raise Failure(f"this mends nothing: {c}")
    if os.geteuid() != 0:
        return
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    if shutil.which("unshare"):
        found = {c["check"]: c for c in doctor_checks(before=["unshare", "-m", "sh", "-c", script, "sh"])}
        if "size=1025M" not in found["/dev/shm"]["remedy"] or found["/dev/shm"]["standing"] != "wrong":
            raise Failure(f"a full /dev/shm: {found['/dev/shm']}")
        if found["moetap-fw"]["standing"] == "wrong" and "/dev/shm" not in found["moetap-fw"]["remedy"]:
            raise Failure(f"a full /dev/shm: {found['moetap-fw']}")
    nobody = pwd.getpwnam("nobody")
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    if subprocess.run(["test", "-x", moetap.MOETAP], check=False, **user).returncode == 0:
        found = {c["check"]: c for c in doctor_checks(**user)}
        if "sudo moetap-fw" not in found["privileges"]["remedy"]:
            raise Failure(f"without root: {found['privileges']}")
        told = subprocess.run([moetap.MOETAP, "doctor"], capture_output=True, text=True, timeout=60, check=False,
                              **user)
        if "Everything" in told.stdout:
            raise Failure(f"without root:\n{told.stdout}")


def cases():
    return {"hostile " + name: function for name, function in {
        "captures": captures, "broken-records": broken_records,
        "interfaces": interfaces, "maps": maps,
        "command-lines": command_lines, "pages": pages, "second-instance": second_instance,
        "page-prefix": page_prefix, "no-room": no_room, "not-root": not_root, "no-huge-pages": no_huge_pages,
        "firmware-lines": firmware_lines, "doctor": doctor, "doctor-remedies": doctor_remedies}.items()}
