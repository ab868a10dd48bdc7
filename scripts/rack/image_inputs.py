"""What `scripts/bench image` unpacks: three trees as archives, each in four compressions.

Made once and kept in .cache/bench, 15 GB in all (a tenth with `--quick`); made again when what they are made from has
changed. The same on every machine: contents come from a fixed seed, the Debian tree from scripts/image.
"""

import hashlib
import itertools
import json
import random
import struct
import subprocess
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from .commands import LabError, run
from .lab import build
from .paths import CACHE, SCRIPTS

FOLDER = CACHE / "bench"

COMPRESSIONS = {
    "lz4": ["lz4", "-q", "-c"],
    # Several cores; the result does not depend on how many there are.
    "zstd-3": ["zstd", "-q", "-3", "-T0", "-c"],
    "zstd-19": ["zstd", "-q", "-19", "-T0", "-c"],
    "gzip": ["gzip", "-n", "-c"],
}
ENDINGS = {"lz4": "tar.lz4", "zstd-3": "3.tar.zst", "zstd-19": "19.tar.zst", "gzip": "tar.gz"}

# Change when the contents do.
VERSIONS = {"b": 1, "c": 1}
SEED = 5
MTIME = 1_700_000_000
# So much of what tar's header has, and more than any window but zstd -19's: pieces of it do not repeat within one.
POOL_BYTES = 64 << 20
# Of the Debian tree, when a tenth is enough.
QUICK_TREE = ["./etc", "./usr/sbin", "./usr/share"]


@dataclass(frozen=True)
class Tree:
    """What has to be there once it is unpacked."""

    entries: int
    """Files, directories, links and so on, without the top."""
    bytes: int
    """Of all files; one with two names counts twice."""


@dataclass(frozen=True)
class Archive:
    case: str
    compression: str
    path: Path
    tar: Path
    """The same, not compressed."""
    tree: Tree


def archives(cases, compressions, quick, screen):
    """Those that are asked for, made if need be."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = []
    for case in cases:
        tar, tree = tar_of(case, quick, screen)
        for compression in compressions:
            path = compressed(tar, compression, screen)
            made.append(Archive(case, compression, path, tar, tree))
    return made


def tar_of(case, quick, screen):
    stem = f"{case}-quick" if quick else case
    tar, about = FOLDER / f"{stem}.tar", FOLDER / f"{stem}.json"
    source = Path(build(screen, str(SCRIPTS / "image"), "debian-12")) if case == "a" else None
    key = Path(f"{source}.sha256").read_text() + " ".join(QUICK_TREE) if source else f"{VERSIONS[case]} {SEED}"
    if tar.is_file() and about.is_file():
        known = json.loads(about.read_text())
        if known["key"] == key:
            return tar, Tree(**known["tree"])
    about.unlink(missing_ok=True)
    with screen.step(f"input {stem}") as step, partial(tar) as part:
        if source:
            tree = debian_tree(source, quick, part)
        else:
            with open(part, "wb") as file:
                tree = (small_files if case == "b" else large_files)(TarWriter(file), quick, step)
    about.write_text(json.dumps({"key": key, "tree": asdict(tree), "sha256": digest(tar)}))
    return tar, tree


def compressed(tar, compression, screen):
    """The archive, with its digest beside it."""
    path = tar.with_name(f"{tar.stem}.{ENDINGS[compression]}")
    words = COMPRESSIONS[compression]
    key = f"{' '.join(words)} {json.loads(tar.with_suffix('.json').read_text())['sha256']}"
    key_file = path.with_name(f"{path.name}.key")
    if path.is_file() and key_file.is_file() and key_file.read_text() == key:
        return path
    key_file.unlink(missing_ok=True)
    with screen.step(f"input {tar.stem}: {' '.join(words[:-1])}"), partial(path) as part:
        with open(tar, "rb") as source, open(part, "wb") as target:
            if subprocess.run(words, stdin=source, stdout=target, check=False).returncode != 0:
                raise LabError(f"{' '.join(words)} failed on {tar}")
    path.with_name(f"{path.name}.sha256").write_text(f"{digest(path)}  {path.name}\n")
    key_file.write_text(key)
    return path


class partial:
    """A path beside that of a file, which it becomes at the end; what was begun and failed is taken away."""

    def __init__(self, path):
        self.path = path
        self.part = path.with_name(f"{path.name}.part")

    def __enter__(self):
        return self.part

    def __exit__(self, kind, _error, _trace):
        if kind is None:
            self.part.rename(self.path)
        else:
            self.part.unlink(missing_ok=True)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def debian_tree(image, quick, tar):
    """(a): the image's own tree, all of it in names, owners and attributes, packed by GNU tar."""
    keep = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        unpack = ["tar", "--zstd", "-x", "-p", "--same-owner", *keep, "-f", image, "-C", folder]
        run([*unpack, *(QUICK_TREE if quick else [])], timeout=600)
        # When it was unpacked, and how often it was looked at, is no part of the tree.
        when = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"
        run(["tar", "-c", *keep, "--sort=name", when, "-f", tar, "-C", folder, "."], timeout=600)
        return count_tree(folder)


