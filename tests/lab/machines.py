# SPDX-License-Identifier: BSD-3-Clause
"""Small machines with soft RoCE, on one bridge: Debian's own kernel under qemu, with the root of this
host as their root. What they write to it stays in their memory.

All of this lives in namespaces of its own (see `run`), so nothing is left of it when its first process
ends, however it ends.
"""
import contextlib
import glob
import lzma
import os
import re
import select
import shutil
import socket
import stat
import subprocess
import sys
import time

MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p", "overlay", "ib_uverbs", "rdma_ucm", "rdma_rxe",
           "sch_ingress", "cls_flower", "act_gact", "ipv6", "crc32_pclmul", "crc32_generic")
BRIDGE = "br0"
BOOT_SECONDS = 180
KVM_SECONDS = 8
LOSSY = "ip_proto udp dst_port 4791"     # what is lost under loss: RoCE, if the case does not say otherwise
WHOLE = 4400    # bytes of the longest frame; tcpdump has room for so many of that many, so no more
SLOTS = 4       # addresses of a machine, so that it can be several ranks

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /lower /rw /new
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r m; do insmod /modules/$m || echo "lab: no $m"; done </modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,msize=500000,cache=loose,ro root /lower
mount -t tmpfs rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /new
for d in proc sys dev; do mount --move /$d /new/$d; done
mkdir -p /new/dev/shm
mount -t tmpfs shm /new/dev/shm
mount -t tmpfs run /new/run
mkdir /new/run/lab
mount -t 9p -o trans=virtio,version=9p2000.L,msize=500000,cache=none lab /new/run/lab
exec chroot /new /bin/sh /run/lab/agent
"""

# Reads numbers of commands from the second serial line, and answers with number and exit status.
AGENT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8
ulimit -l unlimited
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo up 0 >&3
while read -r id <&3; do
	(
		sh "/run/lab/$id.sh" >"/run/lab/$id.out" 2>&1 </dev/null 3>&-
		echo "$id $?" >&3
	) &
done
"""

SETUP = """set -e
hostname machine{n}
echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
dev=$(basename "$(ls -d /sys/class/net/e*)")
ip link set "$dev" down
ip link set "$dev" name lab0
ip link set lab0 up
for a in {ipv4}; do ip addr add "$a/16" dev lab0; done
for a in {ipv6}; do ip -6 addr add "$a/64" dev lab0 nodad; done
rdma link add rxe0 type rxe netdev lab0
"""


class Unavailable(Exception):
    """What this host lacks for the lab."""


class Trouble(Exception):
    """The lab itself does not do as it should."""


class Ended(Trouble):
    """A program in a machine that ended with another status than 0."""


def say(text, begun=time.monotonic()):
    print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)


def address(machine, slot=0, version=4):
    """Machines count from 1."""
    return f"10.77.{slot}.{machine}" if version == 4 else f"fd77::{slot}:{machine}"


def fetch(package, cache):
    """Unpacks a Debian package into the cache, without installing it."""
    folder = os.path.join(cache, package)
    if os.path.isdir(folder):
        return folder
    os.makedirs(cache, exist_ok=True)
    say(f"getting {package}")
    done = subprocess.run(["apt-get", "download", "-q", package], cwd=cache, capture_output=True, text=True)
    found = glob.glob(os.path.join(cache, package + "_*.deb"))
    if done.returncode or not found:
        raise Unavailable(f"apt-get download {package}: {done.stderr.strip()[-500:]}")
    part = folder + f".{os.getpid()}"
    done = subprocess.run(["dpkg-deb", "-x", found[0], part], capture_output=True, text=True)
    for deb in found:
        os.unlink(deb)
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        raise Unavailable(f"dpkg-deb -x {found[0]}: {done.stderr.strip()}")
    os.rename(part, folder)
    return folder


def busybox(cache):
    folder = fetch("busybox-static", cache)
    for path in (os.path.join(folder, d, "busybox") for d in ("bin", "usr/bin")):
        if os.path.isfile(path):
            return path
    raise Unavailable(f"{folder} holds no busybox")


