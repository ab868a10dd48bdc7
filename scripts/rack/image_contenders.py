"""Who unpacks in `scripts/bench image`: ours, what one would use instead, and each of its parts alone."""

import enum
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .paths import DIST

PROGRAMS = {"lz4": "lz4", "zstd-3": "zstd", "zstd-19": "zstd", "gzip": "gzip"}
# All that ours keeps too.
KEEP = ["-p", "--same-owner", "--numeric-owner", "--acls", "--xattrs"]
GNU_TAR = ["tar", "-x", *KEEP, "--xattrs-include=*"]
BSDTAR = ["bsdtar", "-x", *KEEP, "-f", "-"]


class Kind(enum.Enum):
    OURS = "ours"
    PEER = "peer"
    PART = "part"


@dataclass(frozen=True)
class Contender:
    name: str
    kind: Kind
    steps: list
    """Pipelines, run one after the other."""
    reads: object
    """The file that all comes from."""
    unpacks: bool = True


def contenders(archive, url, folder):
    """`folder`: the one to unpack into. What any of them has unpacked is on the disk when it ends."""
    packed, tar = archive.path, archive.tar
    program = PROGRAMS[archive.compression]
    decompress = [program, "-q", "-dc"] if program != "gzip" else ["gzip", "-dc"]
    # A proxy in the environment is nobody's here.
    fetch = ["curl", "-sSf", "--noproxy", "*", f"{url}/{packed.name}"]
    gnu_tar, bsdtar = [*GNU_TAR, "-C", folder], [*BSDTAR, "-C", folder]
    sync = [["sync", "-f", folder]]
    ours = [DIST / "drophammer", "unpack", f"{url}/{packed.name}", folder, "--format", "json"]
    return [
        Contender("drophammer", Kind.OURS, [[ours]], packed),
        Contender(tar_name(archive), Kind.PEER, [[fetch, decompress, gnu_tar], sync], packed),
        Contender(f"curl | {program} | bsdtar", Kind.PEER, [[fetch, decompress, bsdtar], sync], packed),
        Contender("curl | bsdtar", Kind.PEER, [[fetch, bsdtar], sync], packed),
        Contender("fetch", Kind.PART, [[[*fetch, "-o", "/dev/null"]]], packed, unpacks=False),
        Contender("decompress", Kind.PART, [[[*decompress, packed]]], packed, unpacks=False),
        Contender("untar", Kind.PART, [[[*gnu_tar, "-f", tar]], sync], tar),
    ]


def tar_name(archive):
    return f"curl | {PROGRAMS[archive.compression]} | tar"


def warm_up(contender):
    """Memory holds what is read and the programs that read it, and nothing else."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with open(contender.reads, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
    for argv in (argv for step in contender.steps for argv in step):
        subprocess.run([argv[0], "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
