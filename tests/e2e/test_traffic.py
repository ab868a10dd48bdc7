"""Not one packet leaves for an address that nobody configured. (Debian's own traffic: test_debian.)"""

from rack import MachineOptions

from installation import check_traffic, install_busybox


def test_a_whole_installation_speaks_to_configured_addresses_only(rack, busybox):
    machine = rack.add_machine(MachineOptions(capture=True))
    install_busybox(rack, machine, busybox)
    machine.power_off()
    check_traffic(machine)
