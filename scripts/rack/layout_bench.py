"""How long the layout of a disk takes, beside the tools that metal-hammer calls for it, on the same kind of machine.

Ours is the agent's, as it tells at an installation: with reading back what it wrote. The rival's steps are those of the
same layout, on an empty disk of the same size.
"""

import re
from dataclasses import replace

from . import layout, rival
from .commands import LabError
from .lab import IMAGE_ID
from .measured import row
from .rack import INSTALL_TIMEOUT

RIVAL = "upstream's tools"
TOOLS = "/sbin/mke2fs /sbin/mkfs.ext4\n/sbin/mkfs.fat /sbin/mkfs.vfat\n/sbin/wipefs\n/sbin/sgdisk\n/sbin/blockdev\n"
DISK_GIB = 2

# `drophammer: disks made in 1.23 s; writing 3 partitions to /dev/vda: 0.12 s; making vfat on /dev/vda1: 0.05 s`
DISKS_MADE = re.compile(r"drophammer: disks made in ([0-9.]+) s; (.*)")
STEP_TIME = re.compile(r"(\S.*?): ([0-9.]+) s(?:; |$)")

# As metal-hammer calls them. The third partition is the one that our agent adds on a machine booted by BIOS.
SCRIPT = """
step wipefs /usr/sbin/wipefs --all {disk}
step sgdisk /usr/sbin/sgdisk --zap-all \\
    --new=1:0:+{efi}M --change-name=1:efi --typecode=1:ef00 \\
    --new=2:0:+0M --change-name=2:root --typecode=2:8300 \\
    --set-alignment=1 --new=3:34:2047 --change-name=3:bios --typecode=3:ef02 {disk}
step reread '/usr/sbin/blockdev --rereadpt {disk} && [ -b {first} ] && [ -b {second} ]'
step vfat /usr/sbin/mkfs.vfat -n efi {first}
step ext4 /usr/sbin/mkfs.ext4 -F -L root {second}
"""


def measure(rack, options, image):
    options = replace(options, disk_gib=DISK_GIB)
    efi, root = (entry["device"] for entry in layout.named("plain", options.disk)["filesystems"])
    disk = layout.named("plain", options.disk)["disks"][0]["device"]
    script = SCRIPT.format(disk=disk, efi=layout.EFI_MIB, first=efi, second=root)
    theirs = rival.run_steps(rack, options, TOOLS, script)
    total, ours = by_the_agent(rack, options, image)
    table = sum(theirs[step] for step in ("wipefs", "sgdisk", "reread"))
    return [
        row("partition table: ours; wipefs, sgdisk, rereadpt", find(ours, "partitions to"), "s", None, table),
        row("vfat of 200 MiB: mkfs.vfat, checked; mkfs.vfat", find(ours, "making vfat"), "s", None, theirs["vfat"]),
        row("ext4 on the rest: mkfs.ext4, checked; mkfs.ext4", find(ours, "making ext4"), "s", None, theirs["ext4"]),
        row("whole layout", total, "s", None, sum(theirs.values())),
    ]


def by_the_agent(rack, options, image):
    """Seconds that all took, and each step by its line on the console."""
    machine = rack.add_machine(options)
    rack.add_image(IMAGE_ID, image)
    layout_id = rack.add_layout(options.disk)
    machine.power_on()
    rack.wait_for_event(machine, "Waiting")
    rack.allocate(machine, IMAGE_ID, layout_id, "bench")
    line = machine.wait_for_line(DISKS_MADE.pattern, INSTALL_TIMEOUT)
    machine.power_off()
    total, steps = DISKS_MADE.search(line.text).groups()
    return float(total), {step: float(seconds) for step, seconds in STEP_TIME.findall(steps)}


def find(steps, words):
    found = [seconds for step, seconds in steps.items() if words in step]
    if not found:
        raise LabError(f"the agent told of no step with {words!r}: {steps}")
    return sum(found)
