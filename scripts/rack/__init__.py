"""A rack in a network namespace: anvil, QEMU machines, and what watches them.

Shared by scripts/lab, scripts/bench and tests/e2e. Python's standard library only.

    with Rack(Settings()) as rack:
        rack.start_anvil()
        machine = rack.add_machine(MachineOptions(firmware="uefi"))
        machine.power_on()
        rack.wait_for_event(machine, "Waiting")

Nothing is left behind: every process dies with the one that started it, namespaces of dead labs are removed by the
next one, and disks live in one directory that goes with the rack.
"""

from .commands import CommandFailed, LabError, TimedOut
from .machine import Direct, Machine, MachineOptions
from .rack import Rack, Settings

__all__ = ["CommandFailed", "Direct", "LabError", "Machine", "MachineOptions", "Rack", "Settings", "TimedOut"]
