"""How long an image takes from an HTTP server to the disk, beside what one would use instead and its parts alone.

All on this machine and in this run, in turns, so that what else the machine does hits all alike. Each run begins with
an empty file system and the image in the server's page cache, and ends when everything is on the disk.
"""

import fcntl
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from . import commands, image_contenders, image_inputs, image_profile, pipeline
from .commands import LabError, run
from .image_contenders import Kind
from .image_target import TARGETS, Disk
from .lab import build
from .measured import row
from .paths import SCRIPTS

CASES = {"a": "Debian's root tree", "b": "200,000 small files", "c": "20 files of 200 MB"}

LEAST_OF_PEER = 1.0
LEAST_OF_PART = 1 / 1.15
LEAST_OF_TAR = 1.5
"""Beside `curl | zstd -d | tar -x`, of many small files."""
MOST_MIB = 64

COLUMNS = {
    "name": "measured",
    "ratio": "× best peer",
    "tar_ratio": "× GNU tar",
    "part_ratio": "× slowest part",
    "aims": "aims",
    "value": "ours s",
    "rival": "peer s",
    "peer": "best peer",
    "part_s": "part s",
    "part": "slowest part",
    "cpu_s": "CPU s",
    "peer_cpu_s": "of peer",
    "peak_mib": "MiB",
    "peer_peak_mib": "of peer",
}
EACH_COLUMNS = {
    "of": "measured",
    "name": "who",
    "wall_s": "s",
    "least_s": "least s",
    "cpu_s": "CPU s",
    "peak_mib": "MiB",
    "largest_mib": "largest MiB",
}
FOOT = f"""
Ratios: how many times as fast ours is. Aims: best peer ≥ {LEAST_OF_PEER:g}; slowest part alone ≥ {LEAST_OF_PART:.2f}
(total ≤ 1.15 × its time); GNU tar, small files, zstd ≥ {LEAST_OF_TAR:g}; memory of ours ≤ {MOST_MIB} MiB.
Medians. MiB: peak of all programs that run at a time, as a sum. CPU: the programs' own, without kernel threads.
Ours checks the SHA-256 and reads a sample back from the disk. The others do neither, and sync their data.
What was unpacked was counted after every run, and compared with GNU tar's once."""


def add_arguments(parser):
    """Filters come more than once: `--case a --case b`."""
    group = parser.add_argument_group("image")
    group.add_argument("--case", action="append", choices=CASES, help="Debian, small files, large ones; default all")
    group.add_argument("--compression", action="append", choices=image_inputs.COMPRESSIONS, help="default: all")
    group.add_argument("--runs", type=int, metavar="N", help="of each, default 3; 1 with --quick")
    group.add_argument("--quick", action="store_true", help="a tenth of everything, to try the bench itself")
    group.add_argument("--target", choices=TARGETS, default="disk", help="ext4 on a loop device (default), or tmpfs")
    group.add_argument("--profile", action="store_true", help="tell where our time goes, by perf")


def measure(args, screen):
    # File systems are mounted and programs run beside us: the end must be in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    build(screen, str(SCRIPTS / "build"), "--only", "binaries")
    compressions = args.compression or image_inputs.COMPRESSIONS
    archives = image_inputs.archives(args.case or CASES, compressions, args.quick, screen)
    runs = args.runs or (1 if args.quick else 3)
    with alone(), serving(image_inputs.FOLDER) as url:
        compare_with_tar(archives, url, screen)
        with TARGETS[args.target]() as target:
            rows = [measure_archive(archive, url, target, runs, screen) for archive in archives]
        if args.profile:
            image_profile.add(zip(archives, rows), url, TARGETS[args.target], screen)
    return rows


@contextmanager
def alone():
    """Two at a time would unmount each other's file systems, and measure each other."""
    with open(image_inputs.FOLDER / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"another one measures, and has {lock.name}") from error
        yield


@contextmanager
def serving(folder):
    """An HTTP server of a folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "server.log"
        argv = [sys.executable, "-m", "rack.file_server", folder]
        server = commands.start(argv, log, env={"PYTHONPATH": str(SCRIPTS)})
        try:
            yield f"http://127.0.0.1:{wait_for_port(server, log)}"
        finally:
            commands.stop(server)


def wait_for_port(server, log):
    for _ in range(100):
        text = log.read_text()
        if text.endswith("\n") and text.strip().isdecimal():
            return int(text)
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise LabError(f"the HTTP server does not start:\n{log.read_text()}")


def compare_with_tar(archives, url, screen):
    """Ours and GNU tar's, of each case once: contents, owners, modes, times, ACLs, attributes, links."""
    for archive in {archive.case: archive for archive in archives}.values():
        with screen.step(f"{archive.case}: ours is GNU tar's, byte for byte"), Disk() as target:
            target.fresh()
            ours = image_contenders.contenders(archive, url, target.folder)[0]
            pipeline.run_all(ours.steps)
            run([*image_contenders.GNU_TAR, "-f", archive.tar, "-C", target.beside], timeout=1800)
            same = ["rsync", "-naicAXH", "--numeric-ids", "--delete", f"{target.beside}/", f"{target.folder}/"]
            difference = run(same, timeout=1800)
        if difference:
            raise LabError(f"ours is not as GNU tar's for {archive.path.name}:\n{commands.last_lines(difference, 10)}")


