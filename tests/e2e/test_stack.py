"""Systems that lie on arrays and in logical volumes: installed, booted by the firmware, started again by the agent, and
all of it without the first disk too."""

import hashlib
import os
import re
from dataclasses import replace

from rack import Direct, MachineOptions, network
from rack.anvil import HTTP_PORT
from rack.paths import DIST

from debian_system import boot_again, check_installed_system, install_debian, pull_the_plug
from installation import event_names

AGENT_LINE = (
    f"console=ttyS0,115200n8 drophammer.lldp=optional PIXIE_API_URL=http://{network.ADDRESS}:{HTTP_PORT}/certs"
)


def test_debian_on_mirrors_is_booted_by_uefi_and_then_without_its_first_disk(rack, debian):
    options = MachineOptions(firmware="uefi", disk="nvme", disks=2, disk_gib=3)
    machine = install_debian(rack, debian, options, "raid1")
    check_installed_system(rack, machine)
    check_mirrors(rack, machine, "/dev/md1", "[2/2] [UU]")
    first, second = serials(rack, machine)
    halves = {serial: efi_partition(rack, machine, serial) for serial in (first, second)}
    entries, _ = boot_entries(rack, machine)
    assert sorted(entries.values()) == sorted(halves.values()), "not one entry for each half"

    before = pull_the_plug(rack, machine)
    boot_again(rack, machine, before, boots_from_disk=True)
    check_mirrors(rack, machine, "/dev/md1", "[2/2] [UU]")
    assert booted_partition(rack, machine) == halves[first]

    before = pull_the_plug(rack, machine)
    del machine.disks[first]
    boot_again(rack, machine, before, boots_from_disk=True)
    check_mirrors(rack, machine, "/dev/md1", "[2/1] [_U]")
    assert booted_partition(rack, machine) == halves[second]
    assert rack.ssh(machine, "findmnt -no SOURCE /boot/efi").strip() == "/dev/md0"


def test_debian_in_volumes_on_a_mirror_is_started_by_the_agent_without_a_byte_written(rack, debian):
    machine = install_debian(rack, debian, MachineOptions(disk="scsi", disks=2, disk_gib=3), "raid1-lvm")
    check_installed_system(rack, machine)
    check_volumes(rack, machine)
    check_mirrors(rack, machine, "/dev/mapper/system-root", "[2/2] [UU]")
    first, _ = serials(rack, machine)
    rack.ssh(machine, "echo precious > data")
    installations = event_names(rack, machine).count("Installing")

    before = pull_the_plug(rack, machine)
    on_disks = digests(machine)
    boot_agent(machine, "sysctl.kernel.kexec_load_disabled=1")
    rack.wait_for_event(machine, "Crashed", fatal=())
    machine.power_off()
    assert machine.console.find(r"root of the installed system: /dev/mapper/system-root \(ext4\), read-only")
    assert machine.console.find("but its system cannot be started from here: the running kernel does not permit kexec")
    assert digests(machine) == on_disks, "something was written to the disks"

    del machine.disks[first]
    boot_agent(machine)
    rack.wait_for_ssh(machine)
    before = check_same_system(rack, machine, before, installations)

    machine.power_off()
    machine.options = replace(machine.options, boot=None)
    boot_again(rack, machine, before, boots_from_disk=False)
    check_same_system(rack, machine, before, installations)


def boot_agent(machine, words=""):
    """Past anvil, which would send it to its disk."""
    kernel, initrd = DIST / "vmlinuz-cloud", DIST / "initramfs-cloud.img"
    machine.options = replace(machine.options, boot=Direct(kernel, initrd, f"{AGENT_LINE} {words}"))
    machine.power_on()


def check_same_system(rack, machine, before, installations):
    """Booted anew from the second disk, with all that was on it. Returns the name of this boot."""
    boot = rack.ssh(machine, "cat /proc/sys/kernel/random/boot_id")
    assert boot != before
    assert rack.ssh(machine, "cat data").strip() == "precious"
    assert event_names(rack, machine).count("Installing") == installations
    check_volumes(rack, machine)
    check_mirrors(rack, machine, "/dev/mapper/system-root", "[2/1] [_U]")
    return boot


def serials(rack, machine):
    """Of its disks, in the order in which it was installed: Linux may have found them in either."""
    plan = rack.anvil.query("machine", "plan", machine.id)["plan"]
    return [disk["disk"]["serial"] for disk in plan["disks"]]


def check_mirrors(rack, machine, root, members):
    assert rack.ssh(machine, "findmnt -no SOURCE /").strip() == root
    state = rack.ssh(machine, "cat /proc/mdstat")
    assert state.count(members) == 2, state
    conf = rack.ssh(machine, "cat /etc/mdadm/mdadm.conf").splitlines()
    arrays = dict(line.removeprefix("ARRAY ").split(" UUID=") for line in conf if line.startswith("ARRAY "))
    assert list(arrays) == ["/dev/md0", "/dev/md1"]
    for array, uuid in arrays.items():
        assert rack.ssh(machine, f"readlink -f /dev/disk/by-id/md-uuid-{uuid}").strip() == array
    assert f" rd.md.uuid={arrays['/dev/md1']}" in rack.ssh(machine, "cat /proc/cmdline")


def check_volumes(rack, machine):
    assert rack.ssh(machine, "findmnt -no SOURCE /var").strip() == "/dev/mapper/system-var"
    swap = rack.ssh(machine, "readlink -f /dev/mapper/system-swap").strip()
    assert swap in rack.ssh(machine, "cat /proc/swaps"), "the swap volume is not in use"
    lines = [line.split() for line in rack.ssh(machine, "cat /etc/fstab").splitlines() if not line.startswith("#")]
    assert [line[1] for line in lines] == ["/", "/var", "/boot/efi", "none"] and all("UUID=" in line[0] for line in lines)


def efi_partition(rack, machine, serial):
    """Id of a disk's half of the EFI system partition."""
    return rack.ssh(machine, f"lsblk -no PARTUUID /dev/disk/by-id/nvme-*_{serial}-part1").strip()


def boot_entries(rack, machine):
    """Number of each of our entries in the firmware → id of the partition that it starts from; and which was taken."""
    text = rack.ssh(machine, "efibootmgr -v")
    entries = dict(re.findall(r"^Boot([0-9A-F]{4})\* metal-debian\tHD\(1,GPT,([0-9a-f-]{36}),", text, re.MULTILINE))
    return entries, re.search(r"^BootCurrent: ([0-9A-F]{4})$", text, re.MULTILINE)[1]


def booted_partition(rack, machine):
    entries, current = boot_entries(rack, machine)
    assert current in entries, "the firmware took no entry of ours"
    return entries[current]


def digests(machine):
    return {serial: digest(path) for serial, path in machine.disks.items()}


def digest(path):
    """Of all that is not zero."""
    part_bytes = 1 << 20
    found = hashlib.sha256()
    with open(path, "rb") as disk:
        at = 0
        while True:
            try:
                at = disk.seek(at, os.SEEK_DATA) // part_bytes * part_bytes
            except OSError:  # nothing but a hole is left
                return found.hexdigest()
            disk.seek(at)
            part = disk.read(part_bytes)
            if part.strip(b"\0"):
                found.update(at.to_bytes(8, "little") + part)
            at += part_bytes
