"""A real Debian 12: from power-on to a login over SSH, and what is found there."""

import pytest
from rack import MachineOptions

from installation import assert_in_order, check_layout_is_plain, event_names, power_on_and_wait

IMAGE = "debian-12.0"


def install_debian(rack, image, options):
    rack.start_anvil()
    rack.add_image(IMAGE, image)
    layout_id = rack.add_layout(options.disk)
    machine = rack.add_machine(options)
    power_on_and_wait(rack, machine)
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    rack.wait_for_event(machine, "Booting New Kernel", timeout=1800)
    rack.wait_for_ssh(machine)
    return machine


def check_installed_system(rack, machine):
    assert rack.ssh(machine, "hostname").strip() == "web-1"
    resolvers = [line for line in rack.ssh(machine, "cat /etc/resolv.conf").splitlines() if line.startswith("nameserver")]
    assert resolvers == ["nameserver 10.77.0.1"]
    time_servers = rack.ssh(machine, "cat /etc/systemd/timesyncd.conf /etc/systemd/timesyncd.conf.d/* 2>/dev/null || true")
    assert "NTP=10.77.0.1" in time_servers
    mounts = dict(line.split()[:2] for line in rack.ssh(machine, "findmnt -rn -o TARGET,FSTYPE --real").splitlines())
    assert mounts["/"] == "ext4" and mounts["/boot/efi"] == "vfat"
    assert rack.ssh(machine, "id -un").strip() == "metal"
    assert "sudo" in rack.ssh(machine, "id -nG").split()
    assert len(rack.ssh(machine, "cat /etc/machine-id").strip()) == 32
    state = "systemctl is-system-running --wait || systemctl --failed --no-legend"
    assert rack.ssh(machine, state, timeout=600).strip() == "running"
    order = ["Preparing", "Registering", "Waiting", "Installing", "Booting New Kernel"]
    assert_in_order(event_names(rack, machine), order)


def power_cycle(rack, machine, boots_from_disk):
    """Off and on again: now the boot loader has to find it, not kexec. `boots_from_disk`: the firmware goes there by
    itself; else it boots over the network, and anvil sends it to the disk."""
    before = rack.ssh(machine, "cat /proc/sys/kernel/random/boot_id")
    rack.ssh(machine, "sync")
    machine.power_off()
    machine.boots_from_disk = boots_from_disk
    machine.power_on()
    rack.wait_for_ssh(machine)
    assert rack.ssh(machine, "cat /proc/sys/kernel/random/boot_id") != before


@pytest.mark.parametrize("disk", ["virtio"])
def test_debian_is_installed_on_bios_and_anvil_sends_it_to_its_disk(rack, debian, disk):
    machine = install_debian(rack, debian, MachineOptions(firmware="bios", disk=disk))
    check_installed_system(rack, machine)
    power_cycle(rack, machine, boots_from_disk=False)
    machine.power_off()
    check_layout_is_plain(machine)


def test_debian_is_installed_on_uefi_and_boots_from_its_disk(rack, debian):
    machine = install_debian(rack, debian, MachineOptions(firmware="uefi", disk="nvme"))
    check_installed_system(rack, machine)
    assert rack.ssh(machine, "test -d /sys/firmware/efi && echo uefi").strip() == "uefi"
    power_cycle(rack, machine, boots_from_disk=True)
    machine.power_off()
    check_layout_is_plain(machine)
