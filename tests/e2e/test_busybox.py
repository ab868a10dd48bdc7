"""The small image with /install.sh: the whole chain in seconds."""

import hashlib
import random
from dataclasses import replace

from rack import Direct, MachineOptions, network
from rack.anvil import HTTP_PORT
from rack.paths import DIST

from installation import (
    assert_in_order,
    check_layout_is_plain,
    event_names,
    install_busybox,
    read_installed,
    wait_for_system,
)


def test_an_image_with_install_sh_is_installed_and_boots(rack, busybox):
    machine = rack.add_machine()
    install_busybox(rack, machine, busybox)
    assert machine.console.find("LAB-OS: install.sh"), "the image's own installer did not run"
    order = ["PXE Booting", "Preparing", "Registering", "Waiting", "Installing", "Booting New Kernel"]
    assert_in_order(event_names(rack, machine), order)
    assert rack.anvil.machine(machine.id)["allocation"]["boot_info"]["kernel"].startswith("/boot/vmlinuz-")
    check_records(rack, machine)
    machine.power_off()
    check_layout_is_plain(machine)
    assert read_installed(machine, "/etc/hostname").strip() == "web-1"
    assert "hostname: web-1" in read_installed(machine, "/etc/metal/install.yaml")


def check_records(rack, machine):
    """What was done to its disk is kept by anvil, signed: the erase record, and the plan as it was before that."""
    (erasure,) = rack.anvil.query("machine", "erasures", machine.id)
    assert erasure["signature"] == {"valid": True}
    record = erasure["record"]
    serial = f"LAB-{machine.name}"
    assert (record["machine"], record["serial"], record["level"]) == (machine.id, serial, "clear")
    assert record["result"]["erased"]["verified_bytes"] >= 64 << 20, record
    sent = rack.anvil.query("machine", "plan", machine.id)
    assert sent["signature"] == {"valid": True}
    assert [disk["disk"]["serial"] for disk in sent["plan"]["disks"]] == [serial]


def test_an_installed_machine_that_boots_the_agent_again_keeps_its_disk(rack, busybox):
    machine = rack.add_machine()
    install_busybox(rack, machine, busybox)
    machine.type("echo precious > /data && sync && echo writ'-'ten\n")
    machine.wait_for_line("writ-ten$", timeout=120)
    machine.power_off()
    # Past anvil, which would send it to its disk.
    line = f"console=ttyS0,115200n8 drophammer.lldp=optional PIXIE_API_URL=http://{network.ADDRESS}:{HTTP_PORT}/certs"
    machine.options = replace(
        machine.options, boot=Direct(DIST / "vmlinuz-cloud", DIST / "initramfs-cloud.img", line)
    )
    mark = machine.console.mark()
    machine.power_on()
    machine.wait_for_line("this machine is installed: nothing is erased", timeout=300, after=mark)
    wait_for_system(machine, "web-1", after=mark)
    machine.power_off()
    assert read_installed(machine, "/data").strip() == "precious"


def test_a_machine_with_512_mib_installs_an_image_of_any_size(rack, large_busybox):
    machine = rack.add_machine(MachineOptions(memory_mib=512))
    install_busybox(rack, machine, large_busybox)
    # Quoted, so that the echo of what was typed is not taken for the answer.
    machine.type("sha256sum /usr/padding; echo end-of'-'sum\n")
    machine.wait_for_line("end-of-sum$", timeout=120)
    machine.power_off()
    wanted = hashlib.sha256(random.Random(1).randbytes(48 << 20)).hexdigest()
    assert wanted in machine.console.text(), "the file on the disk is not the one in the image"
