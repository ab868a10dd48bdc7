"""What one would use instead of the agent's image engine: `curl | zstd -d | tar -x`, in the same machine."""

import re
import stat
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from . import commands, initramfs, network
from .busybox_image import BUSYBOX, cpio
from .machine import DISK_DEVICES, Direct
from .paths import CACHE, DIST, ROOT
from .rack import INSTALL_TIMEOUT, REGISTER_TIMEOUT, Rack, Settings

PORT = 8099
TOOLS = "/bin/tar\n/usr/bin/curl\n/usr/bin/zstd\n/sbin/mke2fs /sbin/mkfs.ext4\n"

# Run by busybox's init; absolute paths, as its shell prefers its own applets.
PREAMBLE = """#!/bin/sh
/bin/busybox --install -s /bin/applets
export PATH=/usr/bin:/usr/sbin:/bin/applets
echo "RIVAL: up"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
"""
# virtio_rng: without a source of chance programs wait for minutes until the kernel has gathered some.
DRIVERS = "modprobe -a virtio_pci virtio_rng virtio_net virtio_blk virtio_scsi sd_mod nvme ahci ext4 2>/dev/null\n"

# The clock of /proc/uptime has hundredths.
SCRIPT = """{preamble}
[ -n "{url}" ] || exit
{drivers}
ip link set eth0 up
ip address add 10.77.0.98/24 dev eth0
/usr/sbin/mkfs.ext4 -q -F {device}
mkdir -p /mnt/os
mount -t ext4 {device} /mnt/os
read begun rest </proc/uptime
set -o pipefail
time -v /usr/bin/curl -sf --retry 5 --retry-connrefused {url} |
    time -v /usr/bin/zstd -dc |
    time -v /usr/bin/tar -x --xattrs --numeric-owner -C /mnt/os && sync
status=$?
read ended rest </proc/uptime
echo "RIVAL: status $status from $begun to $ended files $(ls /mnt/os | wc -l)"
poweroff -f
"""


@dataclass
class Measured:
    initramfs_mb: float
    first_line_s: float
    """From power-on to the first line of its script."""
    image_s: float | None = None
    """From the first byte fetched to the last one on the disk."""
    installed_s: float | None = None
    """From power-on to the last byte on the disk."""
    peak_mib: float | None = None
    """Largest resident sets of the three programs together."""


def measure(options, image=None):
    """Boots it as the agent is booted, by PXE from an anvil of its own; without an image that is all."""
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        directory = Path(name)
        url = f"http://{network.ADDRESS}:{PORT}/{image.name}" if image else ""
        device = DISK_DEVICES[options.disk]
        script = SCRIPT.format(preamble=PREAMBLE, drivers=DRIVERS, device=device, url=url)
        initrd = make_initrd(directory, script)
        with Rack(Settings(DIST / "vmlinuz-cloud", initrd)) as rack:
            rack.start_anvil()
            if not image:
                return boot(rack, options, initrd)
            serve = [BUSYBOX, "httpd", "-f", "-p", str(PORT), "-h", image.parent]
            server = commands.start(serve, directory / "http.log", namespace=rack.network.namespace)
            try:
                return install(rack, options, initrd)
            finally:
                commands.stop(server)


def boot(rack, options, initrd):
    machine = rack.add_machine(options)
    machine.power_on()
    line = machine.wait_for_line(r"RIVAL: up", REGISTER_TIMEOUT)
    return Measured(initrd.stat().st_size / 1e6, line.at - machine.powered_on_at)


def install(rack, options, initrd):
    measured = boot(rack, options, initrd)
    machine = rack.machines[0]
    line = machine.wait_for_line(r"RIVAL: status", INSTALL_TIMEOUT)
    text = machine.console.text()
    status, begun, ended = re.search(r"status (\d+) from ([0-9.]+) to ([0-9.]+)", line.text).groups()
    if status != "0":
        raise commands.LabError(f"curl | zstd | tar failed:\n{machine.console.tail()}")
    resident = [int(kib) for kib in re.findall(r"Maximum resident set size \(kbytes\): (\d+)", text)]
    if len(resident) != 3:
        raise commands.LabError(f"three programs ran, {len(resident)} told their memory:\n{machine.console.tail()}")
    measured.image_s = float(ended) - float(begun)
    measured.installed_s = line.at - machine.powered_on_at
    measured.peak_mib = sum(resident) / 1024
    return measured


# `step NAME COMMAND...`: runs it, and tells how it ended and when.
STEP = """
step() {
    name=$1
    shift
    read begun rest </proc/uptime
    (eval "$*") >/tmp/output 2>&1
    status=$?
    read ended rest </proc/uptime
    [ $status = 0 ] || sed "s/^/RIVAL: $name: /" /tmp/output
    echo "RIVAL: step $name status $status from $begun to $ended"
}
mkdir -p /tmp
"""
STEP_LINE = re.compile(r"RIVAL: step (\S+) status (\d+) from ([0-9.]+) to ([0-9.]+)")


def run_steps(rack, options, tools, script, programs=()):
    """Boots a machine that runs `script`, which has `step`; returns the seconds of each step by its name."""
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        whole = PREAMBLE + DRIVERS + STEP + script + 'echo "RIVAL: all done"\npoweroff -f\n'
        initrd = make_initrd(Path(name), whole, tools, programs, level=3)
        boot = Direct(DIST / "vmlinuz-cloud", initrd, "console=ttyS0,115200n8")
        machine = rack.add_machine(replace(options, boot=boot))
        machine.power_on()
        machine.wait_for_line(r"RIVAL: all done", INSTALL_TIMEOUT)
        machine.power_off()
    seconds = {}
    for step, status, begun, ended in STEP_LINE.findall(machine.console.text()):
        if status != "0":
            raise commands.LabError(f"step {step} failed:\n{machine.console.tail()}")
        seconds[step] = float(ended) - float(begun)
    return seconds


def make_initrd(directory, script, tools=TOOLS, programs=(), level=19):
    """Tools and drivers as mkinitramfs packs them, with busybox's init in the agent's place. `programs`: static ones,
    packed as they are."""
    (directory / "tools.list").write_text(tools)
    (directory / "files.list").write_text("")
    (directory / "drivers.list").write_text((ROOT / "initramfs/drivers.list").read_text())
    packed = initramfs.build(directory / "packed", BUSYBOX, directory, CACHE / "kernel-cloud")
    extra = [
        ("bin", stat.S_IFDIR | 0o755, b""),
        ("etc", stat.S_IFDIR | 0o755, b""),
        ("bin/applets", stat.S_IFDIR | 0o755, b""),
        ("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes()),
        ("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
        ("etc/inittab", stat.S_IFREG | 0o644, b"::sysinit:/etc/rcS\n"),
        ("etc/rcS", stat.S_IFREG | 0o755, script.encode()),
        *((f"bin/{program.name}", stat.S_IFREG | 0o755, program.read_bytes()) for program in programs),
    ]
    initrd = directory / "initrd"
    # The kernel unpacks one archive after the other; each begins at a multiple of four bytes.
    zstd = ["zstd", f"-{level}", "-q", "-c"]
    compressed = subprocess.run(zstd, input=cpio(extra), stdout=subprocess.PIPE, check=True).stdout
    initrd.write_bytes(compressed + b"\0" * (-len(compressed) % 4) + packed.read_bytes())
    return initrd
