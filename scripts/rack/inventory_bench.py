"""How long `drophammer inventory` takes on big servers, beside `lscpu` and `lsblk` on the same trees.

The trees are those of tests/inventory_big.rs, in memory. lscpu and lsblk find less, CPUs and disks only, but they are
what takes a root, so both read the same files.
"""

import json
import os
import tempfile
import time
from pathlib import Path

from .commands import LabError, run
from .lab import build
from .measured import row
from .paths import DIST, ROOT, SCRIPTS

RUNS = 5
RIVAL = "lscpu + lsblk"
# Folder of the tree, its name, CPUs, disks, and what the promise is.
TREES = [
    ("big", "2 × 64 cores, 24 disks, 8 GPUs, 16 NICs", 256, 24, "≤ 1"),
    ("ten-times", "ten times the cores and disks", 2560, 240, None),
]


def measure(screen):
    build(screen, str(SCRIPTS / "build"), "--only", "binaries")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        with screen.step("trees of big servers"):
            run(
                ["cargo", "test", "--locked", "--test", "inventory_big", "--", "--ignored"],
                timeout=1800,
                env={"BIG_TREE": folder, "CARGO_TERM_COLOR": "never"},
                cwd=ROOT,
            )
        with screen.step("bench inventory"):
            return [measure_tree(Path(folder) / tree, *rest) for tree, *rest in TREES]


def measure_tree(tree, name, cpus, disks, aim):
    ours = [DIST / "drophammer", "inventory", "--format", "json", "--root", tree]
    lscpu, lsblk = ["lscpu", "-J", "--sysroot", tree], ["lsblk", "-J", "-O", "--sysroot", tree]
    check(ours, cpus, disks, json.loads(run(ours)))
    check_rival(lscpu, lsblk, cpus, disks)
    our_s = fastest(ours)
    rival_s = fastest(lscpu) + fastest(lsblk)
    return row(name, our_s, "s", aim, rival_s)


def check(argv, cpus, disks, found):
    """A program that reads nothing is fast."""
    threads = sum(cpu["threads"] for cpu in found["cpus"])
    if (threads, len(found["disks"])) != (cpus, disks):
        raise LabError(f"{argv[0]} finds {threads} CPUs and {len(found['disks'])} disks, not {cpus} and {disks}")


def check_rival(lscpu, lsblk, cpus, disks):
    fields = {field["field"]: field["data"] for field in json.loads(run(lscpu))["lscpu"]}
    found = {"cpus": [{"threads": int(fields["CPU(s):"])}], "disks": json.loads(run(lsblk))["blockdevices"]}
    check([RIVAL], cpus, disks, found)


def fastest(argv):
    """Seconds of the fastest of some runs: what the program takes, without what else the machine does."""
    times = []
    for _ in range(RUNS):
        started = time.monotonic()
        run(argv)
        times.append(time.monotonic() - started)
    return min(times)
