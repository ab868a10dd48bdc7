"""The rack itself, and the instruments that the other tests trust."""

import struct
import subprocess

from rack import Direct, MachineOptions, Rack, Settings, network, pcap, timeline
from rack.commands import run
from rack.paths import CACHE


def ethernet(ethertype, payload):
    return bytes(12) + struct.pack("!H", ethertype) + payload


def ipv4(source, target, protocol, payload=b""):
    addresses = bytes(int(part) for address in (source, target) for part in address.split("."))
    return ethernet(pcap.IPV4, bytes([0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]) + addresses + payload)


def udp(source, target, port):
    return ipv4(source, target, pcap.UDP, struct.pack("!HHHH", 1234, port, 8, 0))


def test_a_packet_to_an_address_nobody_configured_is_found():
    packets = [pcap.parse(udp("10.77.0.100", target, 53)) for target in ("10.77.0.1", "192.0.2.8")]
    assert [p.target for p in pcap.strangers(packets, {"10.77.0.1", "10.77.0.100"})] == ["192.0.2.8"]
    assert pcap.dns_servers(packets) == {"10.77.0.1", "192.0.2.8"}


def test_link_local_control_is_no_stranger_but_other_multicast_is():
    control = [pcap.parse(ethernet(pcap.ARP, bytes(28))), pcap.parse(ipv4("0.0.0.0", "224.0.0.22", 2))]
    mdns = pcap.parse(udp("10.77.0.100", "224.0.0.251", 5353))
    assert pcap.strangers([*control, mdns], {"10.77.0.100"}) == [mdns]


def test_phases_are_read_from_the_console():
    text = "x\n[    3.210] drophammer: phase network: done, 1.2 s\n[    3.710] drophammer: phase clock: warned, 500 ms\n"
    rows = [(name, round(start, 2), took) for name, start, took in timeline.phases_on_console(text)]
    assert rows == [("network", 2.01, 1.2), ("clock", 3.21, 0.5)]


def test_nothing_is_left_of_a_rack_that_failed(busybox, tmp_path):
    kernel_dir = CACHE / "kernel-cloud"
    direct = Direct(kernel_dir / "vmlinuz", kernel_dir / "vmlinuz", "console=ttyS0 panic=0")
    seen = {}
    try:
        with Rack(Settings()) as rack:
            machine = rack.add_machine(MachineOptions(boot=direct, memory_mib=256, cpus=1))
            machine.power_on()
            seen.update(pid=machine._process.pid, namespace=rack.network.namespace, directory=rack.directory)
            raise ValueError("as tests do")
    except ValueError as error:
        assert (error.kept_logs / "machine-1.console").exists()
        subprocess.run(["rm", "-r", error.kept_logs], check=True)
    assert subprocess.run(["kill", "-0", str(seen["pid"])], stderr=subprocess.DEVNULL).returncode != 0
    assert seen["namespace"] not in run(["ip", "netns", "list"])
    assert not seen["directory"].exists()


def test_a_rack_has_no_way_out():
    with Rack(Settings()) as rack:
        assert rack.network.ip("route", "show", "default") == ""
        links = rack.network.ip("-o", "link", "show").splitlines()
        assert len(links) == 2, links  # lo and the bridge
        assert network.ADDRESS in rack.network.ip("address", "show", network.BRIDGE)
