"""scripts/prove-offline: who spoke to whom during a whole installation, and where each address was configured.

The rack's router answers for every address there is (catch_all), so that nothing stays unseen because it failed.
"""

import argparse
import ipaddress
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from . import network, pcap, terminal
from .anvil import GRPC_PORT, HTTP_PORT, HTTPS_PORT, event_time
from .catch_all import CatchAll
from .commands import LabError
from .lab import IMAGE_ID, build
from .machine import FIRMWARES, MachineOptions
from .paths import SCRIPTS
from .rack import Rack, Settings

BROADCAST = "10.77.0.255"
CONFIGURED = {
    (network.ADDRESS, "udp", 67): "DHCP: the server that answered",
    ("255.255.255.255", "udp", 67): "DHCP: how it begins (RFC 2131)",
    (network.ADDRESS, "udp", 4011): "DHCP: boot server of the firmware (PXE)",
    (network.ADDRESS, "udp", 69): "DHCP: next server, option 66",
    (network.ADDRESS, "tcp", HTTP_PORT): "DHCP: option 67; boot script: kernel, initramfs, command line; API: image",
    (network.ADDRESS, "tcp", HTTPS_PORT): "command line: drophammer.config",
    (network.ADDRESS, "tcp", GRPC_PORT): "MetalConfig: address",
    (network.ADDRESS, "udp", 53): "DHCP: option 6; MetalConfig: dns_servers; allocation",
    (network.ADDRESS, "tcp", 53): "DHCP: option 6; MetalConfig: dns_servers; allocation",
    (network.ADDRESS, "udp", 123): "DHCP: option 42; MetalConfig: ntp_servers; allocation",
}
"""By address, protocol and port of a machine's peer."""
ASKED_OF_MACHINE = {
    ("tcp", 22): "this proof: its login",
    ("udp", 9): "this proof: its search for the machine's address",
}
"""What the rack's own address asks of a machine."""
PROTOCOLS = {1: "icmp", 2: "igmp", pcap.TCP: "tcp", pcap.UDP: "udp", pcap.ICMP6: "icmp6"}
LEAST_PACKETS = 1000
"""A capture with fewer holds no installation."""


@dataclass(frozen=True)
class Line:
    who: str
    destination: str
    protocol: str
    packets: int
    configured: str | None


@dataclass(frozen=True)
class Proof:
    lines: list
    control: Counter
    """Link-local control traffic, which nobody configures, by its kind."""

    def strangers(self):
        return [line for line in self.lines if line.configured is None]


class Flows:
    """Which end of a connection is the service: the one that the first packet was sent to."""

    def __init__(self, mac):
        self._mac = mac
        self._services = {}
        self._tftp = set()

    def line_of(self, packet):
        """(destination, protocol, where configured)."""
        protocol = _protocol_name(packet)
        sent = packet.sender == self._mac
        peer = packet.target if sent else packet.source
        if packet.target_port is None:
            where = "answer to a configured address" if self._is_icmp_of_rack(protocol, peer) else None
            return peer, protocol, where
        own, other = packet.source_port, packet.target_port
        if not sent:
            own, other = other, own
        if protocol == "udp" and (peer, own) in self._tftp:
            asks, port = True, 69  # the server answers from a port of its own (RFC 1350)
        else:
            asks, port = self._services.setdefault((protocol, peer, own, other), (sent, other if sent else own))
        if not asks:
            where = ASKED_OF_MACHINE.get((protocol, port)) if peer == network.ADDRESS else None
            return peer, f"{protocol}/{port}, asked of the machine", where
        if (protocol, port) == ("udp", 69):
            self._tftp.add((peer, own))
        return peer, f"{protocol}/{port}", CONFIGURED.get((peer, protocol, port))

    def _is_icmp_of_rack(self, protocol, peer):
        return protocol in ("icmp", "icmp6") and peer == network.ADDRESS


def analyse(packets, mac, who_at):
    """What a machine sent and received. `who_at` tells who ran on it at a time."""
    flows, lines, control = Flows(mac), Counter(), Counter()
    for packet in packets:
        if _is_others(packet, mac):
            continue
        if pcap.is_link_control(packet):
            control[_control_name(packet)] += 1
        else:
            lines[who_at(packet.at), *flows.line_of(packet)] += 1
    return Proof([Line(*key[:3], count, key[3]) for key, count in lines.items()], control)


def analyse_others(packets, macs):
    """What came to the router from anybody but the machines: anvil, that is. The router is nobody's destination."""
    lines = Counter()
    for packet in packets:
        if pcap.is_link_control(packet) or packet.sender in macs or not _is_foreign(packet):
            continue
        protocol = _protocol_name(packet)
        lines[packet.target, protocol if packet.target_port is None else f"{protocol}/{packet.target_port}"] += 1
    return [Line("anvil", destination, protocol, count, None) for (destination, protocol), count in lines.items()]


def _protocol_name(packet):
    return PROTOCOLS.get(packet.protocol, str(packet.protocol))


def _is_foreign(packet):
    """From the rack to somewhere else. The router's own answers are not."""
    net = ipaddress.ip_network(f"{network.ADDRESS}/{network.PREFIX_LENGTH}", strict=False)
    source, target = ipaddress.ip_address(packet.source), ipaddress.ip_address(packet.target)
    return source in net and target not in net and not target.is_multicast and str(target) != "255.255.255.255"


