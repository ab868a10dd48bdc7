"""scripts/bench: what the promises cost, measured.

boot       sizes of what is shipped; from power-on to a machine that waits for work
install    from power-on to a login; the image's bytes a second; memory
erase      disks of several sorts, beside wipefs, mkfs.ext4 with discard, dd and nvme format, as metal-hammer calls them,
           and whether the old data can still be read after each
layout     partitions and file systems of one disk, beside wipefs, sgdisk, mkfs.vfat and mkfs.ext4
inventory  what is in a big server (a tree of its files), beside lscpu and lsblk
image      the image engine alone, natively: three trees in four compressions, beside curl, the decompressor and GNU tar
           or bsdtar, and beside each part alone. Makes 15 GB of inputs in .cache/bench once, which takes half an hour

The rival of the first two, on the same kind of machine, for the same image, booted by PXE too: busybox that runs
`curl | zstd -d | tar -x`. The ratio says how many times better ours is; below 1 the rival is. There is none where only
one of the two has erased.
"""

import argparse
import json
import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path

from . import erase_bench, image_bench, image_profile, inventory_bench, layout_bench, rival, terminal, timeline
from .commands import LabError
from .lab import IMAGE_ID, build
from .machine import DISK_DEVICES, FIRMWARES, MachineOptions, accelerator
from .measured import row
from .paths import DIST, SCRIPTS
from .rack import INSTALL_TIMEOUT, Rack

# `drophammer: … peak memory 41 MiB`, at the hand-over.
PEAK_MEMORY = re.compile(r"drophammer: .*peak memory[: ]+([0-9.]+) (MiB|MB|kB)")
# `drophammer: image written: 103 MB as … in 12.3 s`
IMAGE_WRITTEN = re.compile(r"drophammer: image written: .* in ([0-9.]+) s")
TO_MIB = {"MiB": 1.0, "MB": 1e6 / (1 << 20), "kB": 1 / 1024}


def size_mb(name):
    return (DIST / name).stat().st_size / 1e6


def sizes(other):
    return [
        row("size of drophammer", size_mb("drophammer"), "MB", "≤ 12"),
        row("size of anvil", size_mb("anvil"), "MB"),
        row("size of the kernel", size_mb("vmlinuz"), "MB"),
        row("size of the initramfs", size_mb("initramfs.img"), "MB", "≤ 20"),
        row("size of kernel and initramfs", size_mb("vmlinuz") + size_mb("initramfs.img"), "MB", "≤ 32"),
        row("the small kernel's initramfs", size_mb("initramfs-cloud.img"), "MB", None, other.initramfs_mb),
    ]


def boot_times(rack, machine, other):
    """Boots the machine, and tells from its console and its events how long that took."""
    machine.power_on()
    first = machine.wait_for_line(timeline.AGENT_LINE, 300)
    started = time.time() - (time.monotonic() - machine.powered_on_at)
    rack.wait_for_event(machine, "Waiting")
    events = {e["event"]: datetime.fromisoformat(e["time"]).timestamp() - started for e in rack.events(machine)}
    to_first = first.at - machine.powered_on_at
    # The API has the machine when what comes after `Registering` begins: its erasing, or else its waiting.
    registered = registered_at(machine) or events["Waiting"]
    return [
        row("power-on to the first line", to_first, "s", None, other.first_line_s),
        row("first line to registered", registered - to_first, "s", "≤ 3"),
        row("power-on to registered", registered, "s"),
        row("power-on to waiting", events["Waiting"], "s"),
    ]


def registered_at(machine):
    """When the agent's console said that the phase `register` was over; None when it did not say."""
    line = machine.console.find(r"drophammer: phase register: (done|warned)")
    return line.at - machine.powered_on_at if line else None


def bench_boot(rack, options, _image):
    other = rival.measure(options)
    return sizes(other) + boot_times(rack, rack.add_machine(options), other)


def bench_install(rack, options, image):
    other = rival.measure(options, image)
    machine = rack.add_machine(options)
    rack.add_image(IMAGE_ID, image)
    layout_id = rack.add_layout(options.disk)
    rows = boot_times(rack, machine, other)
    allocated = time.monotonic()
    rack.allocate(machine, IMAGE_ID, layout_id, "bench")
    rack.wait_for_event(machine, "Installing")
    noticed = time.monotonic()
    rack.wait_for_event(machine, "Booting New Kernel", INSTALL_TIMEOUT)
    installed = time.monotonic()
    image_s = time_of_image(machine)
    rack.wait_for_ssh(machine)
    logged_in = time.monotonic()
    machine.power_off()
    image_mb = image.stat().st_size / 1e6
    on = machine.powered_on_at
    return rows + [
        row("allocated to noticed", noticed - allocated, "s"),
        row("noticed to installed", installed - noticed, "s"),
        row("power-on to installed", installed - on, "s", None, other.installed_s),
        row("installed to login", logged_in - installed, "s"),
        row("power-on to login", logged_in - on, "s"),
        row("size of the image", image_mb, "MB"),
        row("writing the image", image_s, "s", None, other.image_s),
        row("speed", image_mb / max(image_s, 0.1), "MB/s", None, image_mb / other.image_s, more_is_better=True),
        row("peak memory", peak_memory_mib(machine), "MiB", "≤ 64", other.peak_mib),
    ]


