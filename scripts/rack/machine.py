"""One QEMU machine: from its options to QEMU's arguments, and its switches."""

import functools
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from . import commands
from .commands import LabError
from .console import Console
from .qmp import Qmp
from .switch import Switch

QEMU = "qemu-system-x86_64"
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

FIRMWARES = ("bios", "uefi")
DISK_DEVICES = {"virtio": "/dev/vda", "nvme": "/dev/nvme0n1", "sata": "/dev/sda", "scsi": "/dev/sda"}
"""Bus → name that Linux gives to the first disk on it."""
MOST_DISKS = 6
"""As many ports has the SATA controller."""


def disk_devices(bus, count):
    """Names that Linux gives to the disks on a bus."""
    first = DISK_DEVICES[bus]
    if bus == "nvme":
        return [first.replace("nvme0", f"nvme{number}") for number in range(count)]
    return [first[:-1] + chr(ord(first[-1]) + number) for number in range(count)]


# A boot sector that asks QEMU's debug-exit device to end with status 33.
PROBE_CODE = bytes([0xBA, 0x01, 0x05, 0xB0, 0x10, 0xEE, 0xF4])
PROBE_STATUS = 33


@dataclass(frozen=True)
class Direct:
    """QEMU loads kernel and initramfs itself: no PXE."""

    kernel: Path
    initrd: Path
    cmdline: str


@dataclass
class MachineOptions:
    firmware: str = "bios"
    memory_mib: int = 512
    disk: str = "virtio"
    disk_gib: int = 4
    """Of each disk. The host sets it aside when the agent has it zeroed."""
    disks: int = 1
    """All on the same bus."""
    cpus: int | str = 2
    """Of `-smp`: a number, or with the topology."""
    boot: Direct | None = None
    """None: by PXE."""
    links: int = 1
    """Network cards, all on the same bridge; the first is the one it boots over."""
    capture: bool = False
    """Writes every packet of the machine's card to NAME.pcap."""
    switch: bool = False
    """Its card hangs on a switch of its own, which can lose, delay and repeat frames: `Machine.switch`."""
    watchdog: bool = False
    extra: list = field(default_factory=list)
    """Further arguments for QEMU."""


