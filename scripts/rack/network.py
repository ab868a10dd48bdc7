"""The rack's network: a namespace with a bridge and one tap per machine, and no way out."""

import json
import os
import re
from pathlib import Path

from .commands import CommandFailed, run

PREFIX = "drophammer-"
BRIDGE = "br0"
ADDRESS = "10.77.0.1"
PREFIX_LENGTH = 24
DHCP_RANGE = ("10.77.0.100", "10.77.0.199")

# Asks every address of the rack for its MAC, by sending it a packet that nobody reads.
PROBE = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setblocking(False)
for last in range(2, 255):
    try:
        s.sendto(b"", ("10.77.0.%d" % last, 9))
    except OSError:
        pass
"""


def remove_leftovers():
    """Namespaces of labs that were killed: their names carry the number of a process that is no more."""
    for line in run(["ip", "netns", "list"]).splitlines():
        name = line.split()[0]
        match = re.fullmatch(re.escape(PREFIX) + r"(\d+)-\d+(-host\d+)?", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            try:
                run(["ip", "netns", "delete", name])
            except CommandFailed:
                pass  # another lab was quicker


class Network:
    """One namespace; made by `create`, gone with `remove`."""

    _count = 0

    def __init__(self):
        Network._count += 1
        self.namespace = f"{PREFIX}{os.getpid()}-{Network._count}"
        self._taps = 0
        self._hosts = []
        self._made = False

    def create(self):
        remove_leftovers()
        run(["ip", "netns", "add", self.namespace])
        self._made = True
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        # LLDP frames pass too: a bridge drops them unless told otherwise.
        self.run(["sh", "-c", f"echo 0x4000 >/sys/class/net/{BRIDGE}/bridge/group_fwd_mask"])
        self.ip("address", "add", f"{ADDRESS}/{PREFIX_LENGTH}", "dev", BRIDGE)
        self.ip("link", "set", BRIDGE, "up")

    def remove(self):
        if self._made:
            for namespace in [*self._hosts, self.namespace]:
                run(["ip", "netns", "delete", namespace])
            self._hosts = []
            self._made = False

    def run(self, argv, **options):
        return run(argv, namespace=self.namespace, **options)

    def ip(self, *arguments):
        return self.run(["ip", *arguments])

    def add_tap(self):
        tap = f"tap{self._taps}"
        self._taps += 1
        self.ip("tuntap", "add", tap, "mode", "tap")
        self.ip("link", "set", tap, "master", BRIDGE, "up")
        return tap

    def add_host(self, address):
        """Another computer on the bridge; returns the namespace to run its programs in."""
        number = len(self._hosts)
        host = f"{self.namespace}-host{number}"
        run(["ip", "netns", "add", host])
        self._hosts.append(host)
        self.ip("link", "add", f"host{number}", "type", "veth", "peer", "name", "eth0", "netns", host)
        self.ip("link", "set", f"host{number}", "master", BRIDGE, "up")
        run(["ip", "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", "eth0"], namespace=host)
        run(["ip", "link", "set", "eth0", "up"], namespace=host)
        return host

    def limit_rate(self, tap, mbit):
        """Packets to the machine behind `tap` come at this rate at most; None: as they like."""
        if mbit is None:
            self.run(["tc", "qdisc", "delete", "dev", tap, "root"])
        else:
            limit = ["tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "200ms"]
            self.run(["tc", "qdisc", "replace", "dev", tap, "root", *limit])

    def find_addresses(self, mac):
        """IPv4 addresses that answer to this MAC just now."""
        self.run(["/usr/bin/python3", "-c", PROBE])
        neighbours = json.loads(self.ip("-j", "-4", "neighbour", "show", "dev", BRIDGE) or "[]")
        return [n["dst"] for n in neighbours if n.get("lladdr", "").lower() == mac.lower()]
