"""Where `scripts/bench image` unpacks to: an empty file system for each run."""

from .commands import run
from .image_inputs import FOLDER

SIZE_GIB = 12
"""Of the file system: the largest tree twice, with room."""


class _Target:
    """`folder` is what to unpack into, empty after each `fresh`; `beside` is another one on the same file system."""

    def __init__(self):
        self._mount_point = FOLDER / "target"
        self.folder = self._mount_point / "tree"
        self.beside = self._mount_point / "beside"

    def __enter__(self):
        self._mount_point.mkdir(parents=True, exist_ok=True)
        # A bench that was killed left its own.
        self._unmount()
        return self

    def __exit__(self, *_):
        self._unmount()

    def fresh(self):
        self._unmount()
        self._mount()
        self.folder.mkdir()
        self.beside.mkdir()

    def _unmount(self):
        if self._mount_point.is_mount():
            run(["umount", self._mount_point], timeout=600)


class Memory(_Target):
    """tmpfs: what the engine takes, without a disk."""

    def _mount(self):
        run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_GIB}G,mode=755", "none", self._mount_point])


class Disk(_Target):
    """ext4 on a file. The loop device goes past the page cache, so that nothing is in memory twice, and what is on its
    disk is on the disk below."""

    def _mount(self):
        file = FOLDER / "target.img"
        with open(file, "wb") as empty:
            empty.truncate(SIZE_GIB << 30)
        device = run(["losetup", "--find", "--show", "--direct-io=on", file]).strip()
        try:
            # The kernel is not to fill inode tables while something is measured.
            run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", device])
            run(["mount", "-o", "noinit_itable", device, self._mount_point])
        finally:
            # Both go when the file system is unmounted, whoever does that.
            run(["losetup", "--detach", device])
            file.unlink()


TARGETS = {"disk": Disk, "memory": Memory}
