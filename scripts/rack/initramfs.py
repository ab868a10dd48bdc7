"""mkinitramfs, where something else than scripts/build's own archives is wanted."""

import re
import subprocess
from pathlib import Path

from .commands import run
from .paths import DIST, ROOT


def build(output, agent=DIST / "drophammer", lists=ROOT / "initramfs", kernel_dir=None):
    """Packs agent, tools and the drivers of the kernel in `kernel_dir`; without one no drivers."""
    words = ["--agent", agent, "--lists", lists, *(["--kernel-dir", kernel_dir] if kernel_dir else [])]
    run([mkinitramfs(), *words, "--output", output])
    return output


def mkinitramfs():
    """Where cargo put it when scripts/build built it."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Path(re.search(r'"target_directory":"([^"]+)"', answer)[1]) / "debug/mkinitramfs"
