"""File system layouts of the lab."""

from .machine import DISK_DEVICES

EFI_MIB = 200


def _partition_device(device, number):
    return f"{device}p{number}" if device.startswith("/dev/nvme") else f"{device}{number}"


def plain(bus):
    """An EFI partition and a root, on the only disk; boots by UEFI and by BIOS."""
    device = DISK_DEVICES[bus]
    return {
        "id": f"lab-{bus}",
        "name": f"lab: one disk on {bus}",
        "description": "EFI partition and root",
        "constraints": {"sizes": [], "images": {}},
        "disks": [
            {
                "device": device,
                "wipeonreinstall": True,
                "partitions": [
                    {"number": 1, "label": "efi", "size": EFI_MIB, "gpttype": "ef00"},
                    {"number": 2, "label": "root", "size": 0, "gpttype": "8300"},
                ],
            }
        ],
        "filesystems": [
            {"path": "/boot/efi", "device": _partition_device(device, 1), "format": "vfat", "label": "efi"},
            {"path": "/", "device": _partition_device(device, 2), "format": "ext4", "label": "root"},
        ],
    }
