"""Where our own time goes while it unpacks, as perf sees it.

By the clock of the CPUs: virtual machines seldom have counters. The binary is the shipped one with its symbols, which
is built for this.
"""

import shutil
import tempfile
from pathlib import Path

from . import image_contenders
from .commands import LabError, run
from .lab import build
from .paths import CACHE, SCRIPTS

SYMBOLS = CACHE / "drophammer-with-symbols"
HERTZ = "997"
LEAST_PERCENT = "1"
PARTS = {"programs": "dso", "threads": "comm", "functions": "sym"}


def add(pairs, url, make_target, screen):
    """Adds `profile` to the row of each archive: shares by each of PARTS, largest first."""
    if not shutil.which("perf"):
        raise LabError("perf is missing (Debian: linux-perf)")
    build(screen, str(SCRIPTS / "build"), "--only", "symbols")
    with make_target() as target:
        for archive, row in pairs:
            with screen.step(f"{row['name']}: profile"):
                row["profile"] = profile(archive, url, target)


def profile(archive, url, target):
    target.fresh()
    ours = image_contenders.contenders(archive, url, target.folder)[0]
    image_contenders.warm_up(ours)
    ((argv,),) = ours.steps
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", HERTZ, "-o", data, "--", SYMBOLS, *argv[1:]]
        run(record, timeout=1800)
        return {what: shares(data, key) for what, key in PARTS.items()}


def shares(data, key):
    """Pairs of per cent and name."""
    report = ["perf", "report", "-q", "-i", data, "--stdio", "-t", "|", "--percent-limit", LEAST_PERCENT, "--sort", key]
    pairs = []
    for line in run(report, timeout=600).splitlines():
        percent, bar, name = line.partition("|")
        if bar:
            pairs.append((float(percent.strip().rstrip("%")), name.strip()))
    return pairs


def lines(row):
    """For people."""
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in row["busy"].items())
    text = [f"{row['name']}: stages are busy: {busy}"]
    for what, pairs in row["profile"].items():
        text += [f"  {what}:", *(f"  {percent:6.1f} %  {name}" for percent, name in pairs)]
    return text
