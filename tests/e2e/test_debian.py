"""A real Debian 12: from power-on to a login over SSH, and what is found there."""

import pytest
from rack import MachineOptions

from debian_system import boot_again, check_installed_system, install_debian, pull_the_plug
from installation import check_layout_is_plain, check_traffic


# The kernel itself reads `sysctl.` words: kexec_load(2) and kexec_file_load(2) are refused from the start.
@pytest.mark.settings(commandline="console=ttyS0,115200n8 sysctl.kernel.kexec_load_disabled=1")
def test_debian_on_bios_is_booted_by_the_firmware_from_its_disk_where_kexec_is_forbidden(rack, debian):
    machine = install_debian(rack, debian, MachineOptions(firmware="bios"))
    assert machine.console.find(r"drophammer: the installed kernel cannot be started directly")
    check_installed_system(rack, machine)
    before = pull_the_plug(rack, machine)
    boot_again(rack, machine, before, boots_from_disk=False)
    machine.power_off()
    check_layout_is_plain(machine)


def test_debian_is_installed_on_uefi_and_boots_from_its_disk(rack, debian):
    machine = install_debian(rack, debian, MachineOptions(firmware="uefi", disk="nvme", capture=True))
    check_installed_system(rack, machine)
    assert rack.ssh(machine, "test -d /sys/firmware/efi && echo uefi").strip() == "uefi"
    before = pull_the_plug(rack, machine)
    check_traffic(machine)
    boot_again(rack, machine, before, boots_from_disk=True)
    machine.power_off()
    check_layout_is_plain(machine)
