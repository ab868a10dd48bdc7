"""Disks of every sort that QEMU has: what is erased, how, what is left alone, what happens when it does not work."""

import json
import re
from pathlib import Path

import pytest
from rack import MachineOptions, disks
from rack.paths import DIST

from installation import IMAGE, event_names, power_on_and_wait, wait_for_system

ERASE_RECORD = re.compile(r"erase record record=(\{.*\})")
CONSOLE = "console=ttyS0,115200n8 drophammer.debug=1"
GENERIC = {"kernel": DIST / "vmlinuz", "initrd": DIST / "initramfs.img", "commandline": CONSOLE}
"""Debian's kernel for virtual machines knows neither SATA nor USB."""


def add_machine(rack, *parts, **options):
    """With a small disk of its own and these: disks, full of old data, and the controllers before them."""
    extra = []
    for part in parts:
        if isinstance(part, disks.Disk):
            part.fill()
            extra += part.arguments()
        else:
            extra += part
    return rack.add_machine(MachineOptions(disk_gib=1, extra=extra, **options))


def image(rack, name):
    return Path(rack.directory) / f"{name}.img"


def records(machine):
    """The agent's erase records, by the device's name."""
    found = ERASE_RECORD.findall(machine.console.text())
    return {record["device"]: record for record in map(json.loads, found)}


def methods(record):
    """All that was tried, and whether it worked."""
    return [(attempt["method"], attempt["refusal"] is None) for attempt in record["attempts"]]


# The kernel's own second before it asks a USB disk for its units, and three more: by then all other phases are over.
@pytest.mark.settings(**GENERIC | {"commandline": f"{CONSOLE} usb-storage.delay_use=4"})
def test_disks_of_every_sort_are_erased_and_what_can_be_taken_out_is_untouched(rack):
    rack.start_anvil()
    fixed = [
        disks.virtio("VIRTIO", image(rack, "virtio")),
        disks.virtio_of_4096("VIRTIO4K", image(rack, "virtio4k")),
        disks.namespace("NS1", image(rack, "ns1"), "nvme9", 1),
        disks.namespace("NS2", image(rack, "ns2"), "nvme9", 2, sector=4096),
        disks.sata("SATA", image(rack, "sata"), 0),
        disks.scsi("SCSI", image(rack, "scsi")),
        disks.usb("USBDISK", image(rack, "usbdisk"), removable=False),
    ]
    others = [disks.usb("STICK", image(rack, "stick"), removable=True), disks.cdrom("CD", image(rack, "cd"), 1)]
    controllers = [disks.nvme_controller("nvme9"), disks.sata_controller(), disks.scsi_controller()]
    machine = add_machine(rack, *controllers, disks.usb_controller(), *fixed, *others)
    before = {disk.name: disk.digest() for disk in others}
    power_on_and_wait(rack, machine)
    machine.power_off()
    not_zero = {disk.name: disk.first_not_zero() for disk in fixed if disk.first_not_zero() is not None}
    assert not not_zero, f"old data, or anything but zeros, at these offsets: {not_zero}"
    assert {disk.name: disk.digest() for disk in others} == before

    told = records(machine)
    by_serial = {record["serial"]: record for record in told.values() if record["serial"] not in (None, "nvme9")}
    assert {serial: methods(record) for serial, record in by_serial.items()} == {
        serial: [("zero_out", True)] for serial in ("VIRTIO", "VIRTIO4K", "SATA", "SCSI", machine_serial(machine))
    }
    for namespace in ("/dev/nvme0n1", "/dev/nvme0n2"):
        assert methods(told[namespace]) == [("nvme_format", True)], "each namespace has its own format command"
    assert len(told) == len(fixed) + 1, f"the machine's own disk and these: {list(told)}"
    for record in told.values():
        assert record["result"]["erased"]["verified_bytes"] >= disks.CHUNK * 64, record
    assert machine.console.find(r"drophammer: /dev/sd\w \(.*\): skipped: removable medium")


def machine_serial(machine):
    return f"LAB-{machine.name}"