def _is_others(packet, mac):
    """Multicast and broadcast of others, which the machine only hears."""
    if packet.sender == mac:
        return False
    if packet.target is None:
        return True
    target = ipaddress.ip_address(packet.target)
    return target.is_multicast or packet.target in ("255.255.255.255", BROADCAST)


def _control_name(packet):
    names = {pcap.ARP: "ARP", pcap.LLDP: "LLDP"}
    if packet.source is None:
        return names.get(packet.ethertype, f"ethertype {packet.ethertype:#06x}")
    return "ND, MLD (ICMPv6 on the link)" if packet.ethertype == pcap.IPV6 else "IGMP"


def who_ran(rack, machine):
    """A function of a time, in seconds since 1970."""
    to_clock = time.time() - time.monotonic()
    first = machine.console.find(r"\] drophammer: ")
    handed_over = [e for e in rack.events(machine) if e["event"] == "Booting New Kernel"]
    agent_from = first.at + to_clock if first else float("inf")
    system_from = event_time(handed_over[-1]).timestamp() if handed_over else float("inf")

    def who_at(at):
        if at < agent_from:
            return "firmware, iPXE"
        return "agent" if at < system_from else "installed system"

    return who_at


def prove(rack, machine, install, idle_s=0):
    """`install` brings an operating system onto the machine, which must have `capture`; it may be idle for a while then.
    The rack's anvil must not have been started."""
    with CatchAll(rack) as catch_all:
        install()
        time.sleep(idle_s)
        who_at = who_ran(rack, machine)
        machine.power_off()
        packets = pcap.read(machine.pcap)
        if len(packets) < LEAST_PACKETS:
            raise LabError(f"the capture of {machine.name} holds no installation: {len(packets)} packets")
        proof = analyse(packets, machine.mac, who_at)
        others = analyse_others(catch_all.packets(), {machine.mac})
        by_weight = sorted(proof.lines + others, key=lambda line: (line.configured is not None, line.who))
        return Proof(by_weight, proof.control)


def table(proof):
    rows = [(ln.who, ln.destination, ln.protocol, ln.packets, ln.configured or "NOWHERE") for ln in proof.lines]
    told = terminal.table(rows, ("who", "destination", "protocol", "packets", "configured where"))
    control = ", ".join(f"{name}: {count}" for name, count in sorted(proof.control.items()))
    return f"{told}\n\nlink-local control traffic, which nobody configures: {control or 'none'}"


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/prove-offline",
        description="Installs a machine in a rack whose router answers for every address there is, records every "
        "packet, and tells where each address that was spoken to was configured. Ends with 1 if one was nowhere. "
        "Needs root.",
    )
    parser.add_argument("--firmware", choices=[*FIRMWARES, "both"], default="both")
    parser.add_argument("--image", choices=["debian", "busybox"], default="debian", help="what is installed")
    idle = "how long the installed system is watched (default 120; 0 for busybox)"
    parser.add_argument("--idle", type=int, metavar="SECONDS", help=idle)
    parser.add_argument("--format", choices=["text", "json"], default="text")
    args = parser.parse_args(argv)
    if args.idle is None:
        args.idle = 120 if args.image == "debian" else 0
    return args


def main(argv=None):
    args = parse_arguments(argv)
    screen = terminal.Terminal()
    if os.geteuid() != 0:
        screen.line("error: network namespaces and taps need root: run it with sudo")
        return 2
    firmwares = FIRMWARES if args.firmware == "both" else [args.firmware]
    try:
        build(screen, str(SCRIPTS / "build"))
        name = "debian-12" if args.image == "debian" else "busybox"
        image = Path(build(screen, str(SCRIPTS / "image"), name))
        proofs = {firmware: _prove_one(firmware, args, image, screen) for firmware in firmwares}
    except LabError as error:
        screen.line(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        screen.line("stopped; everything is cleaned up")
        return 130
    _report(proofs, args.format)
    return 1 if any(proof.strangers() for proof in proofs.values()) else 0


def _prove_one(firmware, args, image, screen):
    with screen.step(f"{firmware}: {args.image} is installed, and watched for {args.idle} s"):
        with Rack(Settings()) as rack:
            machine = rack.add_machine(MachineOptions(firmware=firmware, capture=True))
            return prove(rack, machine, lambda: _install(rack, machine, image, args.image), args.idle)


def _install(rack, machine, image, kind):
    rack.start_anvil()
    rack.add_image(IMAGE_ID, image)
    layout_id = rack.add_layout(machine.options.disk)
    machine.power_on()
    rack.wait_for_event(machine, "Waiting")
    rack.allocate(machine, IMAGE_ID, layout_id, "web-1")
    rack.wait_for_event(machine, "Booting New Kernel", timeout=1800)
    if kind == "debian":
        rack.wait_for_ssh(machine)
    else:
        machine.wait_for_line("LAB-OS: up", timeout=900)


def _report(proofs, form):
    if form == "json":
        told = {
            name: {"lines": [vars(line) for line in proof.lines], "control": proof.control}
            for name, proof in proofs.items()
        }
        print(json.dumps(told, indent=2))
        return
    for name, proof in proofs.items():
        print(f"\n{name}\n{table(proof)}")
    strangers = sum(len(proof.strangers()) for proof in proofs.values())
    print(f"\n{strangers} lines are configured nowhere" if strangers else "\nevery destination was configured")


if __name__ == "__main__":
    sys.exit(main())
