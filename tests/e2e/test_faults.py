"""What goes wrong in a rack: spoilt images, a dead server, a power cut, no DHCP."""

import hashlib
import sys
from pathlib import Path

import pytest
from rack import CommandFailed, Direct, MachineOptions, commands
from rack.anvil import HTTP_PORT
from rack.network import ADDRESS
from rack.paths import DIST

from installation import (
    IMAGE,
    install_busybox,
    power_on_and_wait,
    read_installed,
    wait_for_progress,
    wait_for_system,
)

SLOW_MBIT = 20
"""At this rate the large image takes half a minute: time enough to do something to it."""


def begin_slow_installation(rack, image):
    rack.start_anvil()
    rack.add_image(IMAGE, image)
    machine = rack.add_machine()
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    rack.network.limit_rate(machine.tap, SLOW_MBIT)
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    wait_for_progress(rack, machine, 2 << 20)
    return machine


def spoil(rack, image):
    """Turns one byte of the image as anvil serves it; the noise in it makes the rest stay as it is."""
    size = image.stat().st_size
    served = {image} | {path for path in rack.anvil.data.rglob("*") if path.is_file() and path.stat().st_size == size}
    for path in served:
        with open(path, "r+b") as file:
            file.seek(size // 2)
            byte = file.read(1)
            file.seek(size // 2)
            file.write(bytes([byte[0] ^ 1]))


def test_a_wrong_digest_fails_the_installation_and_leaves_nothing_that_boots(rack, large_busybox):
    rack.start_anvil()
    rack.add_image(IMAGE, large_busybox)
    spoil(rack, large_busybox)
    machine = rack.add_machine()
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    crash = rack.wait_for_event(machine, "Crashed", fatal=())
    assert "expected" in crash["message"] and "found" in crash["message"], crash
    machine.power_off()
    assert machine.console.find("LAB-OS: up") is None
    assert not root_is_mountable(machine), "the file system with the wrong image is still there"


def root_is_mountable(machine):
    try:
        read_installed(machine, "/etc/os-release")
    except (CommandFailed, StopIteration, KeyError):
        return False
    return True


def test_anvil_is_killed_while_a_machine_waits(rack, busybox):
    rack.start_anvil()
    rack.add_image(IMAGE, busybox)
    machine = rack.add_machine()
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    rack.anvil.kill()
    rack.start_anvil()
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    wait_for_system(machine, "web-1")


def test_anvil_is_killed_while_a_machine_is_installed(rack, large_busybox):
    machine = begin_slow_installation(rack, large_busybox)
    rack.anvil.kill()
    rack.start_anvil()
    rack.network.limit_rate(machine.tap, None)
    wait_for_system(machine, "web-1")
    assert rack.anvil.machine(machine.id)["allocation"]["boot_info"]["kernel"].startswith("/boot/vmlinuz-")


def test_a_power_cut_during_the_unpack_is_mended_by_the_next_boot(rack, large_busybox):
    machine = begin_slow_installation(rack, large_busybox)
    machine.power_off()
    rack.network.limit_rate(machine.tap, None)
    mark = machine.console.mark()
    assert machine.console.find("LAB-OS: up") is None
    machine.power_on()
    wait_for_system(machine, "web-1", after=mark)


def test_a_machine_without_dhcp_says_so_and_goes_on_when_it_comes(rack, busybox):
    line = f"console=ttyS0,115200n8 drophammer.lldp=optional PIXIE_API_URL=http://{ADDRESS}:{HTTP_PORT}/certs"
    direct = Direct(DIST / "vmlinuz-cloud", DIST / "initramfs-cloud.img", line)
    machine = rack.add_machine(MachineOptions(boot=direct))
    machine.power_on()
    machine.wait_for_line(r"drophammer: .*(DHCP|dhcp|address)", timeout=300)
    machine.wait_for_line(r"drophammer: .*(no answer|no DHCP|waiting|retry|again)", timeout=300)
    rack.start_anvil()
    rack.wait_for_event(machine, "Waiting")


def test_a_machine_waits_for_its_control_plane_and_says_so(rack):
    """No configuration, no API: with a static address, so that nothing else is missing."""
    url = f"http://{ADDRESS}:{HTTP_PORT}/certs"
    line = f"console=ttyS0,115200n8 ip=10.77.0.50:::255.255.255.0::eth0:off drophammer.lldp=optional PIXIE_API_URL={url}"
    direct = Direct(DIST / "vmlinuz-cloud", DIST / "initramfs-cloud.img", line)
    machine = rack.add_machine(MachineOptions(boot=direct))
    machine.power_on()
    said = machine.wait_for_line(r"drophammer: phase configure: not yet, trying for \d+ s, again in \d+ s", timeout=300)
    assert url in said.text, said.text
    rack.start_anvil()
    rack.wait_for_event(machine, "Waiting")
    assert machine.console.find(r"eth0 has 10\.77\.0\.50/24|10\.77\.0\.50")


def test_an_image_that_is_not_there_is_told_with_its_url_and_nothing_boots(rack):
    rack.start_anvil()
    url = f"http://{ADDRESS}:{HTTP_PORT}/images/none/none.tar.zst"
    rack.anvil.command("image", "add", "--id", IMAGE, "--source", url, "--digest", "sha256:" + "0" * 64)
    machine = rack.add_machine()
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    crash = rack.wait_for_event(machine, "Crashed", fatal=())
    assert url in crash["message"] and "404" in crash["message"], crash
    assert machine.console.find("what was half-installed is wiped")
    machine.power_off()
    assert not root_is_mountable(machine)


SHORT_SERVER = Path(__file__).parent / "short_server.py"
OTHER_PORT = 8098


@pytest.fixture
def other_server(rack, tmp_path):
    """A server of images beside anvil's: `serve(words)` runs it in the rack."""
    running = []

    def serve(*words):
        running.append(commands.start(words, tmp_path / "server.log", namespace=rack.network.namespace))

    yield serve
    for process in running:
        commands.stop(process)


def crash_of(rack, file, digest):
    """What the API is told when this is installed."""
    url = f"http://{ADDRESS}:{OTHER_PORT}/{file.name}"
    rack.start_anvil()
    rack.anvil.command("image", "add", "--id", IMAGE, "--source", url, "--digest", f"sha256:{digest}")
    machine = rack.add_machine()
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    message = rack.wait_for_event(machine, "Crashed", fatal=())["message"]
    assert url in message, message
    machine.power_off()
    assert not root_is_mountable(machine)
    return message


def test_an_image_that_is_no_archive_is_refused_and_nothing_boots(rack, other_server, tmp_path):
    file = tmp_path / "notes.tar.zst"
    file.write_text("To be written.\n" * 1000)
    other_server("/bin/busybox", "httpd", "-f", "-p", str(OTHER_PORT), "-h", tmp_path)
    message = crash_of(rack, file, hashlib.sha256(file.read_bytes()).hexdigest())
    assert "archive" in message, message


def test_an_image_shorter_than_promised_is_told_with_the_offset_and_nothing_boots(rack, other_server, busybox):
    size = busybox.stat().st_size
    kept = size // 2
    other_server(sys.executable, SHORT_SERVER, str(OTHER_PORT), busybox, str(kept))
    message = crash_of(rack, busybox, hashlib.sha256(busybox.read_bytes()).hexdigest())
    assert str(kept) in message and str(size) in message, message


def test_a_machine_whose_clock_is_years_behind_goes_by_the_build_and_then_by_the_time_server(rack):
    rack.anvil.configure("ntp", enabled=False)
    rack.start_anvil()
    machine = rack.add_machine(MachineOptions(extra=["-rtc", "base=2021-03-04T05:06:07"]))
    machine.power_on()
    machine.wait_for_line(r"drophammer: the clock said 2021-03-04, before this program was built", 300)
    # Certificates made a day after the build are not valid then, and the agent waits for its configuration.
    machine.wait_for_line(r"drophammer: phase (clock: going on without|configure: not yet)", 300)
    rack.anvil.stop()
    rack.anvil.configure("ntp", enabled=True)
    rack.start_anvil()
    machine.wait_for_line(r"drophammer: clock set", 120)
    rack.wait_for_event(machine, "Waiting")
    years = {event["time"][:4] for event in rack.events(machine)}
    assert "2021" not in years, f"events carry the time of the wrong clock: {years}"


UDHCPD = """
interface eth0
start 10.77.0.150
end 10.77.0.159
lease_file {directory}/leases
pidfile {directory}/pid
option subnet 255.255.255.0
option lease 600
option dns 10.77.0.1
option ntpsrv 10.77.0.1
"""


def test_beside_another_dhcp_server_anvil_tells_only_what_to_boot(rack, busybox, tmp_path):
    rack.anvil.configure("dhcp", mode="proxy", range=None)
    (tmp_path / "udhcpd.conf").write_text(UDHCPD.format(directory=tmp_path))
    other = rack.network.add_host("10.77.0.2")
    dhcp = commands.start(["/bin/busybox", "udhcpd", "-f", tmp_path / "udhcpd.conf"], tmp_path / "log", namespace=other)
    try:
        machine = rack.add_machine()
        install_busybox(rack, machine, busybox)
    finally:
        commands.stop(dhcp)
    assert machine.console.find(r"drophammer: .*10\.77\.0\.15\d"), "its address is not the other server's"


def test_two_machines_are_installed_side_by_side(rack, busybox):
    first, second = rack.add_machine(), rack.add_machine()
    second.power_on()
    install_busybox(rack, first, busybox, "web-1")
    rack.wait_for_event(second, "Waiting")
    rack.allocate(second, IMAGE, "lab-virtio", "web-2")
    wait_for_system(second, "web-2")
