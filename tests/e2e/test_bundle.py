"""A site behind an air gap: all that it has came in one file."""

import subprocess

import pytest

from rack import network
from rack.anvil import HTTP_PORT
from rack.commands import run
from rack.paths import DIST

from installation import assert_in_order, event_names, power_on_and_wait, wait_for_system

IMAGE = "busybox-1.0.1"
DOMAIN = "site.test"

LAYOUT = """
id: plain
constraints: {sizes: [], images: {}}
disks:
  - device: /dev/vda
    wipeonreinstall: true
    partitions:
      - {number: 1, label: efi, size: 200, gpttype: ef00}
      - {number: 2, label: root, size: 0, gpttype: '8300'}
filesystems:
  - {path: /boot/efi, device: /dev/vda1, format: vfat, label: efi}
  - {path: /, device: /dev/vda2, format: ext4, label: root}
"""


@pytest.fixture
def bundle(rack, busybox):
    """A bundle of what was built, with a layout for the rack's machines, and the key to check it with."""
    path = rack.directory / "site.tar.zst"
    public, secret = rack.directory / "site.pub", rack.directory / "site.key"
    run(["minisign", "-G", "-W", "-p", public, "-s", secret])
    layout = rack.directory / "layout.yaml"
    layout.write_text(LAYOUT)
    words = ["--kernel", DIST / "vmlinuz-cloud", "--initrd", DIST / "initramfs-cloud.img", "--dist", DIST]
    words += ["--image", f"{IMAGE}={busybox}", "--layout", layout, "--key", secret, "--output", path]
    run([DIST / "anvil", "bundle", "create", *words], timeout=600)
    return path, public


def ask(rack, name):
    """Addresses of a name, by the site's own server."""
    words = ["dig", f"@{network.ADDRESS}", "+short", "+time=30", f"{name}.{DOMAIN}"]
    return rack.network.run(words).split()


def test_a_machine_is_installed_from_nothing_but_a_bundle(rack, bundle):
    path, public = bundle
    # All that crosses the gap is the file, the key, and the program taken out of it by tar.
    program = rack.directory / "anvil-from-the-bundle"
    with open(program, "wb") as file:
        subprocess.run(["tar", "-xOf", path, "anvil"], stdout=file, check=True)
    program.chmod(0o755)
    words = [program, "bundle", "import", path, "--public-key", public, "--data", rack.anvil.data, "--domain", DOMAIN]
    words += ["--listen", f"{network.ADDRESS}/{network.PREFIX_LENGTH}", "--interface", network.BRIDGE, "--dhcp", "server"]
    assert "start or restart:" in rack.network.run(words, timeout=600)

    # The program and the configuration are those of the import, not the rack's own.
    rack.anvil.binary = rack.anvil.data / "bundle/current/anvil"
    rack.anvil._config = rack.anvil.data / "anvil.yaml"
    rack.start_anvil()
    (image,) = rack.anvil.query("image", "list")
    assert image["url"].startswith(f"http://{network.ADDRESS}:{HTTP_PORT}/images/{IMAGE}/")

    machine = rack.add_machine()
    power_on_and_wait(rack, machine)
    (address,) = ask(rack, machine.mac.replace(":", "-"))
    assert ask(rack, machine.id) == [address]
    assert ask(rack, "web-1") == []
    rack.allocate(machine, IMAGE, "plain", "web-1")
    assert ask(rack, "web-1") == [address]
    wait_for_system(machine, "web-1")
    order = ["PXE Booting", "Preparing", "Registering", "Waiting", "Installing", "Booting New Kernel"]
    assert_in_order(event_names(rack, machine), order)

    # Twice is harmless, also beside the server that runs.
    assert "nothing is new" in rack.network.run(words, timeout=600)
    rack.anvil.command("machine", "free", machine.id)
    assert ask(rack, "web-1") == []