@pytest.mark.settings(commandline=f"{CONSOLE} drophammer.erase=clear,format-unit")
def test_a_disk_that_lies_about_format_unit_is_found_out_and_erased_by_the_next_method(rack):
    """QEMU's SCSI disk takes FORMAT UNIT, reports success, and changes nothing."""
    rack.start_anvil()
    liar = disks.scsi("LIAR", image(rack, "liar"))
    machine = add_machine(rack, disks.scsi_controller(), liar)
    power_on_and_wait(rack, machine)
    machine.power_off()
    assert liar.first_not_zero() is None
    record = next(record for record in records(machine).values() if record["serial"] == "LIAR")
    assert methods(record) == [("scsi_format", False), ("zero_out", True)]
    assert record["attempts"][0]["refusal"].startswith("not blank when read back: at offset 0"), record
    said = machine.console.find(r"drophammer: /dev/sda \(.*\): erased by zero-out")
    assert said and "SCSI format unit did not work: not blank when read back" in said.text, said


@pytest.mark.settings(commandline=f"{CONSOLE} drophammer.erase=purge")
def test_purge_takes_no_disk_without_a_command_of_its_own_and_the_machine_is_not_offered(rack):
    rack.start_anvil()
    plain = disks.virtio("PLAIN", image(rack, "plain"))
    able = disks.namespace("NS1", image(rack, "ns1"), "nvme9", 1)
    machine = add_machine(rack, disks.nvme_controller("nvme9"), plain, able)
    before = plain.digest()
    message = crash_of(rack, machine)
    assert "serial PLAIN" in message and "level purge takes nothing else" in message, message
    assert "nvme" not in message, f"this one can be purged: {message}"
    assert plain.digest() == before
    assert able.first_not_zero() is None
    assert methods(records(machine)["/dev/nvme0n1"]) == [("nvme_format", True)]


def test_disks_that_fail_or_refuse_to_be_written_are_named_and_the_machine_is_not_offered(rack):
    rack.start_anvil()
    at = 40 * disks.CHUNK
    spoilt = disks.virtio("UNREADABLE", image(rack, "unreadable"))
    spoilt.fail(at, "read")
    worn = disks.virtio("WORN", image(rack, "worn"))
    worn.fail(at, "write", "write-zeroes")
    protected = disks.virtio("PROTECTED", image(rack, "protected"))
    protected.drive = ",readonly=on"
    machine = add_machine(rack, spoilt, worn, protected)
    before = protected.digest()
    message = crash_of(rack, machine)
    failures = dict(re.findall(r"serial (\w+)\): NOT ERASED: (.*?)(?=; /dev/|$)", message))
    assert failures.keys() == {"UNREADABLE", "WORN", "PROTECTED"}, message
    for serial in ("UNREADABLE", "WORN"):
        assert f"at offset {at}: Input/output error" in failures[serial], message
    assert failures["PROTECTED"] == "write-protected", message
    assert protected.digest() == before


def crash_of(rack, machine):
    """What the API is told instead of being offered the machine."""
    machine.power_on()
    message = rack.wait_for_event(machine, "Crashed", fatal=())["message"]
    assert "so this machine is not offered" in message, message
    assert "Waiting" not in event_names(rack, machine)
    machine.power_off()
    return message


@pytest.mark.parametrize("bus", ["nvme", "virtio"])
def test_a_system_is_installed_on_sectors_of_4096_bytes(rack, busybox, bus):
    """Of the NVMe disk that also shows that its erasure by Format has kept the sectors as they were."""
    rack.start_anvil()
    rack.add_image(IMAGE, busybox)
    if bus == "nvme":
        disk = disks.namespace("NS1", image(rack, "ns1"), "nvme9", 1, 512, sector=4096)
        machine = add_machine(rack, disks.nvme_controller("nvme9"), disk)
    else:
        disk = disks.virtio_of_4096("VIRTIO4K", image(rack, "virtio4k"), 512)
        machine = add_machine(rack, disk, disk="scsi")
    layout_id = rack.add_layout(bus)
    power_on_and_wait(rack, machine)
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    wait_for_system(machine, "web-1")
    machine.power_off()
    assert machine.console.find(r"drophammer: disks made in [0-9.]+ s; writing 3 partitions to /dev/\w+: [0-9.]+ s;")
    if bus == "nvme":
        assert methods(records(machine)["/dev/nvme0n1"]) == [("nvme_format", True)]
    with open(disk.path, "rb") as file:
        assert gpt_signatures(file) == [4096, disk.size_mib * disks.CHUNK - 4096]


def gpt_signatures(file):
    """Where a GPT's header may begin, for either size of sectors, and does."""
    found = []
    size = file.seek(0, 2)
    for offset in (512, 4096, size - 4096, size - 512):
        file.seek(offset)
        found += [offset] if file.read(8) == b"EFI PART" else []
    return found
