"""The inventory equals the command line that made the machine."""

import json
import stat
import subprocess

from rack import Direct, MachineOptions
from rack.busybox_image import BUSYBOX, cpio
from rack.paths import DIST

# The agent's own archive, with a shell beside it: drivers as the agent would load them, then the subcommand.
SCRIPT = """#!/bin/busybox sh
/bin/busybox --install -s /applets
export PATH=/applets
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for round in 1 2 3; do
    find /sys/devices -name modalias | while read -r file; do modprobe -q "$(cat "$file")"; done
done
modprobe -a sd_mod ipmi_si ipmi_devintf
sleep 3
stty -F /dev/ttyS1 raw
/init inventory --format json >/dev/ttyS1 2>/dev/console
/init inventory >/dev/console
echo "INVENTORY: done"
sleep 1
poweroff -f
"""

UUID = "3c1b2a00-1111-4222-8333-444455556666"
MIB = 1 << 20


def archive(directory):
    """The generic kernel's initramfs, and behind it what runs the script in place of the agent."""
    entries = [
        ("applets", stat.S_IFDIR | 0o755, b""),
        ("bin", stat.S_IFDIR | 0o755, b""),
        ("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes()),
        ("look", stat.S_IFREG | 0o755, SCRIPT.encode()),
    ]
    shipped = (DIST / "initramfs.img").read_bytes()
    path = directory / "initrd"
    path.write_bytes(shipped + b"\0" * (-len(shipped) % 4) + cpio(entries))
    return path


def drive(directory, name, mib):
    path = directory / f"{name}.raw"
    with open(path, "wb") as file:
        file.truncate(mib * MIB)
    return path, ["-drive", f"if=none,id={name},file={path},format=raw"]


def hardware(directory):
    """Arguments for QEMU."""
    first, first_drive = drive(directory, "first", 96)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-L", "left-over", first], check=True)
    _, second_drive = drive(directory, "second", 64)
    _, sata_drive = drive(directory, "sata", 80)
    _, scsi_drive = drive(directory, "scsi", 72)
    _, stick_drive = drive(directory, "stick", 32)
    nics = [("e1000", "02"), ("e1000e", "03"), ("vmxnet3", "04")]
    argv = []
    for model, number in nics:
        argv += ["-netdev", f"user,id=n{number},restrict=on"]
        argv += ["-device", f"{model},netdev=n{number},mac=52:54:00:99:00:{number}"]
    return argv + [
        *first_drive,
        *second_drive,
        *("-device", "nvme,id=nvme0,serial=NVME-LAB-1"),
        *("-device", "nvme-ns,drive=first,bus=nvme0,nsid=1"),
        *("-device", "nvme-ns,drive=second,bus=nvme0,nsid=2,logical_block_size=4096,physical_block_size=4096"),
        *sata_drive,
        *("-device", "ich9-ahci,id=ahci0"),
        *("-device", "ide-hd,drive=sata,bus=ahci0.0,serial=SATA-LAB-1,wwn=0x5000c50012345678,model=LAB SATA"),
        *scsi_drive,
        *("-device", "virtio-scsi-pci,id=scsi0"),
        *("-device", "scsi-hd,drive=scsi,bus=scsi0.0,serial=SCSI-LAB-1,wwn=0x5000c500aabbccdd"),
        *stick_drive,
        *("-device", "qemu-xhci", "-device", "usb-storage,drive=stick,removable=on,serial=STICK-1"),
        *("-device", "ipmi-bmc-sim,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0"),
        *("-smbios", "type=0,vendor=Lab Bios,version=7.1,date=01/02/2026"),
        *("-smbios", f"type=1,manufacturer=Lab Works,product=Rack One,serial=S-77,uuid={UUID},sku=SKU-1"),
        *("-smbios", "type=2,manufacturer=Lab Boards,product=Board One,serial=B-77,asset=Default string"),
        *("-smbios", "type=3,manufacturer=Lab Cases,serial=C-77,asset=RACK-3-U9"),
        *("-smbios", "type=17,manufacturer=Lab Memory,serial=M-77,part=PN-512,asset=A-77,speed=3200,loc_pfx=DIMM"),
        *("-numa", "node,nodeid=0,cpus=0-3,memdev=m0", "-numa", "node,nodeid=1,cpus=4-7,memdev=m1"),
        *("-object", "memory-backend-ram,id=m0,size=384M", "-object", "memory-backend-ram,id=m1,size=384M"),
    ]


def test_the_inventory_is_the_machine_that_was_made(rack, tmp_path):
    answer = tmp_path / "inventory.json"
    serial = ["-chardev", f"file,id=answer,path={answer}", "-serial", "chardev:answer"]
    # Without the firmware's own console the second port is the machine's second.
    boot = Direct(DIST / "vmlinuz", archive(tmp_path), "console=ttyS0,115200n8 net.ifnames=0 rdinit=/look quiet")
    options = MachineOptions(memory_mib=768, cpus="8,sockets=2,cores=2,threads=2", boot=boot)
    options.extra = serial + hardware(tmp_path)
    machine = rack.add_machine(options)
    machine.power_on()
    machine.wait_for_line("INVENTORY: done", 600)
    machine.power_off()
    check(json.loads(answer.read_text()), machine)


def check(found, machine):
    # -uuid is the machine's, and -smbios type=1 goes over it.
    assert found["uuid"] == UUID
    assert found["kind"] == "server"
    check_firmware(found)
    check_processors_and_memory(found)
    check_disks({disk["name"]: disk for disk in found["disks"]}, found)
    check_cards({nic["mac"]: nic for nic in found["nics"]}, machine)
    assert found["bmc"]["ipmi_version"] == "2.0"


def check_firmware(found):
    assert found["bios"] == {"vendor": "Lab Bios", "version": "7.1", "date": "01/02/2026"}
    assert found["firmware"] == "bios"
    product = found["product"]
    assert (product["vendor"], product["name"], product["serial"], product["sku"]) == (
        "Lab Works",
        "Rack One",
        "S-77",
        "SKU-1",
    )
    board = found["board"]
    assert (board["vendor"], board["name"], board["serial"]) == ("Lab Boards", "Board One", "B-77")
    assert "asset_tag" not in board, "what nobody filled in is absent"
    assert (found["chassis"]["serial"], found["chassis"]["asset_tag"]) == ("C-77", "RACK-3-U9")


def check_processors_and_memory(found):
    cpus = [(cpu["socket"], cpu["cores"], cpu["threads"], cpu["numa_nodes"]) for cpu in found["cpus"]]
    assert cpus == [(0, 2, 4, [0]), (1, 2, 4, [1])]
    assert found["memory"] == 768 * MIB
    assert [node["node"] for node in found["memory_nodes"]] == [0, 1]
    module = found["dimms"]["modules"][0]
    wanted = {"vendor": "Lab Memory", "serial": "M-77", "part_number": "PN-512", "asset_tag": "A-77"}
    assert {key: module[key] for key in wanted} == wanted
    assert sum(module["size"] for module in found["dimms"]["modules"]) == 768 * MIB


def check_disks(disks, found):
    one, two = disks["/dev/nvme0n1"], disks["/dev/nvme0n2"]
    assert (one["size"], one["logical_block_bytes"], one["transport"]) == (96 * MIB, 512, "nvme")
    assert (two["size"], two["logical_block_bytes"]) == (64 * MIB, 4096)
    assert one["serial"] == two["serial"] == "NVME-LAB-1"
    assert (one["content"]["kind"], one["content"]["label"]) == ("ext4", "left-over")
    assert one["health"]["failing"] is False and one["health"]["critical_warnings"] == []
    assert "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_NVME-LAB-1_1" in one["stable_paths"], one["stable_paths"]
    controller = next(c for c in found["nvme_controllers"] if c["serial"] == "NVME-LAB-1")
    assert [(n["id"], n["attached"], n["disk"]) for n in controller["namespaces"]] == [
        (1, True, "/dev/nvme0n1"),
        (2, True, "/dev/nvme0n2"),
    ]
    by_serial = {disk.get("serial"): disk for disk in disks.values()}
    sata = by_serial["SATA-LAB-1"]
    assert (sata["transport"], sata["size"], sata["model"]) == ("sata", 80 * MIB, "LAB SATA")
    assert "5000c50012345678" in sata["wwn"] and sata["health"] == {"failing": False, "critical_warnings": []}
    assert "/dev/disk/by-id/ata-LAB_SATA_SATA-LAB-1" in sata["stable_paths"], sata["stable_paths"]
    scsi = by_serial["SCSI-LAB-1"]
    assert (scsi["transport"], scsi["size"]) == ("scsi", 72 * MIB)
    assert "5000c500aabbccdd" in scsi["wwn"]
    stick = next(disk for disk in disks.values() if disk["transport"] == "usb")
    assert stick["removable"] is True and stick["size"] == 32 * MIB


def check_cards(nics, machine):
    drivers = {
        machine.mac: "virtio_net",
        "52:54:00:99:00:02": "e1000",
        "52:54:00:99:00:03": "e1000e",
        "52:54:00:99:00:04": "vmxnet3",
    }
    assert {mac: nics[mac]["driver"] for mac in drivers} == drivers
    for mac in drivers:
        # virtio's driver tells no permanent address by ethtool, but the kernel says that it is not a made one.
        assert nics[mac]["permanent_mac"] == mac
        assert nics[mac]["pci_address"].startswith("0000:")