def count_tree(folder):
    sizes = run(["find", folder, "-mindepth", "1", "-printf", "%y %s\n"], timeout=600).splitlines()
    return Tree(len(sizes), sum(int(line[2:]) for line in sizes if line.startswith("f")))


class TarWriter:
    """Writes and counts entries. Quicker than tarfile's own, which copies each file in small pieces."""

    def __init__(self, file):
        self._file = file
        self._bytes = 0
        # That of the top is not counted.
        self._entries = -1
        self.directory("./")

    def directory(self, name):
        self._header(name, tarfile.DIRTYPE, 0o755, 0, 0)

    def file(self, name, pieces, size, mode=0o644, owner=0):
        """`pieces`: contents in order, `size` bytes in all."""
        self._header(name, tarfile.REGTYPE, mode, size, owner)
        for piece in pieces:
            self._file.write(piece)
        self._file.write(bytes(-size % tarfile.BLOCKSIZE))
        self._bytes += size

    def _header(self, name, kind, mode, size, owner):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime, info.uid, info.gid = kind, mode, size, MTIME, owner, owner
        self._file.write(info.tobuf(tarfile.GNU_FORMAT))
        self._entries += 1

    def finish(self):
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        return Tree(self._entries, self._bytes)


def small_files(tar, quick, step):
    """(b): 1000 directories of 200 files. Half of them are smaller than 1 KiB, few larger than 10; one of eight does
    not compress, as keys and pictures do not, and the others are like text."""
    chance = random.Random(SEED)
    text = Pool(text_pool(chance), chance)
    folders = 100 if quick else 1000
    for folder in range(folders):
        step.detail = f"{folder} of {folders} directories"
        group = f"group-{folder // 100:02}"
        if folder % 100 == 0:
            # Before what is in it, as tar packs: else GNU tar gives it the time of its unpacking.
            tar.directory(group)
        parent = f"{group}/{chance.getrandbits(40):010x}"
        tar.directory(parent)
        for number in range(200):
            size = min(int(chance.lognormvariate(6.9, 1.2)), 256 << 10)
            piece = chance.randbytes(size) if number % 8 == 7 else text.piece(size)
            mode = 0o755 if number % 16 == 3 else 0o644
            tar.file(f"{parent}/{number:03}-{chance.getrandbits(24):06x}", [piece], size, mode, number % 3 * 1000)
    return tar.finish()


def large_files(tar, quick, step):
    """(c): 20 files of 200 MB. Half of each, in turns of 1 MiB, does not compress; the rest are text and records as a
    database has them. Everything is there four times, 4 MiB apart: what only the window of zstd -19 sees, which would
    take most of an hour for 4 GB without that."""
    chance = random.Random(SEED + 1)
    text, records = Pool(text_pool(chance), chance), Pool(record_pool(chance), chance)
    size = 20_000_000 if quick else 200_000_000
    for number in range(20):
        step.detail = f"{number} of 20 files"
        tar.file(f"file-{number:02}", mixed(size, chance, text, records), size)
    return tar.finish()


def mixed(size, chance, text, records):
    makers = [chance.randbytes, text.piece, chance.randbytes, records.piece]
    while size:
        group = [make(1 << 20) for make in makers]
        for piece in group * 4:
            piece = piece[:size]
            yield piece
            size -= len(piece)


class Pool:
    """Bytes that were costly to make, handed out from anywhere."""

    def __init__(self, data, chance):
        self._data = memoryview(data)
        self._chance = chance

    def piece(self, length):
        start = self._chance.randrange(len(self._data) - length)
        return self._data[start : start + length]


def text_pool(chance):
    """Words as often as in a language: the n-th comes a n-th as often as the first."""
    letters = b"etaoinshrdlucmfwypvbgkjqxz"
    weights = list(range(len(letters), 0, -1))
    words = [bytes(chance.choices(letters, weights, k=chance.randint(2, 11))) for _ in range(8000)]
    words = [word + (b",\n" if number % 12 == 11 else b" ") for number, word in enumerate(words)]
    often = list(itertools.accumulate(1 / (number + 1) for number in range(len(words))))
    pool = bytearray()
    while len(pool) < POOL_BYTES:
        pool += b"".join(chance.choices(words, cum_weights=often, k=1 << 16))
    return bytes(pool[:POOL_BYTES])


def record_pool(chance):
    """Of 64 bytes each: a number that counts, a time, few kinds, an amount, and what nobody filled in."""
    layout = struct.Struct("<QQHHIQ32x")
    pool, time_us = bytearray(), MTIME * 1_000_000
    for number in range(POOL_BYTES // layout.size):
        bits = chance.getrandbits(64)
        time_us += bits & 0xFFFF
        pool += layout.pack(number, time_us, (bits >> 16) & 7, (bits >> 20) & 3, (bits >> 24) & 0xFFFF, bits >> 50)
    return bytes(pool)
