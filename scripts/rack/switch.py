#!/usr/bin/python3
"""A switch between one machine and the rack's bridge that loses, delays, reorders and repeats frames, as it is told.

QEMU sends each frame as a datagram to a Unix socket (`-netdev dgram`); the other side is a tap on the bridge. The
kernel's own means (netem) are not in every host's kernel. What happens to a frame is drawn from a generator with a fixed
seed.
"""

import argparse
import fcntl
import heapq
import json
import os
import random
import selectors
import socket
import struct
import time
from dataclasses import asdict, dataclass
from itertools import count

from . import commands

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 2, 0x1000
LARGEST_FRAME = 65536
ETHERNET_HEADER = 14


@dataclass(frozen=True)
class Faults:
    """Of both directions. Shares are between 0 and 1."""

    loss: float = 0
    delay_ms: float = 0
    reorder: float = 0
    """Share of the frames that come this much later than those after them."""
    reorder_ms: float = 20
    duplicate: float = 0
    mtu: int | None = None
    """What is longer vanishes without a word: a black hole."""
    drop_udp_port: int | None = None
    """What goes to or comes from this port vanishes."""


class Switch:
    """Beside a rack; its machine is made with `MachineOptions(switch=…)`."""

    def __init__(self, network, tap, sockets, name, log):
        self.machine_path = sockets / f"{name}.frames"
        """Where QEMU receives."""
        self.path = sockets / f"{name}.switch"
        """Where QEMU sends."""
        self._control = sockets / f"{name}.faults"
        words = ["--tap", tap, "--own", self.path, "--machine", self.machine_path, "--control", self._control]
        self._process = commands.start_module("switch", words, log, network.namespace, ready=self._control)

    def set(self, faults):
        """From now on; frames on their way keep their time."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(json.dumps(asdict(faults)).encode(), str(self._control))

    def close(self):
        commands.stop(self._process)


class Line:
    """One direction: frames that wait for their time."""

    def __init__(self, seed, send):
        self._random = random.Random(seed)
        self._send = send
        self._waiting = []
        self._number = count()

    def take(self, frame, faults, now):
        if self._random.random() < faults.loss or is_swallowed(frame, faults):
            return
        copies = 2 if self._random.random() < faults.duplicate else 1
        for _ in range(copies):
            delay_ms = faults.delay_ms
            if self._random.random() < faults.reorder:
                delay_ms += faults.reorder_ms
            heapq.heappush(self._waiting, (now + delay_ms / 1000, next(self._number), frame))

    def send_due(self, now):
        while self._waiting and self._waiting[0][0] <= now:
            self._send(heapq.heappop(self._waiting)[2])

    def due(self):
        """When the next frame goes, or None."""
        return self._waiting[0][0] if self._waiting else None


def is_swallowed(frame, faults):
    if faults.mtu is not None and len(frame) > faults.mtu + ETHERNET_HEADER:
        return True
    return faults.drop_udp_port is not None and faults.drop_udp_port in udp_ports(frame)


def udp_ports(frame):
    """Of a UDP packet on IPv4 without options before it; empty for all others."""
    if frame[12:14] != b"\x08\x00" or len(frame) < 42 or frame[23] != 17:
        return ()
    start = ETHERNET_HEADER + (frame[14] & 15) * 4
    return struct.unpack_from("!HH", frame, start) if len(frame) >= start + 4 else ()


def open_tap(name):
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def main():
    parser = argparse.ArgumentParser(description="forwards frames between a tap and QEMU, with faults")
    parser.add_argument("--tap", required=True)
    parser.add_argument("--own", required=True, help="Unix socket that QEMU sends to")
    parser.add_argument("--machine", required=True, help="Unix socket that QEMU receives at")
    parser.add_argument("--control", required=True, help="Unix socket for the faults, as JSON")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tap = open_tap(args.tap)
    frames = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    frames.bind(args.own)
    frames.setblocking(False)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control.bind(args.control)
    forward(tap, frames, args.machine, control, args.seed)


def forward(tap, frames, machine, control, seed):
    def to_machine(frame):
        try:
            frames.sendto(frame, machine)
        except OSError:
            pass  # it is off, or its queue is full: a switch drops then

    def to_bridge(frame):
        try:
            os.write(tap, frame)
        except OSError:
            pass

    faults = Faults()
    down, up = Line(seed, to_machine), Line(seed + 1, to_bridge)
    waiting = selectors.DefaultSelector()
    for source in (tap, frames, control):
        waiting.register(source, selectors.EVENT_READ)
    while True:
        dues = [due for due in (down.due(), up.due()) if due is not None]
        ready = waiting.select(max(min(dues) - time.monotonic(), 0) if dues else None)
        now = time.monotonic()
        for key, _ in ready:
            if key.fileobj is control:
                faults = Faults(**json.loads(control.recv(65536)))
            elif key.fileobj is frames:
                up.take(frames.recv(LARGEST_FRAME), faults, now)
            else:
                down.take(os.read(tap, LARGEST_FRAME), faults, now)
        down.send_due(now)
        up.send_due(now)


if __name__ == "__main__":
    main()
