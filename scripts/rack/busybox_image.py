#!/usr/bin/python3
"""Makes the small operating system that most tests install: busybox, a kernel and /install.sh, as tar.zst.

It boots to a shell on the serial console in seconds and says there what it is:

    LAB-OS: up hostname=NAME root=DEVICE kernel=RELEASE
"""

import argparse
import io
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
MARKER = "LAB-OS: up"

# What the disk and its file system need, where the kernel does not have it built in.
MODULES = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "nvme", "ahci", "ata_piix", "crc32c_generic", "ext4"]

INITRD_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do
    /bin/busybox insmod "/modules/$module"
done </modules/order
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
tries=0
while :; do
    case $root in
        UUID=*) device=$(/bin/busybox findfs "$root" 2>/dev/null) ;;
        *) device=$root ;;
    esac
    [ -b "$device" ] && /bin/busybox mount -t ext4 "$device" /sysroot && break
    tries=$((tries + 1))
    [ $tries -gt 300 ] && echo "LAB-OS: no root $root" && /bin/busybox reboot -f
    /bin/busybox usleep 100000
done
/bin/busybox mount -o move /dev /sysroot/dev
/bin/busybox umount /proc /sys
exec /bin/busybox switch_root /sysroot /sbin/init
"""

SYSTEM_INIT = """#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts
hostname "$(cat /etc/hostname)"
root=$(awk '$2 == "/" && $1 != "rootfs" { print $1 }' /proc/mounts)
echo "LAB-OS: up hostname=$(hostname) root=$root kernel=$(uname -r)"
exec setsid cttyhack sh
"""

# What an image's installer has to do (boot-info.yaml), with what the agent gives it (install.yaml).
INSTALL = """#!/bin/sh
set -e
export PATH=/bin:/sbin
value() { sed -n "s/^$1: *//p" /etc/metal/install.yaml | tr -d "\\"'" | head -n 1; }
echo "LAB-OS: install.sh"
hostname=$(value hostname)
root=$(value root_uuid)
[ -n "$root" ] || { echo "LAB-OS: install.yaml has no root_uuid"; exit 1; }
printf '%s\\n' "$hostname" >/etc/hostname
release=$(ls /boot | sed -n 's/^System.map-//p')
cat >/etc/metal/boot-info.yaml <<INFO
initrd: /boot/initrd.img-$release
cmdline: "console=$(value console) root=UUID=$root rw panic=30"
kernel: /boot/vmlinuz-$release
bootloader_id: lab-busybox
INFO
sync
"""


def module_order(modules_dir):
    """Files to load, in an order that satisfies every dependency."""
    needs = {}
    for line in (modules_dir / "modules.dep").read_text().splitlines():
        path, _, deps = line.partition(":")
        needs[path] = deps.split()
    by_name = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in needs}
    order = []

    def add(path):
        if path not in order:
            for need in needs[path]:
                add(need)
            order.append(path)

    for name in MODULES:
        if name in by_name:
            add(by_name[name])
    return order


def cpio(entries):
    """An archive in the kernel's form of (name, mode, data)."""
    out = io.BytesIO()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def initrd(modules_dir):
    directories = ["bin", "dev", "modules", "proc", "sys", "sysroot"]
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in directories]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, INITRD_INIT.encode()))
    names = []
    for path in module_order(modules_dir):
        names.append(Path(path).name)
        entries.append((f"modules/{names[-1]}", stat.S_IFREG | 0o644, (modules_dir / path).read_bytes()))
    entries.append(("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in names).encode()))
    return cpio(entries)


class Image:
    """A tar with fixed owners and times."""

    def __init__(self, file):
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)

    def _add(self, name, kind, mode, data=b"", link=""):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.linkname = kind, mode, len(data), link
        self._tar.addfile(info, io.BytesIO(data))

    def directory(self, name, mode=0o755):
        self._add(name, tarfile.DIRTYPE, mode)

    def file(self, name, data, mode=0o644):
        self._add(name, tarfile.REGTYPE, mode, data if isinstance(data, bytes) else data.encode())

    def link(self, name, target):
        self._add(name, tarfile.SYMTYPE, 0o777, link=target)

    def close(self):
        self._tar.close()


def write_image(file, kernel_dir, padding_mib, phones_home):
    modules_dir = next((kernel_dir / "lib/modules").iterdir())
    release = modules_dir.name
    image = Image(file)
    for name in ["bin", "boot", "dev", "etc", "etc/metal", "mnt", "proc", "root", "run", "sbin", "sys", "usr", "var"]:
        image.directory(name)
    image.directory("tmp", 0o1777)
    if padding_mib:
        # What does not compress: the image is as large on the wire as here. First, so that it is there first.
        image.file("usr/padding", random.Random(1).randbytes(padding_mib << 20))
    image.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in sorted(set(applets) - {"busybox"}):
        image.link(f"bin/{applet}", "busybox")
    image.file("etc/os-release", "ID=busybox\nNAME=Busybox\nVERSION_ID=1\n")
    image.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    image.file("etc/group", "root:x:0:\n")
    image.file("etc/hostname", "unset\n")
    call = f"echo 'GET / HTTP/1.0' | nc -w 10 {phones_home} 80\n" if phones_home else ""
    image.file("install.sh", INSTALL + call, 0o755)
    image.file("sbin/init", SYSTEM_INIT, 0o755)
    image.file(f"boot/System.map-{release}", (kernel_dir / f"boot/System.map-{release}").read_bytes())
    image.file(f"boot/vmlinuz-{release}", (kernel_dir / f"boot/vmlinuz-{release}").read_bytes())
    image.file(f"boot/initrd.img-{release}", initrd(modules_dir))
    image.close()


def main():
    parser = argparse.ArgumentParser(description="makes the busybox image")
    parser.add_argument("--kernel-dir", type=Path, required=True, help="unpacked kernel package, after depmod")
    parser.add_argument("--padding-mib", type=int, default=0, help="size of a file of noise in it")
    phones_home = "its installer speaks to this address, as an image might that nobody looked into"
    parser.add_argument("--phones-home", metavar="ADDRESS", help=phones_home)
    parser.add_argument("--output", type=Path, required=True, help="the tar.zst to write")
    args = parser.parse_args()
    if not shutil.which("zstd"):
        sys.exit("error: zstd is not installed")
    with tempfile.TemporaryFile() as tar:
        write_image(tar, args.kernel_dir, args.padding_mib, args.phones_home)
        tar.seek(0)
        with open(args.output, "wb") as output:
            # Without its own check sum, so that what a digest finds is found by the digest.
            subprocess.run(["zstd", "-q", "-3", "--no-check", "-c"], stdin=tar, stdout=output, check=True)


if __name__ == "__main__":
    main()
