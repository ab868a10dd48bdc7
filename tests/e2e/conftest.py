"""What the end-to-end tests share: built programs, images, and one rack per test.

Run by scripts/test, or alone after scripts/build: `/usr/bin/python3 -m pytest tests/e2e` as root.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from rack import Rack, Settings, busybox_image  # noqa: E402
from rack.paths import CACHE, DIST  # noqa: E402


def pytest_sessionstart(session):
    if os.geteuid() != 0:
        pytest.exit("the end-to-end tests need root: network namespaces, taps", returncode=1)


def pytest_configure(config):
    config.addinivalue_line("markers", "settings(**values): of the test's rack, other than the usual ones")


def pytest_collection_modifyitems(items):
    """The longest first, shared out: xdist begins by giving each worker a quarter of its share, in one piece."""
    long = [item for item in items if "debian" in item.name]
    rest = [item for item in items if item not in long]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    piece = max(len(items) // (4 * workers), 2)
    ordered = []
    for worker in range(workers):
        own = long[worker::workers]
        fill = max(piece - len(own), 0)
        ordered += own + rest[:fill]
        rest = rest[fill:]
    items[:] = ordered + rest


def make_image(*words):
    """Path of an image made by scripts/image. Two workers at once: one makes it, the other waits."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "image.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([ROOT / "scripts/image", *words], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def debian():
    return make_image("debian-12")


@pytest.fixture(scope="session")
def busybox():
    return make_image("busybox")


UNCONFIGURED = "198.51.100.23"


@pytest.fixture
def large_busybox(busybox, tmp_path):
    """Takes a while over a slow line: 48 MiB of noise in it. A file of the test's own, that it may spoil."""
    return make_busybox(tmp_path / "large.tar.zst", "--padding-mib", "48")


@pytest.fixture
def phoning_busybox(busybox, tmp_path):
    """Its installer speaks to an address that nobody configured."""
    return make_busybox(tmp_path / "phoning.tar.zst", "--phones-home", UNCONFIGURED)


def make_busybox(path, *words):
    command = [sys.executable, busybox_image.__file__, "--kernel-dir", CACHE / "kernel-cloud", "--output", path]
    subprocess.run([*command, *words], check=True)
    return path


@pytest.fixture
def rack(request):
    """A rack with the cloud kernel, in which anvil is not yet running."""
    missing = [name for name in ("anvil", "vmlinuz-cloud", "initramfs-cloud.img") if not (DIST / name).exists()]
    assert not missing, f"dist/ lacks {', '.join(missing)}: run scripts/build"
    marker = request.node.get_closest_marker("settings")
    with Rack(Settings(**(marker.kwargs if marker else {}))) as made:
        try:
            yield made
        finally:
            # Captured by pytest: shown when the test failed, and only then.
            print(made.report())
