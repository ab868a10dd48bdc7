"""What one would use instead of the agent's image engine: `curl | zstd -d | tar -x`, in the same machine."""

import re
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

from . import commands, network
from .busybox_image import BUSYBOX, cpio
from .commands import run
from .machine import DISK_DEVICES, Direct
from .paths import CACHE, ROOT

PORT = 8099
TOOLS = "/bin/tar\n/usr/bin/curl\n/usr/bin/zstd\n/sbin/mke2fs /sbin/mkfs.ext4\n"

# Run by busybox's init; absolute paths, as its shell prefers its own applets. The clock of /proc/uptime has hundredths.
SCRIPT = """#!/bin/sh
/bin/busybox --install -s /bin/applets
export PATH=/usr/bin:/usr/sbin:/bin/applets
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_net virtio_blk virtio_scsi sd_mod nvme ahci ext4 2>/dev/null
ip link set eth0 up
ip address add 10.77.0.98/24 dev eth0
/usr/sbin/mkfs.ext4 -q -F {device}
mkdir -p /mnt/os
mount -t ext4 {device} /mnt/os
read begun rest </proc/uptime
set -o pipefail
/usr/bin/curl -sf --retry 5 --retry-connrefused {url} |
    /usr/bin/zstd -dc |
    /usr/bin/tar -x --xattrs --numeric-owner -C /mnt/os && sync
status=$?
read ended rest </proc/uptime
echo "RIVAL: status $status from $begun to $ended files $(ls /mnt/os | wc -l)"
poweroff -f
"""


def measure(rack, options, image):
    """Seconds from the first byte fetched to the last one on the disk."""
    directory = rack.directory / "rival"
    directory.mkdir()
    url = f"http://{network.ADDRESS}:{PORT}/{image.name}"
    initrd = make_initrd(directory, SCRIPT.format(device=DISK_DEVICES[options.disk], url=url))
    serve = [BUSYBOX, "httpd", "-f", "-p", str(PORT), "-h", image.parent]
    server = commands.start(serve, directory / "http.log", namespace=rack.network.namespace)
    try:
        direct = Direct(CACHE / "kernel-cloud/vmlinuz", initrd, "console=ttyS0,115200n8 net.ifnames=0 quiet")
        machine = rack.add_machine(replace(options, boot=direct))
        machine.power_on()
        line = machine.wait_for_line(r"RIVAL: status", 900)
        machine.power_off()
    finally:
        commands.stop(server)
    status, begun, ended = re.search(r"status (\d+) from ([0-9.]+) to ([0-9.]+)", line.text).groups()
    if status != "0":
        raise commands.LabError(f"curl | zstd | tar failed:\n{machine.console.tail()}")
    return float(ended) - float(begun)


def make_initrd(directory, script):
    """Tools and drivers as mkinitramfs packs them, with busybox's init in the agent's place."""
    (directory / "tools.list").write_text(TOOLS)
    (directory / "files.list").write_text("")
    (directory / "drivers.list").write_text((ROOT / "initramfs/drivers.list").read_text())
    packed = directory / "packed"
    words = ["--agent", BUSYBOX, "--kernel-dir", CACHE / "kernel-cloud", "--lists", directory, "--compress", "none"]
    run([mkinitramfs(), *words, "--output", packed])
    extra = [
        ("bin/applets", stat.S_IFDIR | 0o755, b""),
        ("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes()),
        ("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
        ("etc/inittab", stat.S_IFREG | 0o644, b"::sysinit:/etc/rcS\n"),
        ("etc/rcS", stat.S_IFREG | 0o755, script.encode()),
    ]
    initrd = directory / "initrd"
    initrd.write_bytes(packed.read_bytes() + cpio(extra))  # the kernel unpacks one archive after the other
    return initrd


def mkinitramfs():
    """Where cargo put it when scripts/build built it."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Path(re.search(r'"target_directory":"([^"]+)"', answer)[1]) / "debug/mkinitramfs"
