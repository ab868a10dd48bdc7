"""The ways out that nothing but a defect, or a broken kernel, leads to; and that a machine comes back from each."""

import pytest
from rack import MachineOptions
from rack.paths import DIST

from installation import IMAGE, power_on_and_wait

PID_1 = r"drophammer: drophammer \S+ is PID 1"


@pytest.mark.settings(commandline="console=ttyS0,115200n8 drophammer.fault=panic@wait")
def test_a_panic_is_reported_and_the_machine_starts_over_but_not_fast(rack):
    rack.start_anvil()
    machine = rack.add_machine()
    machine.power_on()
    crash = rack.wait_for_event(machine, "Crashed", fatal=())
    assert "the agent panicked, which is a defect of drophammer" in crash["message"], crash
    assert "src/agent/fault.rs" in crash["message"], "it does not say where"
    first = machine.wait_for_line(PID_1, 60)
    gone = machine.wait_for_line(r"drophammer: rebooting: the agent panicked", 120)
    assert gone.at - first.at >= 30, "a loop of panics would be fast"
    assert machine.console.find(r"Kernel panic") is None
    machine.wait_for_line(PID_1, 300, after=machine.console.mark())


@pytest.mark.settings(
    kernel=DIST / "vmlinuz",  # the small kernel has no drivers of watchdogs
    initrd=DIST / "initramfs.img",
    commandline="console=ttyS0,115200n8 drophammer.fault=hang@install",
)
def test_a_machine_whose_agent_hangs_is_reset_by_its_watchdog_and_no_other(rack, busybox):
    rack.start_anvil()
    rack.add_image(IMAGE, busybox)
    machine = rack.add_machine(MachineOptions(watchdog=True))
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    assert machine.console.find(r"drophammer: watchdog armed seconds=60")
    assert machine.qmp.wait_for_event("WATCHDOG", 75) is None, "it was reset while the agent was well"
    mark = machine.console.mark()
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    machine.wait_for_line(r"drophammer: phase install: start", 120)
    assert machine.qmp.wait_for_event("WATCHDOG", 300) == {"action": "reset"}
    machine.wait_for_line(PID_1, 300, after=mark)
