"""The steps that most tests take."""

import json
import os
import re

import pytest
from rack import commands, layout, network, pcap

at_length = pytest.mark.skipif(
    not os.environ.get("DROPHAMMER_AT_LENGTH"), reason="takes minutes: DROPHAMMER_AT_LENGTH=1 runs it"
)

IMAGE = "busybox-1.0"
SYSTEM_UP = r"LAB-OS: up hostname=(\S+) root=(\S+)"


def power_on_and_wait(rack, machine):
    """The agent is up, and waits for work."""
    machine.power_on()
    return rack.wait_for_event(machine, "Waiting")


def install_busybox(rack, machine, image, hostname="web-1"):
    """From power-on to the installed system's own line on the console."""
    rack.start_anvil()
    rack.add_image(IMAGE, image)
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    rack.allocate(machine, IMAGE, layout_id, hostname)
    # An installation that fails is told at once; the console would be waited for in vain.
    rack.wait_for_event(machine, "Booting New Kernel", timeout=900)
    return wait_for_system(machine, hostname)


def wait_for_system(machine, hostname, after=0):
    line = machine.wait_for_line(SYSTEM_UP, timeout=900, after=after)
    name = re.search(SYSTEM_UP, line.text)[1]
    assert name == hostname
    return line


def wait_for_progress(rack, machine, at_least=1 << 20):
    """The image is being written, and this many bytes of it have been."""

    def look():
        progress = rack.provisioning(machine).get("progress") or {}
        return progress.get("step") == "image" and progress.get("done", 0) >= at_least

    rack.wait_until(f"{at_least} bytes of the image", look, timeout=300, machine=machine)


def read_installed(machine, path):
    """A file of the installed root, read from the disk on this side. The machine must be off."""
    table = json.loads(commands.run(["sfdisk", "--json", machine.disk]))["partitiontable"]
    root = next(p for p in table["partitions"] if p.get("name") == "root")
    device = f"{machine.disk}?offset={root['start'] * table.get('sectorsize', 512)}"
    return commands.run(["debugfs", "-R", f"cat {path}", device])


def event_names(rack, machine):
    return [event["event"] for event in rack.events(machine)]


def assert_in_order(names, wanted):
    """Each of `wanted` comes, in this order; others may be between."""
    rest = iter(names)
    missing = [name for name in wanted if name not in rest]
    assert not missing, f"{missing} missing or too early in {names}"


def check_layout_is_plain(machine):
    """What the layout "plain" promises is on the disk: names, types and order of the partitions. A machine that boots by
    BIOS has one more, which the agent adds in the gap before the first."""
    table = json.loads(commands.run(["sfdisk", "--json", machine.disk]))["partitiontable"]
    names = [p.get("name") for p in table["partitions"]]
    assert table["label"] == "gpt"
    assert names == ["efi", "root"] + (["bios"] if machine.options.firmware == "bios" else [])
    assert table["partitions"][0]["size"] * 512 == layout.EFI_MIB << 20
    commands.run(["sgdisk", "--verify", machine.disk])


BROADCAST = "10.77.0.255"


def check_traffic(machine):
    """What was captured since the last power-on went to configured addresses only, and names were asked of the
    configured server only. The machine must be off."""
    check_packets(pcap.read(machine.pcap))


def check_packets(packets):
    """Of a machine that was installed: as `check_traffic` says."""
    own = {packet.source for packet in packets if packet.source in leases()}
    assert own, "the machine had no address"
    transfers = [p for p in packets if p.source == network.ADDRESS and p.protocol == pcap.TCP]
    assert len(transfers) > 1000, f"the capture holds no installation: {len(packets)} packets"
    strangers = pcap.strangers(packets, {network.ADDRESS, BROADCAST, *own})
    assert not strangers, "\n".join(sorted({str(packet) for packet in strangers}))
    assert pcap.dns_servers(packets) <= {network.ADDRESS}


def leases():
    """Addresses that DHCP gives to machines."""
    first, last = (int(address.rsplit(".", 1)[1]) for address in network.DHCP_RANGE)
    prefix = network.ADDRESS.rsplit(".", 1)[0]
    return {f"{prefix}.{n}" for n in range(first, last + 1)}
