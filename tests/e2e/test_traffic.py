"""Not one packet leaves for an address that nobody configured."""

from rack import MachineOptions, network, pcap

from installation import install_busybox

BROADCAST = "10.77.0.255"


def test_a_whole_installation_speaks_to_configured_addresses_only(rack, busybox):
    machine = rack.add_machine(MachineOptions(capture=True))
    install_busybox(rack, machine, busybox)
    own = leases(rack, machine)
    assert own, "the machine had no address"
    machine.power_off()
    packets = pcap.read(machine.pcap)
    transfers = [p for p in packets if p.source == network.ADDRESS and p.protocol == pcap.TCP]
    assert len(transfers) > 1000, f"the capture holds no installation: {len(packets)} packets"
    strangers = pcap.strangers(packets, {network.ADDRESS, BROADCAST, *own})
    assert not strangers, "\n".join(sorted({str(packet) for packet in strangers}))
    assert pcap.dns_servers(packets) <= {network.ADDRESS}


def leases(rack, machine):
    """Addresses that DHCP gave to the machine: sources of its packets within the configured range."""
    first, last = (int(address.rsplit(".", 1)[1]) for address in network.DHCP_RANGE)
    prefix = network.ADDRESS.rsplit(".", 1)[0]
    inside = {f"{prefix}.{n}" for n in range(first, last + 1)}
    return {p.source for p in pcap.read(machine.pcap) if p.source in inside}
