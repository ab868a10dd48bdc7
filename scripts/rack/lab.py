"""scripts/lab: the whole job in front of your eyes, from power-on to a login on the installed system."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from . import initramfs, layout, network, terminal, timeline
from .anvil import HTTP_PORT
from .commands import CommandFailed, LabError
from .machine import DISK_DEVICES, FIRMWARES, MOST_DISKS, MachineOptions, accelerator
from .paths import DIST, ROOT, SCRIPTS
from .rack import INSTALL_TIMEOUT, REGISTER_TIMEOUT, Rack, Settings

IMAGE_ID = "debian-12.0"
KERNELS = {"generic": ("vmlinuz", "initramfs.img"), "cloud": ("vmlinuz-cloud", "initramfs-cloud.img")}
MONOLITHIC = "monolithic"

# What is shown of the installed system.
SHOW = [
    ("host name", "hostname"),
    ("disks", "lsblk -o NAME,SIZE,TYPE,FSTYPE,LABEL,MOUNTPOINTS"),
    ("/etc/resolv.conf", "cat /etc/resolv.conf"),
    (
        "time server",
        "timedatectl show-timesync -p ServerName -p ServerAddress -p SystemNTPServers 2>/dev/null || chronyc -n sources",
    ),
]


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description="Makes a rack without a way out in a network namespace, boots machines in it by PXE, and installs "
        "an operating system on them. Needs root. The first run builds everything; later runs reuse it.",
    )
    parser.add_argument("--firmware", choices=FIRMWARES, default="bios")
    parser.add_argument("--memory", type=int, default=512, metavar="MIB", help="of each machine (default 512)")
    parser.add_argument("--disk", choices=sorted(DISK_DEVICES), default="virtio", help="the bus it hangs on")
    parser.add_argument("--disk-size", type=int, default=8, metavar="GIB", help="of each disk (default 8)")
    parser.add_argument("--disks", type=int, metavar="N", help="of each machine (default: as many as the layout needs)")
    kinds = "how the disks are laid out: one of ours, or a file with a layout of your own"
    parser.add_argument("--layout", default="plain", metavar="|".join([*layout.NAMES, "FILE"]), help=kinds)
    parser.add_argument("--machines", type=int, default=1, metavar="N")
    parser.add_argument("--image", type=Path, metavar="FILE", help="image to install (default: a Debian 12 made here)")
    kernel = "the agent's kernel: Debian's (the default), Debian's for virtual machines, one without modules, your own"
    parser.add_argument("--kernel", default="generic", metavar="generic|cloud|monolithic|FILE", help=kernel)
    parser.add_argument("--keep", action="store_true", help="leave it running, and tell how to reach it")
    parser.add_argument("--manual", action="store_true", help="stop before the allocation: the anvil command is yours")
    args = parser.parse_args(argv)
    if args.machines < 1 or args.machines > 90:
        parser.error("--machines: between 1 and 90")
    if args.memory < 256:
        parser.error("--memory: at least 256")
    if args.image and not args.image.is_file():
        parser.error(f"--image: {args.image} is no file")
    if args.layout not in layout.NAMES and not Path(args.layout).is_file():
        parser.error(f"--layout: {args.layout} is neither {', '.join(layout.NAMES)} nor a file")
    needed = layout.disks_of(args.layout) if args.layout in layout.NAMES else 1
    args.disks = needed if args.disks is None else args.disks
    if not needed <= args.disks <= MOST_DISKS:
        parser.error(f"--disks: between {needed} and {MOST_DISKS} with this layout")
    names = [*KERNELS, MONOLITHIC]
    if args.kernel not in names and not Path(args.kernel).is_file():
        parser.error(f"--kernel: {args.kernel} is neither {', '.join(names)} nor a file")
    return args


def build(screen, *words):
    """Runs one of our scripts; its own steps are shown while it runs. Returns the last line it printed."""
    with screen.step(" ".join([Path(words[0]).name, *words[1:]])) as step:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = {**os.environ, "ANNOUNCE_STEPS": "1"}
        process = subprocess.Popen(words, **streams, text=True, cwd=ROOT, env=environment)
        output = []
        try:
            for line in process.stdout:
                output.append(line.rstrip())
                step.detail = output[-1]
        finally:
            process.wait()
        if process.returncode != 0:
            raise LabError("\n".join(output[-50:]))
    return output[-1] if output else ""


def kernel_files(name, screen):
    if name in KERNELS:
        kernel, initrd = KERNELS[name]
        return DIST / kernel, DIST / initrd
    if name == MONOLITHIC:
        kernel = Path(build(screen, str(SCRIPTS / "kernel")))
        return kernel, initramfs.build(kernel.parent / "initramfs.img")
    # Some other kernel: the drivers packed for the generic one do no harm, and are not needed if it has its own.
    return Path(name).resolve(), DIST / "initramfs.img"


def main(argv=None):
    args = parse_arguments(argv)
    screen = terminal.Terminal()
    if os.geteuid() != 0:
        screen.line("error: network namespaces and taps need root: run it with sudo")
        return 1
    try:
        run_lab(args, screen)
    except LabError as error:
        screen.line(f"error: {error}")
        if hasattr(error, "kept_logs"):
            screen.line(f"consoles and logs are kept in {error.kept_logs}")
        return 1
    except KeyboardInterrupt:
        screen.line("stopped; everything is cleaned up")
        return 130
    return 0


def run_lab(args, screen):
    build(screen, str(SCRIPTS / "build"))
    # Debian's kernel for virtual machines has no SATA.
    flavour = "generic" if args.disk == "sata" else "cloud"
    image = args.image or Path(build(screen, str(SCRIPTS / "image"), "debian-12", "--kernel", flavour))
    kernel, initrd = kernel_files(args.kernel, screen)
    with Rack(Settings(kernel=kernel, initrd=initrd)) as rack:
        image_id, layout_id = prepare(rack, args, image, screen)
        options = MachineOptions(args.firmware, args.memory, args.disk, args.disk_size, args.disks)
        machines = [rack.add_machine(options) for _ in range(args.machines)]
        register(rack, machines, screen)
        if args.manual:
            stay(rack, screen, image_id, layout_id)
            return
        logins = install(rack, machines, image_id, layout_id, screen)
        for machine in machines:
            show(rack, machine, logins[machine], screen)
        if args.keep:
            stay(rack, screen, image_id, layout_id, machines)


def prepare(rack, args, image, screen):
    with screen.step("anvil: start, image, layout"):
        rack.start_anvil()
        image_id = IMAGE_ID if args.image is None else f"{image.name.split('.')[0].lower()}-1.0"
        rack.add_image(image_id, image.resolve())
        if args.layout in layout.NAMES:
            return image_id, rack.add_layout(args.disk, args.layout)
        return image_id, rack.add_layout_file(Path(args.layout))


def register(rack, machines, screen):
    with screen.step(f"{len(machines)} machine(s) by PXE, until they wait for work ({accelerator()})") as step:
        for machine in machines:
            machine.power_on()
        for machine in machines:
            step.detail = machine.name
            rack.wait_for_event(machine, "Waiting", REGISTER_TIMEOUT * len(machines))


def install(rack, machines, image_id, layout_id, screen):
    """Returns for each machine when the login worked."""
    logins = {}
    for machine in machines:
        rack.allocate(machine, image_id, layout_id, machine.name)
    for machine in machines:
        with screen.step(f"{machine.name}: install") as step:
            wait_for_installation(rack, machine, step)
        with screen.step(f"{machine.name}: boot the installed system, log in over SSH"):
            rack.wait_for_ssh(machine)
            logins[machine] = time.monotonic()
    return logins


def wait_for_installation(rack, machine, step):
    def look():
        progress = rack.provisioning(machine).get("progress") or {}
        step.detail = describe(progress) if progress else ""
        events = [event["event"] for event in rack.events(machine)]
        if "Crashed" in events:
            rack.wait_for_event(machine, "never", timeout=0)  # raises with the reason
        return "Booting New Kernel" in events

    rack.wait_until(f"installation of {machine.name}", look, INSTALL_TIMEOUT, machine)


def describe(progress):
    done, total = progress.get("done", 0), progress.get("total")
    if total and done >= total:
        return f"{progress.get('step')} written ({terminal.megabytes(total)}); configuring"
    text = f"{progress.get('step')} "
    text += f"{terminal.bar(done, total)} of {terminal.megabytes(total)}" if total else terminal.megabytes(done)
    text += f", {progress.get('rate', 0) / 1e6:.1f} MB/s"
    return text + (f", {progress['left_s']} s left" if progress.get("left_s") is not None else "")


def show(rack, machine, logged_in_at, screen):
    screen.line()
    for title, command in SHOW:
        try:
            answer = rack.ssh(machine, command).strip()
        except CommandFailed as error:  # an image may lack the program
            answer = f"({error.output.strip().splitlines()[-1] if error.output.strip() else 'no answer'})"
        screen.line(f"{machine.name}: {title}\n    " + answer.replace("\n", "\n    "))
    rows = timeline.of_machine(machine, rack.provisioning(machine), rack.events(machine), logged_in_at)
    screen.line()
    screen.line(terminal.table(rows, ("phase", "start s", "took s")))


def stay(rack, screen, image_id, layout_id, installed=()):
    inside = f"ip netns exec {rack.network.namespace}"
    anvil = f"{inside} {rack.anvil.binary}"
    screen.line()
    screen.line(f"anvil   {anvil} machine list --data {rack.anvil.data}")
    screen.line(f"        {anvil} machine allocate ID --image {image_id} --layout {layout_id} --hostname NAME \\")
    screen.line(f"            --ssh-key {rack.key}.pub --data {rack.anvil.data}")
    screen.line(f"API     http://{network.ADDRESS}:{HTTP_PORT} within the namespace {rack.network.namespace}")
    for machine in rack.machines:
        screen.line(f"console socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{machine.serial_socket}   (Ctrl-] leaves)")
        screen.line(f"        tail -f {machine.console.path}   ({machine.name}, {machine.id})")
    for address in [rack.address(machine) for machine in installed] or ["ADDRESS"]:
        screen.line(f"SSH     {inside} {' '.join(rack.ssh_command())} metal@{address}")
    screen.line("Ctrl-C ends it and cleans up.")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
