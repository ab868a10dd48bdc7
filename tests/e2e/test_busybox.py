"""The small image with /install.sh: the whole chain in seconds."""

import hashlib
import random

from rack import MachineOptions

from installation import (
    assert_in_order,
    check_layout_is_plain,
    event_names,
    install_busybox,
    read_installed,
)


def test_an_image_with_install_sh_is_installed_and_boots(rack, busybox):
    machine = rack.add_machine()
    install_busybox(rack, machine, busybox)
    assert machine.console.find("LAB-OS: install.sh"), "the image's own installer did not run"
    order = ["PXE Booting", "Preparing", "Registering", "Waiting", "Installing", "Booting New Kernel"]
    assert_in_order(event_names(rack, machine), order)
    assert rack.anvil.machine(machine.id)["allocation"]["boot_info"]["kernel"].startswith("/boot/vmlinuz-")
    machine.power_off()
    check_layout_is_plain(machine)
    assert read_installed(machine, "/etc/hostname").strip() == "web-1"
    assert "hostname: web-1" in read_installed(machine, "/etc/metal/install.yaml")


def test_a_machine_with_512_mib_installs_an_image_of_any_size(rack, large_busybox):
    machine = rack.add_machine(MachineOptions(memory_mib=512))
    install_busybox(rack, machine, large_busybox)
    # Quoted, so that the echo of what was typed is not taken for the answer.
    machine.type("sha256sum /usr/padding; echo end-of'-'sum\n")
    machine.wait_for_line("end-of-sum$", timeout=120)
    machine.power_off()
    wanted = hashlib.sha256(random.Random(1).randbytes(48 << 20)).hexdigest()
    assert wanted in machine.console.text(), "the file on the disk is not the one in the image"