def kernel(cache):
    """(kernel image, folder of its modules)."""
    try:
        told = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise Unavailable("no apt: this is no Debian")
    m = re.search(r"Depends: (linux-image-\S+)", told)
    cached = sorted(glob.glob(os.path.join(cache, "linux-image-*[0-9a-z]")))
    name = m[1] if m else os.path.basename(cached[-1]) if cached else None
    if name is None:
        raise Unavailable("no package linux-image-amd64: apt-get update")
    folder = fetch(name, cache)
    images = glob.glob(os.path.join(folder, "boot", "vmlinuz-*"))
    modules = [m for d in ("lib", "usr/lib") for m in glob.glob(os.path.join(folder, d, "modules", "*"))]
    if not images or not modules:
        raise Unavailable(f"{folder} holds no kernel")
    return images[0], modules[0]


def processor(accel):
    return ["-machine", "pc", "-accel", accel, "-cpu", "host,arch-capabilities=off" if accel == "kvm" else "max"]


def accelerator(image, cache):
    """kvm where a kernel gets as far as to miss its root: a /dev/kvm that is there need not work. Asked once."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    verdict = os.path.join(cache, "accelerator")
    if not os.path.exists(verdict):
        argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-m", "256", *processor("kvm"),
                "-kernel", image, "-append", "panic=-1"]
        accel = "tcg"
        with contextlib.suppress(subprocess.TimeoutExpired):
            if subprocess.run(argv, capture_output=True, timeout=KVM_SECONDS).returncode == 0:
                accel = "kvm"
        with open(verdict, "w") as f:
            f.write(accel)
    with open(verdict) as f:
        return f.read()


def module_bytes(path):
    with open(path, "rb") as f:
        data = f.read()
    return lzma.decompress(data) if path.endswith(".xz") else data


def modules_in_order(folder):
    """[(file name, bytes)] of MODULES and of what they depend on, each after what it needs."""
    where = {}
    for path in glob.glob(os.path.join(folder, "**", "*.ko*"), recursive=True):
        where[os.path.basename(path).split(".ko")[0].replace("-", "_")] = path
    order, seen = [], set()

    def add(name):
        if name in seen or name not in where:   # what is built in has no file
            return
        seen.add(name)
        data = module_bytes(where[name])
        m = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in m[1].decode().split(",") if m and m[1] else ():
            add(needed.replace("-", "_"))
        order.append((name + ".ko", data))

    for name in MODULES:
        add(name)
    if "rdma_rxe" not in seen:
        raise Unavailable(f"{folder} holds no rdma_rxe")
    return order


def cpio(files):
    """A newc archive of {name: (mode, bytes)}."""
    out = []

    def entry(name, mode, data, ino):
        head = f"070701{ino:08x}{mode:08x}" + "00000000" * 2 + f"{1:08x}{0:08x}{len(data):08x}" + \
            "00000000" * 4 + f"{len(name) + 1:08x}" + "00000000"
        raw = head.encode() + name.encode() + b"\0"
        raw += b"\0" * (-len(raw) % 4) + data
        out.append(raw + b"\0" * (-len(raw) % 4))

    for i, name in enumerate(sorted({os.path.dirname(n) for n in files} - {""})):
        entry(name, stat.S_IFDIR | 0o755, b"", i + 1)
    for i, (name, (mode, data)) in enumerate(files.items()):
        entry(name, stat.S_IFREG | mode, data, 1000 + i)
    entry("TRAILER!!!", 0, b"", 0)
    return b"".join(out)


def initrd(modules, box, path):
    order = modules_in_order(modules)
    files = {"init": (0o755, INIT.encode()), "bin/busybox": (0o755, box)}
    for name, data in order:
        files["modules/" + name] = (0o644, data)
    files["modules/order"] = (0o644, "".join(n + "\n" for n, _ in order).encode())
    with open(path, "wb") as f:
        f.write(cpio(files))


def sh(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


class Machine:
    def __init__(self, number, folder, argv, control, passed):
        self.number, self.folder, self.control = number, folder, control
        self.log = open(os.path.join(folder, "qemu.log"), "wb")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        pass_fds=[passed])
        self.buffer, self.done, self.next = b"", {}, 0

    def why(self):
        tail = ""
        for name in ("qemu.log", "console.log"):
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                with open(path, errors="replace") as f:
                    tail += f.read()[-1500:]
        return tail

    def poll(self):
        """Takes in what the machine said."""
        if self.process.poll() is not None:
            raise Trouble(f"machine {self.number}: qemu ended with {self.process.returncode}\n{self.why()}")
        while select.select([self.control], [], [], 0)[0]:
            data = self.control.recv(4096)
            if not data:
                raise Trouble(f"machine {self.number} hung up\n{self.why()}")
            self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            words = line.decode(errors="replace").split()
            if len(words) == 2 and words[1].isdigit():
                self.done[words[0]] = int(words[1])

    def start(self, script):
        """Runs a shell script in the machine; its number."""
        self.next += 1
        number = f"c{self.next}"
        with open(os.path.join(self.folder, number + ".sh"), "w") as f:
            f.write(script + "\n")
        self.control.sendall(number.encode() + b"\n")
        return number

    def output(self, number):
        with contextlib.suppress(OSError), open(os.path.join(self.folder, number + ".out"), errors="replace") as f:
            return f.read()
        return ""


class Job:
    """A command that runs in a machine."""

    def __init__(self, lab, machine, script):
        self.lab, self.machine, self.script = lab, machine, script
        self.number = machine.start(script)

    @property
    def status(self):
        self.machine.poll()
        return self.machine.done.get(self.number)

    @property
    def text(self):
        return self.machine.output(self.number)

    def wait(self, seconds):
        end = time.monotonic() + seconds
        while self.status is None:
            if time.monotonic() > end:
                raise Trouble(f"machine {self.machine.number}: not done after {seconds:.0f} s: "
                              f"{self.script}\n{self.text[-1500:]}")
            select.select([m.control for m in self.lab.machines], [], [], 0.2)
        if self.status:
            raise Ended(f"machine {self.machine.number}: status {self.status}: {self.script}\n{self.text[-3000:]}")
        return self.text


class GaveUp(Exception):
    """Programs that were to be counted, or their capture, did not get to the end: there is nothing to compare."""


class Capture:
    """What the bridge takes in: every packet once, before any loss."""

    def __init__(self, path, snap=WHOLE):
        self.path = path
        self.process = subprocess.Popen(
            ["tcpdump", "-i", BRIDGE, "-n", "--immediate-mode", "-U", "-B", "65536", "-s", str(snap), "-Z", "root",
             "-w", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 10
        while not (os.path.exists(path) and os.path.getsize(path) >= 24):
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise Trouble(f"tcpdump: {self.process.stderr.read()}")
            time.sleep(0.02)

    def stop(self):
        last = -1
        while os.path.getsize(self.path) != last:
            last = os.path.getsize(self.path)
            time.sleep(0.3)
        self.process.terminate()
        told = self.process.communicate(timeout=20)[1]
        m = re.search(r"(\d+) packets? dropped by kernel", told)
        if not m or int(m[1]):
            raise GaveUp(f"tcpdump lost packets, so the capture proves nothing: {told.strip()}")


class Lab:
    """`count` machines at an MTU; a context manager."""

    def __init__(self, count, mtu, cache, folder):
        self.count, self.mtu, self.cache, self.folder = count, mtu, cache, folder
        self.machines, self.loss = [], 0

    def __enter__(self):
        image, modules = kernel(self.cache)
        self.accel = accelerator(image, self.cache)
        path = os.path.join(self.folder, "initrd")
        with open(busybox(self.cache), "rb") as f:
            initrd(modules, f.read(), path)
        self.network()
        begun = time.monotonic()
        try:
            for n in range(1, self.count + 1):
                self.machines.append(self.boot(n, image, path))
            for m in self.machines:
                self.wait_up(m)
            say(f"{self.count} machines up after {time.monotonic() - begun:.1f} s ({self.accel}, MTU {self.mtu})")
            self.all(SETUP, 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def network(self):
        try:
            sh("ip", "link", "set", "lo", "up")
            sh("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        except Trouble as why:
            raise Unavailable(f"no bridge: {why}")
        with open(f"/proc/sys/net/ipv6/conf/{BRIDGE}/disable_ipv6", "w") as f:
            f.write("1")
        for n in range(1, self.count + 1):
            try:
                sh("ip", "tuntap", "add", f"t{n}", "mode", "tap")
            except Trouble as why:
                raise Unavailable(f"no tap: {why}")
            sh("ip", "link", "set", f"t{n}", "mtu", str(self.mtu), "master", BRIDGE, "up")
        sh("ip", "link", "set", BRIDGE, "mtu", str(self.mtu), "up", "promisc", "on")

    def boot(self, n, image, ramdisk):
        folder = os.path.join(self.folder, f"machine{n}")
        os.mkdir(folder)
        with open(os.path.join(folder, "agent"), "w") as f:
            f.write(AGENT)
        ours, theirs = socket.socketpair()
        argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                *processor(self.accel), "-smp", "1", "-m", "640", "-kernel", image, "-initrd", ramdisk,
                # no_timer_check: on a busy host its first ticks come too late for it, and it gives up
                "-append", "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off net.ifnames=0",
                "-chardev", f"file,id=con,path={folder}/console.log", "-serial", "chardev:con",
                "-chardev", f"socket,id=ctl,fd={theirs.fileno()}", "-serial", "chardev:ctl",
                "-netdev", f"tap,id=net,ifname=t{n},script=no,downscript=no",
                "-device", f"virtio-net-pci,netdev=net,mac=02:00:0a:4d:00:{n:02x},host_mtu={self.mtu},romfile=",
                "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
                "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
                "-fsdev", f"local,id=lab,path={folder},security_model=none",
                "-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab"]
        machine = Machine(n, folder, argv, ours, theirs.fileno())
        theirs.close()
        return machine

    def wait_up(self, machine):
        end = time.monotonic() + BOOT_SECONDS
        while "up" not in machine.done:
            if time.monotonic() > end:
                raise Trouble(f"machine {machine.number} is not up after {BOOT_SECONDS} s\n{machine.why()}")
            select.select([machine.control], [], [], 0.5)
            machine.poll()

    def run(self, machine, script):
        """Starts a script in machine 1, 2 …"""
        return Job(self, self.machines[machine - 1], script)

    def all(self, script, seconds):
        """Runs a script in every machine, its {n}, {ipv4} and {ipv6} filled in; their outputs."""
        jobs = []
        for m in self.machines:
            filled = script.replace("{n}", str(m.number))
            for key, version in (("{ipv4}", 4), ("{ipv6}", 6)):
                filled = filled.replace(key, " ".join(address(m.number, s, version) for s in range(SLOTS)))
            jobs.append(self.run(m.number, filled))
        return [j.wait(seconds) for j in jobs]

    def set_loss(self, percent, lossy=LOSSY):
        """Every machine drops so many packets of a kind as they come in: behind the bridge, so the capture has them."""
        if self.loss:
            self.all("tc qdisc del dev lab0 clsact", 30)
        self.loss = percent
        if percent:
            one_in = round(100 / percent)
            self.all("set -e\ntc qdisc add dev lab0 clsact\n" + "".join(
                f"tc filter add dev lab0 ingress pref {p} protocol {v} flower {lossy} "
                f"action pass random netrand drop {one_in}\n" for p, v in ((1, "ip"), (2, "ipv6"))), 30)

    @contextlib.contextmanager
    def programs(self):
        """Around what runs in the machines to be counted, and around nothing else: a case may be tried again
        when a program gives up, never when moetap counts something else than it says."""
        try:
            yield
        except Ended as why:
            raise GaveUp(str(why)) from why

    def reset(self):
        """After a case that failed: none of its programs goes on."""
        self.all("for p in /proc/[0-9]*; do exe=$(readlink $p/exe) || continue; case $exe in "
                 "*/ib_*|*/lab-*|*/mpirun|*/orte*|*/python3*) kill -9 ${p#/proc/};; esac; done; true", 60)

    def lost(self):
        """Packets that were dropped since set_loss."""
        if not self.loss:
            return 0
        told = "".join(self.all("tc -s filter show dev lab0 ingress", 30))
        return sum(int(n) for n in re.findall(r"dropped (\d+)", told))

    def __exit__(self, *_):
        for m in self.machines:
            if m.process.poll() is None:
                m.process.kill()
        for m in self.machines:
            m.process.wait()
            m.control.close()
            m.log.close()


def namespaces(cache):
    """Gets what the lab needs, then starts this program again in namespaces of its own; returns in there."""
    if os.environ.pop("MOETAP_LAB_INSIDE", None):
        return
    if os.geteuid() != 0:
        raise Unavailable("needs root: network namespace, taps, and the host's files for the machines")
    for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("tcpdump", "tcpdump"),
                          ("unshare", "util-linux"), ("ip", "iproute2"), ("rdma", "iproute2"), ("tc", "iproute2")):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is missing: apt-get install {package}")
    kernel(cache)       # in there is no network
    busybox(cache)
    os.environ["MOETAP_LAB_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                          sys.executable, *sys.argv])
