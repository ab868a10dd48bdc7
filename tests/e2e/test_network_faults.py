"""A network at its worst: each ends in an installed machine, or in the sentence that says what is wrong.

What goes wrong with names and with time is tried without machines, in tests/resolver.rs and tests/ntp.rs.
"""

import re
import time

import pytest
from rack import MachineOptions
from rack.switch import Faults, Line

from installation import IMAGE, at_length, power_on_and_wait, wait_for_progress, wait_for_system

CONSOLE = "console=ttyS0,115200n8"
WORST = Faults(loss=0.01, delay_ms=300, reorder=0.05, duplicate=0.05)


def add_machine(rack, image, hostname="web-1"):
    """Behind a switch of its own; returns it and how to allocate it."""
    rack.add_image(IMAGE, image)
    machine = rack.add_machine(MachineOptions(switch=True))
    layout_id = rack.add_layout(machine.options.disk)
    return machine, lambda: rack.allocate(machine, IMAGE, layout_id, hostname)


def power_on_with(machine, faults):
    """The firmware still has a good line: it is not ours."""
    machine.power_on()
    machine.wait_for_line(r"drophammer: phase network: start", timeout=300)
    machine.switch.set(faults)


def install_with(rack, image, faults):
    rack.start_anvil()
    machine, allocate = add_machine(rack, image)
    power_on_with(machine, faults)
    rack.wait_for_event(machine, "Waiting")
    allocate()
    wait_for_system(machine, "web-1")


def test_a_line_that_is_slow_loses_reorders_and_repeats_packets_installs(rack, busybox):
    install_with(rack, busybox, WORST)


@at_length
def test_a_line_that_loses_a_fifth_of_all_packets_installs(rack, busybox):
    install_with(rack, busybox, Faults(loss=0.2))


def test_a_path_that_swallows_large_packets_is_told_with_the_remedy(rack):
    rack.start_anvil()
    machine = rack.add_machine(MachineOptions(switch=True))
    power_on_with(machine, Faults(mtu=1280))
    machine.wait_for_line(r"drophammer: phase configure: not yet.*drophammer\.mtu=1280 helps", timeout=120)
    machine.switch.set(Faults())
    rack.wait_for_event(machine, "Waiting")


@pytest.mark.settings(commandline=f"{CONSOLE} drophammer.mtu=1280")
def test_a_path_that_swallows_large_packets_installs_with_the_remedy(rack, busybox):
    install_with(rack, busybox, Faults(mtu=1280))


@at_length
def test_the_line_is_cut_for_a_minute_in_the_middle_of_the_image(rack, large_busybox):
    rack.start_anvil()
    machine, allocate = add_machine(rack, large_busybox)
    power_on_and_wait(rack, machine)
    rack.network.limit_rate(machine.tap, 20)
    allocate()
    wait_for_progress(rack, machine, 2 << 20)
    mark = machine.console.mark()
    machine.set_link(False)
    time.sleep(60)
    rack.network.limit_rate(machine.tap, None)
    machine.set_link(True)
    wait_for_system(machine, "web-1", after=mark)


def test_a_waiting_machine_whose_address_changes_at_renewal_is_installed_with_the_new_one(rack, busybox):
    rack.anvil.configure("dhcp", lease_seconds=60)
    rack.start_anvil()
    machine, allocate = add_machine(rack, busybox)
    power_on_and_wait(rack, machine)
    first = re.search(r"eth0 has (\S+)/24", machine.console.text())[1]
    rack.anvil.stop()
    rack.anvil.configure("dhcp", range=["10.77.0.180", "10.77.0.189"])
    rack.start_anvil()
    machine.wait_for_line(r"10\.77\.0\.18\d/24", timeout=120)
    assert not first.startswith("10.77.0.18")
    allocate()
    wait_for_system(machine, "web-1")


@at_length
def test_a_dhcp_server_that_is_silent_for_three_minutes_is_waited_for(rack):
    rack.start_anvil()
    machine = rack.add_machine(MachineOptions(switch=True))
    power_on_with(machine, Faults(drop_udp_port=67))
    machine.wait_for_line(r"drophammer: .*(no answer|no DHCP|again)", timeout=120)
    time.sleep(180)
    machine.switch.set(Faults())
    rack.wait_for_event(machine, "Waiting")


def frames_of(faults, number=1000, seed=3):
    """What comes out of a line that 1,000 frames went in to, a millisecond apart."""
    out = []
    line = Line(seed, lambda frame: out.append(int.from_bytes(frame, "big")))
    for index in range(number):
        line.take(index.to_bytes(20, "big"), faults, index / 1000)
        line.send_due(index / 1000)
    line.send_due(number)
    return out


def test_the_switch_does_what_it_is_told():
    everything = list(range(1000))
    assert frames_of(Faults()) == everything
    assert 150 < 1000 - len(frames_of(Faults(loss=0.2))) < 250
    assert 1020 < len(frames_of(Faults(duplicate=0.05))) < 1080
    reordered = frames_of(Faults(reorder=0.05))
    assert reordered != everything and sorted(reordered) == everything
    assert frames_of(Faults(mtu=5)) == []
    assert frames_of(Faults(loss=0.2)) == frames_of(Faults(loss=0.2)), "the same seed, the same faults"