def time_of_image(machine):
    """Seconds from the image's first byte until all of it was on the disk and a sample read back, by the agent."""
    line = machine.console.find(IMAGE_WRITTEN.pattern)
    if line is None:
        raise LabError("the agent did not say how long the image took")
    return float(IMAGE_WRITTEN.search(line.text)[1])


def peak_memory_mib(machine):
    """As the agent says on the console; None when it does not."""
    line = machine.console.find(PEAK_MEMORY.pattern)
    match = PEAK_MEMORY.search(line.text) if line else None
    return round(float(match[1]) * TO_MIB[match[2]], 1) if match else None


# Those that take a rack with a machine.
BENCHES = {"boot": bench_boot, "install": bench_install, "erase": erase_bench.measure, "layout": layout_bench.measure}
# Those without.
PLAIN = {"inventory": lambda _args, screen: inventory_bench.measure(screen), "image": image_bench.measure}
NEED_ROOT = {*BENCHES, "image"}
IMAGES = {"install": "debian-12", "layout": "busybox"}
"""What those install that install something."""
RIVALS = {"inventory": inventory_bench.RIVAL, "erase": erase_bench.RIVAL, "layout": layout_bench.RIVAL}
COLUMNS = {"name": "measured", "value": "ours", "unit": "unit", "aim": "aim", "rival": None, "ratio": "ratio"}
ERASE_COLUMNS = {
    "name": "measured",
    "value": "ours",
    "old_data": "old data found",
    "rival": None,
    "rival_old_data": "old data found",
    "unit": "unit",
    "ratio": "ratio",
}


def main(argv=None):
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, formatter_class=keep_lines)
    parser.add_argument("name", choices=sorted([*BENCHES, *PLAIN]))
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--firmware", choices=FIRMWARES, default="bios")
    parser.add_argument("--disk", choices=sorted(DISK_DEVICES), default="virtio")
    image_bench.add_arguments(parser)
    args = parser.parse_args(argv)
    screen = terminal.Terminal()
    if args.name in NEED_ROOT and os.geteuid() != 0:
        screen.line("error: network namespaces, taps and file systems need root: run it with sudo")
        return 1
    try:
        rows = measure(args, screen)
    except LabError as error:
        screen.line(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if args.format == "json":
        print(json.dumps(document(args, rows), indent=2, ensure_ascii=False))
    elif args.name == "image":
        print_image(rows)
    else:
        columns = dict(ERASE_COLUMNS if args.name == "erase" else COLUMNS)
        columns["rival"] = RIVALS.get(args.name, "curl | zstd | tar")
        print_table(rows, columns)
    return 0


def document(args, rows):
    whole = {"bench": args.name, "rows": rows}
    if args.name in BENCHES:
        whole["accelerator"] = accelerator()
    if args.name == "image":
        whole.update(image_bench.conditions(args))
    return whole


def print_table(rows, columns):
    cells = [["-" if r.get(key) is None else r[key] for key in columns] for r in rows]
    print(terminal.table(cells, tuple(columns.values())))


def print_image(rows):
    print_table(rows, image_bench.COLUMNS)
    print()
    print_table([each for r in rows for each in r["each"]], image_bench.EACH_COLUMNS)
    print(image_bench.FOOT)
    for r in rows:
        if "profile" in r:
            print("\n".join(["", *image_profile.lines(r)]))


def measure(args, screen):
    if args.name in PLAIN:
        return PLAIN[args.name](args, screen)
    build(screen, str(SCRIPTS / "build"))
    name = IMAGES.get(args.name)
    image = Path(build(screen, str(SCRIPTS / "image"), name)) if name else None
    with Rack() as rack, screen.step(f"bench {args.name} ({accelerator()})"):
        rack.start_anvil()
        return BENCHES[args.name](rack, MachineOptions(firmware=args.firmware, disk=args.disk), image)


if __name__ == "__main__":
    sys.exit(main())
