"""How long erasing takes, beside what metal-hammer calls for it, and whether the old data can still be read afterwards.

All in one machine, one after the other, each on a fresh disk of its own with the same old data on it. What is left of
that is looked for from outside, in the disk's image, after the machine went off. Ours is `drophammer erase`, which
reads back a part of what it erased before it says that it is done.
"""

from dataclasses import dataclass
from pathlib import Path

from . import disks, rival
from .machine import MachineOptions
from .measured import row
from .paths import DIST

SIZE_MIB = 1024
OVERWRITTEN_MIB = 250
"""What is written in pieces of 10 kB, as upstream does, takes minutes for more. Of a disk that is no multiple of 10 kB
its dd leaves the end; this one is."""
RIVAL = "upstream's tools"
TOOLS = "/sbin/mke2fs /sbin/mkfs.ext4\n/sbin/wipefs\n/usr/sbin/nvme\n"

# metal-hammer's for everything but NVMe: dd is its second choice, and never reached, as mkfs succeeds on every disk.
MKFS = "/usr/sbin/mkfs.ext4 -F -E discard {device} && dd if=/dev/zero of={device} bs=1M count=1 && sync"
DD = "dd if=/dev/zero of={device} bs=10240 count=$(({bytes} / 10240)) && sync"


@dataclass(frozen=True)
class Case:
    name: str
    key: str
    make: object
    """The disk, by name, path and size."""
    level: str
    tools: str
    """Of the rival; `{device}` is the disk, `{bytes}` its size."""
    size_mib: int = SIZE_MIB


def _plain(name, path, size_mib):
    """As a hard disk: it knows neither discard nor a command for zeros."""
    return disks.virtio(name, path, size_mib, ",discard=off,write-zeroes=off")


def _nvme(name, path, size_mib):
    disk = disks.namespace(name, path, name, 1, size_mib)
    disk.device = disks.nvme_controller(name) + disk.device
    return disk


CASES = [
    Case("virtio: quick; wipefs", "quick", disks.virtio, "quick", "/usr/sbin/wipefs --all {device} && sync"),
    Case("virtio: clear; mkfs with discard", "virtio", disks.virtio, "clear", MKFS),
    Case("NVMe: clear; nvme format", "nvme", _nvme, "clear", "/usr/sbin/nvme format --force --ses=1 {device}"),
    Case("no discard: clear; mkfs with discard", "plain", _plain, "clear", MKFS),
    Case("no discard: clear; dd", "overwrite", _plain, "clear", DD, OVERWRITTEN_MIB),
]

# A disk's name is its serial number; devices are numbered anew at every boot.
FIND = """
find_disk() {
    for block in /sys/block/*; do
        for file in $block/serial $block/device/serial; do
            if [ "$(cat $file 2>/dev/null | tr -d ' ')" = "$1" ]; then
                echo /dev/${block##*/}
                return
            fi
        done
    done
    echo "RIVAL: no disk $1"
}
"""


def measure(rack, _options, _image):
    directory = Path(rack.directory)
    pairs = []
    script = FIND
    for case in CASES:
        pair = [make(case, who, directory) for who in ("ours", "tools")]
        pairs.append(pair)
        ours, theirs = (disk.name for disk in pair)
        words = case.tools.format(device=f"$(find_disk {theirs})", bytes=case.size_mib << 20)
        erase = f"/bin/drophammer erase --level {case.level} --confirm {ours} -- $(find_disk {ours})"
        script += f"step {theirs} \"{words}\"\nstep {ours} \"{erase}\"\n"
    extra = []
    for disk in (disk for pair in pairs for disk in pair):
        disk.mark()
        extra += disk.arguments()
    options = MachineOptions(disk_gib=1, extra=extra)
    seconds = rival.run_steps(rack, options, TOOLS, script, [DIST / "drophammer"])
    return [measured(case, *pair, seconds) for case, pair in zip(CASES, pairs)]


def make(case, who, directory):
    name = f"{case.key}-{who}"
    return case.make(name, directory / f"{name}.img", case.size_mib)


def measured(case, ours, theirs, seconds):
    """Without a ratio where only one of the two has erased: they did not do the same."""
    left, rival_left = ours.old_bytes(), theirs.old_bytes()
    made = row(f"{case.name}, {case.size_mib} MiB", seconds[ours.name], "s", None, seconds[theirs.name])
    if (left == 0) != (rival_left == 0):
        made["ratio"] = None
    shown = {"old_data": _found(left), "rival_old_data": _found(rival_left)}
    return {**made, "old_data_bytes": left, "rival_old_data_bytes": rival_left, **shown}


def _found(count):
    return f"{count / 1e3:.0f} kB" if count else "no"
