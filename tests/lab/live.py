# SPDX-License-Identifier: BSD-3-Clause
"""A moetap-fw that taps the bridge while the programs run, with a reader of its page: what it counts live."""
import os
import re
import secrets
import subprocess
import tempfile

import cases_live
import machines
import moetap
from moetap import Failure

SECONDS = 60
# A ring of 32 MiB: that of net_pcap has 2, which is too little where the machines have the CPUs. Frames are cut at its
# 2,048 bytes, as at those of a mirror.
PORT = f"net_af_packet0,iface={machines.BRIDGE},blocksz=65536,framesz=2048,framecnt=16384"


class Tap:
    """A context; `counts` has what was published when it is stopped, before the firmware is gone."""

    def __init__(self, map_path):
        self.map_path, self.name = map_path, "lab-" + secrets.token_hex(6)
        self.firmware = self.reader = self.out = self.err = None

    def __enter__(self):
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.firmware = cases_live.Firmware(self.name, PORT, self.map_path,
                                            lcores=f"(0-1)@({cpus})")     # idle ones leave the CPUs to the machines
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.reader = subprocess.Popen([moetap.MOETAP, "count", "--page", self.name, "--follow", "--from", "0"],
                                       stdout=self.out, stderr=self.err)
        return self

    def stop(self):
        """Ends the firmware, which publishes what is open; what the reader had of it. GaveUp: the port lost packets."""
        self.firmware.stop()
        try:
            status = self.reader.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure("moetap count --follow goes on after the firmware has ended")
        texts = []
        for f in (self.out, self.err):
            f.seek(0)
            texts.append(f.read())
        moetap.alive(self.reader.args, status, texts[1])
        if status != 0:
            raise Failure(f"moetap count --follow: exit status {status}\n{texts[1][-2000:]}")
        if re.search("dropped by the port", texts[1]):
            raise machines.GaveUp(f"the live tap lost packets, as on a busy host: {texts[1][-600:]}")
        return moetap.Counts(*texts)

    def __exit__(self, *_):
        if self.firmware.process.poll() is None:
            self.firmware.kill()
        if self.reader is not None and self.reader.poll() is None:
            self.reader.kill()
            self.reader.wait()
