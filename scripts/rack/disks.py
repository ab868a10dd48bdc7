"""Further disks of a machine, of all sorts that QEMU has, with old data on them."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 1 << 20
OLD_DATA = b"OLD DATA"
RECORD_BYTES = 64
"""Each record of the old data begins with those words."""


@dataclass
class Disk:
    """One image file and the device that shows it to the machine."""

    name: str
    """Its serial number, too, where its sort has one of its own."""
    path: Path
    size_mib: int
    drive: str = ""
    """Further words of `-drive`."""
    file: str = ""
    """In place of `file=` of `-drive`."""
    device: list = field(default_factory=list)
    """Arguments for QEMU; `{drive}` stands for the drive's id."""

    def fill(self):
        """Old data from the first byte to the last: no byte of it is zero."""
        with open(self.path, "wb") as file:
            for number in range(self.size_mib):
                file.write(self._old_data(number))

    def mark(self):
        """Old data at the beginning, in the middle and at the end only: the host sets aside little."""
        with open(self.path, "wb") as file:
            file.truncate(self.size_mib * CHUNK)
            for number in (0, 1, self.size_mib // 2, self.size_mib - 1):
                file.seek(number * CHUNK)
                file.write(self._old_data(number))

    def _old_data(self, number):
        record = OLD_DATA + f" of {self.name} in MiB {number}. ".encode()
        return record.ljust(RECORD_BYTES, b"*") * (CHUNK // RECORD_BYTES)

    def old_bytes(self):
        """How much of the old data can still be read."""
        return sum(chunk.count(OLD_DATA) for chunk in self._chunks()) * RECORD_BYTES

    def first_not_zero(self):
        """Offset of the MiB with the first byte that is not zero; None when all of it is."""
        empty = bytes(CHUNK)
        return next((number * CHUNK for number, chunk in enumerate(self._chunks()) if chunk != empty), None)

    def digest(self):
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self):
        with open(self.path, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def fail(self, offset, *kinds):
        """From now on every request of these kinds (`read`, `write`, `write-zeroes`) that touches `offset` fails."""
        self.file = f"file.driver=blkdebug,file.image.driver=file,file.image.filename={self.path}"
        for number, kind in enumerate(kinds):
            rule = f"file.inject-error.{number}"
            self.file += f",{rule}.event=none,{rule}.iotype={kind},{rule}.sector={offset // 512}"

    def arguments(self):
        file = self.file or f"file={self.path}"
        drive = f"if=none,id=drive-{self.name},{file},format=raw,discard=unmap,cache=unsafe{self.drive}"
        return ["-drive", drive, *(word.format(drive=f"drive-{self.name}", serial=self.name) for word in self.device)]


def virtio(name, path, size_mib=64, more=""):
    return Disk(name, path, size_mib, device=["-device", f"virtio-blk-pci,drive={{drive}},serial={{serial}}{more}"])


def virtio_of_4096(name, path, size_mib=64):
    """Its sectors have 4096 bytes."""
    return virtio(name, path, size_mib, ",logical_block_size=4096,physical_block_size=4096")


def nvme_controller(name):
    """Arguments of a controller; its namespaces follow it."""
    return ["-device", f"nvme,id={name},serial={name}"]


def namespace(name, path, controller, number, size_mib=64, sector=512):
    sectors = f"logical_block_size={sector},physical_block_size={sector}"
    device = f"nvme-ns,drive={{drive}},bus={controller},nsid={number},{sectors}"
    return Disk(name, path, size_mib, device=["-device", device])


def sata_controller():
    return ["-device", "ich9-ahci,id=sata0"]


def sata(name, path, port, size_mib=64):
    device = f"ide-hd,bus=sata0.{port},drive={{drive}},serial={{serial}}"
    return Disk(name, path, size_mib, device=["-device", device])


def cdrom(name, path, port, size_mib=64):
    return Disk(name, path, size_mib, ",readonly=on", device=["-device", f"ide-cd,bus=sata0.{port},drive={{drive}}"])


def scsi_controller():
    return ["-device", "virtio-scsi-pci,id=scsi1"]


def scsi(name, path, number=0, size_mib=64, more=""):
    device = f"scsi-hd,bus=scsi1.0,scsi-id={number},drive={{drive}},serial={{serial}}{more}"
    return Disk(name, path, size_mib, device=["-device", device])


def usb_controller():
    return ["-device", "qemu-xhci,id=usb1"]


def usb(name, path, removable, size_mib=64):
    """A stick, or a disk in a box."""
    device = f"usb-storage,bus=usb1.0,drive={{drive}},serial={{serial}},removable={'on' if removable else 'off'}"
    return Disk(name, path, size_mib, device=["-device", device])
