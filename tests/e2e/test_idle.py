"""An installed system that is left alone speaks to nobody who was not configured, whatever its image brings."""

import collections
import re
import time

from rack import Direct, MachineOptions, commands, network, pcap

from debian_system import install_debian
from installation import at_length, check_packets

IDLE_SECONDS = 120

# Addresses for documentation: whatever is sent there was written here.
STRANGERS = {
    "etc/resolv.conf": "nameserver 192.0.2.53\n",
    "etc/systemd/network/99-dhcp.network": (
        "[Match]\nName=en* eth* lan*\n\n[Network]\nDHCP=yes\nDNS=192.0.2.53\nNTP=192.0.2.123\n"
    ),
    "etc/systemd/timesyncd.conf.d/50-site.conf": "[Time]\nNTP=192.0.2.124 time.example\n",
}
NETWORKD = "etc/systemd/system/multi-user.target.wants/systemd-networkd.service"


@at_length
def test_debian_left_alone_for_two_minutes_speaks_to_configured_addresses_only(rack, debian, tmp_path, capsys):
    # A way out that leads nowhere: whoever wants to leave is seen trying.
    rack.anvil.configure("dhcp", router=network.ADDRESS)
    image = with_strangers(debian, tmp_path)
    machine = install_debian(rack, image, MachineOptions(capture=True))
    stock = boot_stock_image(rack, image, tmp_path)

    before = len(pcap.read(machine.pcap))
    time.sleep(IDLE_SECONDS)
    server = rack.ssh(machine, "timedatectl show-timesync -p ServerAddress").strip()
    assert machine.is_on() and stock.is_on()
    machine.power_off()
    stock.power_off()

    packets = pcap.read(machine.pcap)
    with capsys.disabled():
        print(f"\ninstalled by us, {len(packets) - before} packets while idle:\n{conversations(packets[before:])}")
        print(f"the same image as it came:\n{conversations(pcap.read(stock.pcap))}\n{questions(stock)}")
    assert server == f"ServerAddress={network.ADDRESS}"
    check_packets(packets)
    # Else the rack would not show those who leave.
    assert "192.0.2." in conversations(pcap.read(stock.pcap)), "the image as it came asked nobody either"


def with_strangers(image, directory):
    """The image, with servers in it that nobody configured, and a network that is up without us."""
    overlay = directory / "overlay"
    for name, content in STRANGERS.items():
        path = overlay / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    link = overlay / NETWORKD
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/lib/systemd/system/systemd-networkd.service")
    tar = directory / "strangers.tar"
    commands.run(["zstd", "-q", "-d", image, "-o", tar])
    # Directories of the image keep their modes: only the one that it lacks is named.
    names = ["./etc/systemd/timesyncd.conf.d", *(f"./{name}" for name in [*STRANGERS, NETWORKD])]
    commands.run(["tar", "--append", "--no-recursion", "--owner=0", "--group=0", "-f", tar, "-C", overlay, *names])
    commands.run(["zstd", "-q", "-T0", "-1", "--rm", tar])
    return directory / "strangers.tar.zst"


def boot_stock_image(rack, image, directory):
    """Another machine with the image on its disk as it came, and nothing else done to it."""
    root = directory / "stock"
    root.mkdir()
    commands.run(["tar", "--zstd", "--extract", "--numeric-owner", "-f", image, "-C", root], timeout=600)
    kernel, initrd = next(root.glob("boot/vmlinuz-*")), next(root.glob("boot/initrd.img-*"))
    boot = Direct(kernel, initrd, "console=ttyS0,115200n8 root=/dev/vda rw")
    machine = rack.add_machine(MachineOptions(boot=boot, capture=True))
    commands.run(["mkfs.ext4", "-q", "-F", "-d", root, machine.disk], timeout=600)
    machine.power_on()
    # What agetty says before it asks for a name, which is no whole line.
    machine.wait_for_line(r"Debian GNU/Linux \d+ \S+ ttyS0", timeout=900)
    return machine


def conversations(packets):
    """Who was spoken to, the most first."""
    seen = collections.Counter((p.target, p.protocol, p.target_port) for p in packets if p.target is not None)
    return "\n".join(
        f"  {count:5} to {target} protocol {protocol} port {port}"
        for (target, protocol, port), count in seen.most_common()
    )


def questions(machine):
    """Names that were asked for."""
    lines = commands.run(["tcpdump", "-nn", "-r", machine.pcap, "udp", "dst", "port", "53"]).splitlines()
    names = sorted({name for line in lines for name in re.findall(r" (?:A|AAAA)\? (\S+)", line)})
    return f"  names asked for: {', '.join(names) or 'none'}"
