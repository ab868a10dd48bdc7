"""File system layouts of the lab."""

from .machine import disk_devices

EFI_MIB = 200
SWAP_MIB = 256
VAR_MIB = 1024

# Name → on a mirror of two disks?, in logical volumes?
NAMES = {"plain": (False, False), "raid1": (True, False), "lvm": (False, True), "raid1-lvm": (True, True)}


def disks_of(name):
    """How many disks a layout of ours needs."""
    mirrored, _ = NAMES[name]
    return 2 if mirrored else 1


def named(name, bus):
    """An EFI partition and a root, in the way that the name says; all boot by UEFI and by BIOS."""
    mirrored, volumes = NAMES[name]
    devices = disk_devices(bus, disks_of(name))
    efi, system = _partition_device(devices[0], 1), _partition_device(devices[0], 2)
    raid = []
    if mirrored:
        efi, system = "/dev/md0", "/dev/md1"
        raid = [_mirror(array, devices, number) for number, array in ((1, efi), (2, system))]
    filesystems = [{"path": "/boot/efi", "device": efi, "format": "vfat", "label": "efi"}]
    if volumes:
        filesystems += [
            {"path": "/", "device": "/dev/system/root", "format": "ext4", "label": "root"},
            {"path": "/var", "device": "/dev/system/var", "format": "ext4", "label": "var"},
            {"path": None, "device": "/dev/system/swap", "format": "swap", "label": "swap"},
        ]
    else:
        filesystems += [{"path": "/", "device": system, "format": "ext4", "label": "root"}]
    return {
        "id": f"lab-{bus}" if name == "plain" else f"lab-{bus}-{name}",
        "name": f"lab: {name} on {bus}",
        "description": "EFI partition and root",
        "constraints": {"sizes": [], "images": {}},
        "disks": [_disk(device, mirrored, volumes) for device in devices],
        "raid": raid,
        "volumegroups": [{"name": "system", "devices": [system], "tags": []}] if volumes else [],
        "logicalvolumes": [_volume("swap", SWAP_MIB), _volume("var", VAR_MIB), _volume("root", 0)] if volumes else [],
        "filesystems": filesystems,
    }


def _disk(device, mirrored, volumes):
    efi_type, system_type = ("fd00", "fd00") if mirrored else ("ef00", "8e00" if volumes else "8300")
    return {
        "device": device,
        "wipeonreinstall": True,
        "partitions": [
            {"number": 1, "label": "efi", "size": EFI_MIB, "gpttype": efi_type},
            {"number": 2, "label": "system" if volumes else "root", "size": 0, "gpttype": system_type},
        ],
    }


def _mirror(array, devices, number):
    # Metadata 1.0 is at the end, so that firmware can read the EFI partition.
    members = [_partition_device(device, number) for device in devices]
    options = ["--metadata", "1.0"]
    return {"arrayname": array, "level": "1", "devices": members, "createoptions": options, "spares": 0}


def _volume(name, size_mib):
    return {"name": name, "volumegroup": "system", "size": size_mib, "lvmtype": "linear"}


def _partition_device(device, number):
    return f"{device}p{number}" if device.startswith("/dev/nvme") else f"{device}{number}"
