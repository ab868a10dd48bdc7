"""Real switches' daemons (lldpd) beside a machine that must hear them before it registers."""

import json
import tempfile
import time
from pathlib import Path

import pytest
from rack import MachineOptions, commands

from installation import event_names, power_on_and_wait


class Switch:
    """lldpd on a host of the rack's bridge: heard on all links of a machine."""

    def __init__(self, rack, number, directory):
        self.name = f"leaf{number:02}"
        self.namespace = rack.network.add_host(f"10.77.0.{number + 10}")
        self._socket = directory / f"{self.name}.sock"
        argv = ["lldpd", "-d", "-I", "eth0", "-C", "eth0", "-S", "a switch", "-u", self._socket]
        self._daemon = commands.start(argv, directory / f"{self.name}.log", namespace=self.namespace)
        self._configure("configure", "system", "hostname", self.name)
        self._configure("configure", "lldp", "tx-interval", "2")
        self._configure("configure", "lldp", "portidsubtype", "local", f"Ethernet{number}")

    def _configure(self, *words):
        for _ in range(100):
            try:
                return self._ask("resume"), self._ask(*words)
            except commands.CommandFailed:
                time.sleep(0.2)  # it is still starting
        raise AssertionError(f"lldpd does not take {words}")

    def _ask(self, *words):
        return commands.run(["lldpcli", "-u", self._socket, *words])

    def machines_seen(self):
        """UUID that a machine sends as its system name → what it says of itself."""
        interfaces = json.loads(self._ask("-f", "json0", "show", "neighbors"))["lldp"][0].get("interface") or []
        chassis = [chassis for interface in interfaces for chassis in interface["chassis"]]
        return {c["name"][0]["value"]: c["descr"][0]["value"] for c in chassis if "name" in c}

    def stop(self):
        commands.stop(self._daemon)


@pytest.fixture
def switches(rack):
    made = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # lldpd gives up being root before it connects to its socket

        def start():
            made.append(Switch(rack, len(made) + 1, directory))
            return made[-1]

        yield start
        for switch in made:
            switch.stop()


def neighbours(rack, machine):
    """Link → host names of the switches that are registered for it."""
    nics = rack.anvil.machine(machine.id)["hardware"]["nics"]
    return {nic["name"]: {n.get("hostname") or n["identifier"] for n in nic["neighbors"] or []} for nic in nics}


@pytest.mark.settings(commandline="console=ttyS0,115200n8 drophammer.lldp=required")
def test_a_machine_registers_with_its_switches_and_again_with_one_that_comes_late(rack, switches):
    rack.start_anvil()
    first = switches()
    switches()
    machine = rack.add_machine(MachineOptions(links=2))
    power_on_and_wait(rack, machine)
    heard = neighbours(rack, machine)
    assert len(heard["eth0"]) == len(heard["eth1"]) == 2, heard
    rack.wait_until("the switch sees the machine", lambda: machine.id in first.machines_seen(), 60, machine)
    assert "waiting since" in first.machines_seen()[machine.id]
    switches()
    rack.wait_until("the late switch is registered", lambda: len(neighbours(rack, machine)["eth0"]) == 3, 120, machine)
    assert len(neighbours(rack, machine)["eth1"]) == 3


@pytest.mark.settings(commandline="console=ttyS0,115200n8 drophammer.lldp=required")
def test_a_machine_that_hears_no_switch_says_so_and_is_not_registered(rack):
    rack.start_anvil()
    machine = rack.add_machine()
    machine.power_on()
    crash = rack.wait_for_event(machine, "Crashed", fatal=())
    assert "switches" in crash["message"] and "drophammer.lldp=optional" in crash["message"], crash
    assert "Registering" not in event_names(rack, machine)
