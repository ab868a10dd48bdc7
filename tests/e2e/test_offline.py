"""Not one packet leaves for an address that nobody configured. (Debian's own traffic: test_debian.)

scripts/prove-offline is the same at length: both firmwares, a Debian that is watched for two minutes.
"""

import struct

from rack import MachineOptions, network, offline_proof, pcap

from conftest import UNCONFIGURED
from installation import install_busybox
from test_rack import ipv4, udp

MAC = "52:54:00:77:00:01"
MACHINE = "10.77.0.100"


def test_of_a_whole_installation_only_what_the_image_itself_sent_astray_was_configured_nowhere(rack, phoning_busybox):
    machine = rack.add_machine(MachineOptions(capture=True))
    proof = offline_proof.prove(rack, machine, lambda: install_busybox(rack, machine, phoning_busybox))
    told = offline_proof.table(proof)
    strangers = {(line.who, line.destination, line.protocol) for line in proof.strangers()}
    assert strangers == {("agent", UNCONFIGURED, "tcp/80")}, told
    spoken = {(line.who, line.protocol) for line in proof.lines if line.destination == network.ADDRESS}
    agent = {("agent", protocol) for protocol in ("udp/123", "tcp/4243", "tcp/4242", "tcp/50051")}
    assert agent | {("firmware, iPXE", "tcp/4242")} <= spoken, told
    assert {"ARP", "LLDP"} & set(proof.control), told


def captured(*frames):
    """As recorded at the machine: those from its address are its own."""
    made = []
    for frame in frames:
        source = pcap.parse(frame).source
        sender = bytes.fromhex(MAC.replace(":", "")) if source in (MACHINE, "0.0.0.0") else bytes(6)
        made.append(pcap.parse(frame[:6] + sender + frame[12:]))
    return made


def lines(*frames):
    proof = offline_proof.analyse(captured(*frames), MAC, lambda _at: "agent")
    return {(line.destination, line.protocol): line.configured for line in proof.lines}


def udp_between(source, source_port, target, target_port):
    return ipv4(source, target, pcap.UDP, struct.pack("!HHHH", source_port, target_port, 8, 0))


def test_an_address_is_configured_for_its_own_service_only():
    found = lines(udp(MACHINE, network.ADDRESS, 53), udp(MACHINE, network.ADDRESS, 54), udp(MACHINE, "192.0.2.8", 53))
    assert {key for key, where in found.items() if where is None} == {
        (network.ADDRESS, "udp/54"),
        ("192.0.2.8", "udp/53"),
    }


def test_who_asks_is_told_from_who_answers():
    there = udp_between(MACHINE, 40000, network.ADDRESS, 53)
    back = udp_between(network.ADDRESS, 53, MACHINE, 40000)
    assert list(lines(there, back)) == [(network.ADDRESS, "udp/53")]
    assert lines(udp_between("192.0.2.8", 1000, MACHINE, 22)) == {("192.0.2.8", "udp/22, asked of the machine"): None}


def test_a_file_by_tftp_comes_from_a_port_that_belongs_to_the_request():
    request = udp_between(MACHINE, 3000, network.ADDRESS, 69)
    data = udp_between(network.ADDRESS, 41234, MACHINE, 3000)
    assert list(lines(request, data)) == [(network.ADDRESS, "udp/69")]
    assert None in lines(data).values(), "without a request it belongs to nothing"


def test_what_anvil_sends_elsewhere_is_found_at_the_router():
    own = captured(udp(MACHINE, "192.0.2.8", 53), udp(network.ADDRESS, "192.0.2.9", 123), udp(network.ADDRESS, MACHINE, 9))
    found = offline_proof.analyse_others(own, {MAC})
    assert [(line.who, line.destination, line.protocol) for line in found] == [("anvil", "192.0.2.9", "udp/123")]