def measure_archive(archive, url, target, runs, screen):
    who = image_contenders.contenders(archive, url, target.folder)
    used = {contender.name: [] for contender in who}
    report = None
    with screen.step(f"{archive.case}, {archive.compression}") as step:
        for number in range(runs):
            for contender in who:
                step.detail = f"run {number + 1} of {runs}: {contender.name}"
                taken, printed = measure_one(contender, archive, target)
                used[contender.name].append(taken)
                report = read_report(printed) if contender.kind is Kind.OURS else report
    each = [summary(contender, archive, used[contender.name]) for contender in who]
    return {**judged(archive, each), "busy": report["busy"], "each": each}


def measure_one(contender, archive, target):
    target.fresh()
    image_contenders.warm_up(contender)
    with tempfile.NamedTemporaryFile("r") as output:
        used = pipeline.run_all(contender.steps, output.name if contender.kind is Kind.OURS else None)
        printed = output.read()
    if contender.unpacks:
        found = image_inputs.count_tree(target.folder)
        if found != archive.tree:
            raise LabError(f"{contender.name} unpacked {found} of {archive.path.name}, which has {archive.tree}")
    return used, printed


def read_report(printed):
    report = json.loads(printed)
    # Without, it would do less than it does at an installation.
    if not report.get("digest") or not report.get("read_back"):
        raise LabError(f"ours has checked no digest or read nothing back: {printed}")
    return report


def summary(contender, archive, used):
    def middle(value):
        return round(statistics.median(value(one) for one in used), 3)

    return {
        "of": f"{archive.case}, {archive.compression}",
        "name": contender.name,
        "kind": contender.kind.value,
        "wall_s": middle(lambda one: one.wall_s),
        "least_s": round(min(one.wall_s for one in used), 3),
        "cpu_s": middle(lambda one: one.cpu_s),
        "peak_mib": round(middle(lambda one: one.peak_mib), 1),
        "largest_mib": round(middle(lambda one: one.largest_mib), 1),
    }


def judged(archive, each):
    """Ours beside the best of the peers and the slowest of the parts."""
    of_kind = {kind: [one for one in each if one["kind"] == kind.value] for kind in Kind}
    (ours,) = of_kind[Kind.OURS]
    peer = min(of_kind[Kind.PEER], key=lambda one: one["wall_s"])
    part = max(of_kind[Kind.PART], key=lambda one: one["wall_s"])
    (tar,) = (one for one in each if one["name"] == image_contenders.tar_name(archive))
    times = {name: one["wall_s"] / ours["wall_s"] for name, one in (("peer", peer), ("part", part), ("tar", tar))}
    missed = [name for name, met in judge(archive, times, ours["peak_mib"]).items() if not met]
    return {
        **row(f"{archive.case}, {archive.compression}", ours["wall_s"], "s", None, peer["wall_s"]),
        "peer": peer["name"],
        "tar_ratio": round(times["tar"], 2),
        "part_ratio": round(times["part"], 2),
        "part": part["name"],
        "part_s": part["wall_s"],
        "aims": f"missed: {', '.join(missed)}" if missed else "met",
        "cpu_s": ours["cpu_s"],
        "peer_cpu_s": peer["cpu_s"],
        "peak_mib": ours["peak_mib"],
        "peer_peak_mib": peer["peak_mib"],
    }


def judge(archive, times, peak_mib):
    aims = {
        "peer": times["peer"] >= LEAST_OF_PEER,
        "part": times["part"] >= LEAST_OF_PART,
        "memory": peak_mib <= MOST_MIB,
    }
    if archive.case == "b" and archive.compression.startswith("zstd"):
        aims["GNU tar"] = times["tar"] >= LEAST_OF_TAR
    return aims


def conditions(args):
    """Of the run, for those who read its numbers."""
    return {"cpus": len(os.sched_getaffinity(0)), "target": args.target, "quick": args.quick}
