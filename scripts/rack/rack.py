"""The rack: network, anvil, machines, and waiting for what they do."""

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import anvil, layout, network
from .anvil import event_time
from .commands import CommandFailed, LabError, TimedOut, run
from .machine import Machine, MachineOptions
from .paths import CACHE, DIST

# Under TCG a boot once took four times the usual: limits are for hangs, not for slow days.
REGISTER_TIMEOUT = 600
INSTALL_TIMEOUT = 1800
BOOT_TIMEOUT = 900


@dataclass
class Settings:
    kernel: Path = DIST / "vmlinuz-cloud"
    initrd: Path = DIST / "initramfs-cloud.img"
    commandline: str = "console=ttyS0,115200n8"
    directory: Path | None = None
    """Where disks, logs and anvil's data are; None: made in .cache/racks, and removed at the end."""


class Rack:
    def __init__(self, settings=None):
        self.settings = settings or Settings()
        self.network = network.Network()
        self.machines = []
        self.directory = None
        self.sockets = None
        self.anvil = None
        self.key = None
        self._old_term = None

    def __enter__(self):
        # A polite kill ends as Ctrl-C does: through __exit__.
        if threading.current_thread() is threading.main_thread():
            self._old_term = signal.signal(signal.SIGTERM, _interrupt)
        try:
            self._make_directory()
            # Apart, as the path of a socket has at most 107 bytes wherever the source tree is.
            self.sockets = Path(tempfile.mkdtemp(prefix="drophammer-"))
            self.network.create()
            boot = (self.settings.kernel, self.settings.initrd, self.settings.commandline)
            config = anvil.configuration(self.directory / "anvil", *boot)
            self.anvil = anvil.Anvil(self.network, self.directory, config)
            self.key = self.directory / "id_ed25519"
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", self.key])
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            self._keep_logs(error)
        self._clean_up()

    def _make_directory(self):
        if self.settings.directory:
            self.directory = self.settings.directory
            self.directory.mkdir(parents=True, exist_ok=True)
            return
        racks = CACHE / "racks"
        racks.mkdir(parents=True, exist_ok=True)
        for old in racks.iterdir():
            owner = old.name.split("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(old, ignore_errors=True)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=racks))

    def _clean_up(self):
        """Every step is tried, whatever the one before it said; the first error is told."""
        steps = [machine.close for machine in self.machines]
        if self.anvil:
            steps.append(self.anvil.stop)
        steps.append(self.network.remove)
        if self.sockets:
            steps.append(lambda: shutil.rmtree(self.sockets, ignore_errors=True))
        if self.directory and not self.settings.directory:
            steps.append(lambda: shutil.rmtree(self.directory, ignore_errors=True))
        first = None
        for clean in steps:
            try:
                clean()
            except Exception as error:
                first = first or error
        if self._old_term is not None:
            signal.signal(signal.SIGTERM, self._old_term)
        if first:
            raise first

    def _keep_logs(self, error):
        """Consoles and anvil's log, where they can be read after the rack is gone."""
        if not self.directory or isinstance(error, KeyboardInterrupt):
            return
        kept = CACHE / "failed" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        kept.mkdir(parents=True, exist_ok=True)
        for pattern in ("*.log", "*.console", "anvil.yaml"):
            for path in self.directory.glob(pattern):
                shutil.copy(path, kept)
        error.kept_logs = kept

    def report(self):
        """What a person looks at first after a failure."""
        parts = []
        for machine in self.machines:
            parts.append(f"--- last lines of {machine.name}'s console\n{machine.console.tail()}")
        if self.anvil:
            parts.append(f"--- last lines of anvil's log\n{self.anvil.log_tail()}")
        return "\n".join(parts)

    def start_anvil(self):
        self.anvil.start()

    def add_machine(self, options=None):
        machine = Machine(
            len(self.machines), self.network, self.directory, self.sockets, options or MachineOptions()
        )
        self.machines.append(machine)
        return machine

    def add_image(self, image_id, file):
        self.anvil.command("image", "add", "--id", image_id, "--file", file)

    def add_layout(self, bus, name="plain"):
        """One of the lab's layouts, for disks on this bus; returns its id."""
        content = layout.named(name, bus)
        path = self.directory / f"{content['id']}.json"
        path.write_text(json.dumps(content, indent=2) + "\n")
        return self.add_layout_file(path)

    def add_layout_file(self, path):
        """The first layout of a file; returns its id."""
        return self.anvil.query("layout", "add", path)[0]["id"]

    def allocate(self, machine, image_id, layout_id, hostname):
        words = ["--image", image_id, "--layout", layout_id, "--hostname", hostname, "--ssh-key", f"{self.key}.pub"]
        self.anvil.command("machine", "allocate", machine.id, *words)

    def wait_until(self, what, condition, timeout, machine=None):
        """Asks `condition` until it has an answer that counts; says `what` did not happen when none came."""
        deadline = time.monotonic() + timeout
        while True:
            was_on = machine is None or machine.is_on()
            answer = condition()
            if answer:
                return answer
            if not was_on:
                raise LabError(f"{machine.name} went off while waiting: {what}\n{self.report()}")
            if time.monotonic() > deadline:
                raise TimedOut(f"not within {timeout} s: {what}\n{self.report()}")
            time.sleep(0.25)

    def wait_for_event(self, machine, name, timeout=REGISTER_TIMEOUT, after=None, fatal=("Crashed",)):
        """Waits for an event of this name, behind the event `after` if given; one of the `fatal` ones ends the wait."""

        def look():
            for event in self.events(machine):
                if after is not None and event_time(event) <= event_time(after):
                    continue
                if event["event"] == name:
                    return event
                if event["event"] in fatal:
                    raise LabError(f"{machine.name} crashed: {event.get('message')}\n{self.report()}")
            return None

        return self.wait_until(f"event {name!r} of {machine.name}", look, timeout, machine)

    def events(self, machine):
        try:
            return self.anvil.events(machine.id)
        except (CommandFailed, json.JSONDecodeError):
            return []  # anvil is being started again

    def provisioning(self, machine):
        """What the agent tells beyond events: phases and progress; {} when it told nothing."""
        try:
            return (self.anvil.machine(machine.id) or {}).get("provisioning") or {}
        except CommandFailed:
            return {}

    def ssh(self, machine, command, timeout=120):
        """Runs a command on the installed system, as its user `metal`."""
        address = self.address(machine)
        if address is None:
            raise LabError(f"{machine.name} answers to no address")
        return self.network.run([*self.ssh_command(), f"metal@{address}", command], timeout=timeout)

    def ssh_command(self):
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"]
        options += ["ConnectTimeout=20", "IdentitiesOnly=yes"]
        return ["ssh", "-F", "none", "-i", str(self.key), *(word for option in options for word in ("-o", option))]

    def address(self, machine):
        """The machine's own address: of its allocation when it answers there, else what answers to its MAC."""
        found = self.network.find_addresses(machine.mac)
        allocation = (self.anvil.machine(machine.id) or {}).get("allocation") or {}
        given = [ip for net in allocation.get("networks") or [] for ip in net.get("ips") or []]
        return next((ip for ip in given if ip in found), found[-1] if found else None)

    def wait_for_ssh(self, machine, timeout=BOOT_TIMEOUT):
        def log_in():
            try:
                return self.ssh(machine, "echo in", timeout=60)
            except LabError:
                return None

        return self.wait_until(f"login on {machine.name} over SSH", log_in, timeout, machine)


def _interrupt(_signal, _frame):
    raise KeyboardInterrupt
