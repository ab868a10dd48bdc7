"""anvil in the rack: its configuration, its life, and its command as a person would use it."""

import json
import time
from datetime import datetime

from . import commands, network
from .commands import CommandFailed, LabError, TimedOut
from .paths import DIST

HTTP_PORT = 4242
HTTPS_PORT = 4243
GRPC_PORT = 50051
DOMAIN = "lab.test"


def configuration(data, kernel, initrd, commandline):
    """Everything is this one address: boot server, API, names and time."""
    return {
        "data": str(data),
        "listen": network.ADDRESS,
        "interface": network.BRIDGE,
        "http_port": HTTP_PORT,
        "https_port": HTTPS_PORT,
        "grpc_port": GRPC_PORT,
        "partition": {
            "id": "lab",
            "dns_servers": [{"ip": network.ADDRESS}],
            "ntp_servers": [{"address": network.ADDRESS}],
            "bootconfig": {"kernel": str(kernel), "initrd": str(initrd), "commandline": commandline},
        },
        "dhcp": {
            "mode": "server",
            "range": list(network.DHCP_RANGE),
            "prefix": network.PREFIX_LENGTH,
            "router": None,
            "lease_seconds": 600,
            "domain": DOMAIN,
            "dns_servers": [network.ADDRESS],
            "ntp_servers": [network.ADDRESS],
            "router_advertisement": True,
        },
        "tftp": {"enabled": True, "dir": "/usr/lib/ipxe"},
        "dns": {"enabled": True, "domain": DOMAIN, "hosts": {f"anvil.{DOMAIN}": network.ADDRESS}, "forward": []},
        "ntp": {"enabled": True, "serve_unsynchronised": True},
    }


class Anvil:
    """Its data outlives `stop` and `kill`."""

    def __init__(self, rack_network, directory, config):
        self.data = directory / "anvil"
        self.log = directory / "anvil.log"
        self.binary = DIST / "anvil"
        self._network = rack_network
        self._config = directory / "anvil.yaml"
        self._process = None
        self._settings = config
        self.configure()

    def configure(self, section=None, **values):
        """Changes one section of its configuration, from its next start on."""
        if section:
            self._settings[section] |= values
        # JSON is YAML.
        self._config.write_text(json.dumps(self._settings, indent=2) + "\n")

    def start(self, timeout=60):
        self.data.mkdir(exist_ok=True)
        argv = [self.binary, "serve", "--config", self._config, "--data", self.data]
        self._process = commands.start(argv, self.log, namespace=self._network.namespace)
        deadline = time.monotonic() + timeout
        while True:
            if self._process.poll() is not None:
                raise LabError(f"anvil ended at once with status {self._process.returncode}:\n{self.log_tail()}")
            try:
                self.machines()
                return
            except CommandFailed as error:
                if time.monotonic() > deadline:
                    text = f"anvil does not answer {timeout} s after its start: {error}\n{self.log_tail()}"
                    raise TimedOut(text) from error
                time.sleep(0.1)

    def is_on(self):
        return self._process is not None and self._process.poll() is None

    def stop(self):
        commands.stop(self._process)
        self._process = None

    def kill(self):
        """As the kernel does when memory is short: no last word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log_tail(self, count=40):
        return commands.last_lines(self.log.read_text(errors="replace"), count) if self.log.exists() else ""

    def command(self, *words, timeout=300):
        """The `anvil` command, run in the rack."""
        return self._network.run([self.binary, *words, "--data", self.data], timeout=timeout)

    def query(self, *words):
        return json.loads(self.command(*words, "--format", "json"))

    def machines(self):
        return self.query("machine", "list") or []

    def machine(self, machine_id):
        """The REST machine; None before it has registered."""
        return next((m for m in self.machines() if m.get("id") == machine_id), None)

    def show(self, machine_id):
        return self.query("machine", "show", machine_id)

    def events(self, machine_id):
        """Oldest first."""
        try:
            answer = self.query("machine", "events", machine_id)
        except CommandFailed:
            return []  # not known yet
        events = answer.get("log", []) if isinstance(answer, dict) else answer
        return sorted(events or [], key=event_time)


def event_time(event):
    return datetime.fromisoformat(event["time"])