@functools.cache
def accelerator():
    """`kvm` where a virtual machine really runs with it, else `tcg`: /dev/kvm may be there and yet not work."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with tempfile.NamedTemporaryFile(suffix=".img") as sector:
        sector.write(PROBE_CODE.ljust(510, b"\0") + b"\x55\xaa")
        sector.flush()
        argv = [QEMU, "-accel", "kvm", "-cpu", "host", "-nodefaults", "-display", "none", "-no-reboot"]
        argv += ["-device", "isa-debug-exit,iobase=0x501,iosize=2"]
        argv += ["-drive", f"file={sector.name},format=raw,if=ide,snapshot=on"]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=15, check=False)
        except (subprocess.TimeoutExpired, FileNotFoundError):
            return "tcg"
    return "kvm" if done.returncode == PROBE_STATUS else "tcg"


class Machine:
    """Made by `Rack.add_machine`. Its disk and its UEFI variables outlive `power_off`."""

    def __init__(self, index, network, directory, sockets, options):
        if options.firmware not in FIRMWARES:
            raise LabError(f"firmware {options.firmware!r} is none of {', '.join(FIRMWARES)}")
        if options.disk not in DISK_DEVICES:
            raise LabError(f"disk {options.disk!r} is none of {', '.join(DISK_DEVICES)}")
        if not 1 <= options.disks <= MOST_DISKS:
            raise LabError(f"{options.disks} disks: expected 1 to {MOST_DISKS}")
        self.name = f"machine-{index + 1}"
        self.options = options
        self.id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"drophammer lab {index}"))
        self.mac = f"52:54:00:77:00:{index + 1:02x}"
        names = [self.name, *(f"{self.name}-{number}" for number in range(2, options.disks + 1))]
        self.disks = {f"LAB-{name}": directory / f"{name}.raw" for name in names}
        """By serial number. What is taken out of here is pulled out of the machine, from its next power-on."""
        self.disk = directory / f"{self.name}.raw"
        self.pcap = directory / f"{self.name}.pcap"
        self.serial_socket = sockets / f"{self.name}.serial"
        self.powered_on_at = None
        self.boots_from_disk = False
        """From the next power-on: the disk before the network."""
        self._log = directory / f"{self.name}.qemu.log"
        self._vars = directory / f"{self.name}.vars"
        self._qmp_socket = sockets / f"{self.name}.qmp"
        self._network = network
        self.tap = network.add_tap()
        self._other_taps = [network.add_tap() for _ in range(1, options.links)]
        self.switch = None
        if options.switch:
            self.switch = Switch(network, self.tap, sockets, self.name, directory / f"{self.name}.switch.log")
        self._process = None
        self.qmp = None
        self.console = Console(directory / f"{self.name}.console")
        for path in self.disks.values():
            with open(path, "wb") as disk:
                disk.truncate(options.disk_gib << 30)
        if options.firmware == "uefi":
            shutil.copy(OVMF_VARS, self._vars)

    @property
    def disk_device(self):
        return DISK_DEVICES[self.options.disk]

    def is_on(self):
        return self._process is not None and self._process.poll() is None

    def power_on(self):
        if self.is_on():
            raise LabError(f"{self.name} is on already")
        old = [self.serial_socket, self._qmp_socket] + ([self.switch.machine_path] if self.switch else [])
        for path in old:
            path.unlink(missing_ok=True)
        self.powered_on_at = time.monotonic()
        self._process = commands.start(self.arguments(), self._log, namespace=self._network.namespace)
        try:
            self.qmp = Qmp(self._qmp_socket)
        except LabError as error:
            raise LabError(f"{error}\n{self._log.read_text(errors='replace')}") from error

    def power_off(self):
        """Pulls the plug; the disk keeps what it has."""
        if self.qmp:
            self.qmp.close()
            self.qmp = None
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None

    def close(self):
        self.power_off()
        if self.switch:
            self.switch.close()
        self.console.close()

    def set_link(self, up):
        """Plugs the network cable in or out."""
        self.qmp.command("set_link", name="nic0", up=up)

    def wait_for_line(self, pattern, timeout, after=0):
        return self.console.wait_for_line(pattern, timeout, after, alive=self.is_on)

    def type(self, text):
        """Types on the serial console."""
        with socket.socket(socket.AF_UNIX) as serial:
            serial.connect(str(self.serial_socket))
            serial.sendall(text.encode())
            # QEMU drops what the guest has not taken when the socket closes: stay until the echo has ended.
            serial.settimeout(1)
            deadline = time.monotonic() + 5
            try:
                while serial.recv(4096) and time.monotonic() < deadline:
                    pass
            except TimeoutError:
                pass

    def arguments(self):
        options = self.options
        argv = [QEMU, "-name", self.name, "-nodefaults", "-display", "none", "-uuid", self.id]
        argv += ["-m", str(options.memory_mib), "-smp", str(options.cpus)]
        kvm = accelerator() == "kvm"
        # With a thread for each CPU, one boot in some hundreds hangs: a CPU waits for ever for another one to take its
        # interrupt (seen in the kernel as a soft lockup in smp_call_function_many_cond). One thread is as fast here.
        argv += ["-accel", "kvm", "-cpu", "host"] if kvm else ["-accel", "tcg,thread=single", "-cpu", "Nehalem"]
        argv += self._firmware_arguments()
        # The log has everything, whether or not somebody is at the socket.
        serial = f"path={self.serial_socket},server=on,wait=off,logfile={self.console.path},logappend=on"
        argv += ["-chardev", f"socket,id=serial0,{serial}"]
        argv += ["-serial", "chardev:serial0", "-qmp", f"unix:{self._qmp_socket},server=on,wait=off"]
        argv += ["-device", "virtio-rng-pci"]
        argv += self._network_arguments() + self._disk_arguments()
        if options.watchdog:
            argv += ["-device", "i6300esb", "-action", "watchdog=reset"]
        if options.boot:
            argv += ["-kernel", options.boot.kernel, "-initrd", options.boot.initrd, "-append", options.boot.cmdline]
        return [str(word) for word in argv + options.extra]

    def _firmware_arguments(self):
        if self.options.firmware == "bios":
            return ["-M", "pc,graphics=off"]  # so that SeaBIOS and iPXE speak on the serial line
        return [
            *("-M", "q35"),
            *("-drive", f"if=pflash,format=raw,readonly=on,file={OVMF_CODE}"),
            *("-drive", f"if=pflash,format=raw,file={self._vars}"),
            *("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no"),
        ]

    def _network_arguments(self):
        order = "" if self.options.boot or self.boots_from_disk else ",bootindex=1"
        # The dump would hold the tap's own header before each frame.
        header = ",vnet_hdr=off" if self.options.capture else ""
        argv = ["-netdev", f"tap,id=net0,ifname={self.tap},script=no,downscript=no{header}"]
        if self.switch:
            ends = f"local.path={self.switch.machine_path},remote.path={self.switch.path}"
            argv = ["-netdev", f"dgram,id=net0,local.type=unix,remote.type=unix,{ends}"]
        argv += ["-device", f"virtio-net-pci,id=nic0,netdev=net0,mac={self.mac}{order}"]
        for number, tap in enumerate(self._other_taps, 1):
            mac = self.mac.replace(":00:", f":{number:02x}:", 1)
            argv += ["-netdev", f"tap,id=net{number},ifname={tap},script=no,downscript=no"]
            argv += ["-device", f"virtio-net-pci,id=nic{number},netdev=net{number},mac={mac}"]
        if self.options.capture:
            argv += ["-object", f"filter-dump,id=dump0,netdev=net0,file={self.pcap}"]
        return argv

    def _disk_arguments(self):
        argv = {
            "virtio": [],
            "nvme": [],
            "sata": ["-device", "ich9-ahci,id=ahci0"],
            "scsi": ["-device", "virtio-scsi-pci,id=scsi0"],
        }[self.options.disk]
        for number, (serial, path) in enumerate(self.disks.items()):
            argv += self._one_disk_arguments(number, serial, path)
        return argv

    def _one_disk_arguments(self, number, serial, path):
        # No cache flushes to the host's disk: what is lost with the host is a lab.
        drive = f"if=none,id=disk{number},file={path},format=raw,discard=unmap,cache=unsafe"
        # An order given here makes OVMF forget the entries that an installed system wrote: then none is given.
        own_order = self.boots_from_disk and self.options.firmware == "uefi"
        device = f"drive=disk{number},serial={serial}" + ("" if own_order else f",bootindex={number + 2}")
        by_bus = {
            "virtio": f"virtio-blk-pci,{device}",
            "nvme": f"nvme,{device}",
            "sata": f"ide-hd,bus=ahci0.{number},{device}",
            "scsi": f"scsi-hd,bus=scsi0.0,scsi-id={number},{device}",
        }
        return ["-drive", drive, "-device", by_bus[self.options.disk]]
