"""Installing a Debian, and looking at it from the inside."""

from installation import assert_in_order, event_names, power_on_and_wait

IMAGE = "debian-12.0"


def install_debian(rack, image, options, layout="plain"):
    rack.start_anvil()
    rack.add_image(IMAGE, image)
    layout_id = rack.add_layout(options.disk, layout)
    machine = rack.add_machine(options)
    power_on_and_wait(rack, machine)
    rack.allocate(machine, IMAGE, layout_id, "web-1")
    rack.wait_for_event(machine, "Booting New Kernel", timeout=1800)
    rack.wait_for_ssh(machine)
    return machine


def check_installed_system(rack, machine):
    assert rack.ssh(machine, "hostname").strip() == "web-1"
    resolvers = [line for line in rack.ssh(machine, "cat /etc/resolv.conf").splitlines() if line.startswith("nameserver")]
    assert resolvers == ["nameserver 10.77.0.1"]
    time_servers = rack.ssh(machine, "cat /etc/systemd/timesyncd.conf /etc/systemd/timesyncd.conf.d/* 2>/dev/null || true")
    assert "NTP=10.77.0.1" in time_servers
    mounts = dict(line.split()[:2] for line in rack.ssh(machine, "findmnt -rn -o TARGET,FSTYPE --real").splitlines())
    assert mounts["/"] == "ext4" and mounts["/boot/efi"] == "vfat"
    assert rack.ssh(machine, "id -un").strip() == "metal"
    assert "sudo" in rack.ssh(machine, "id -nG").split()
    assert len(rack.ssh(machine, "cat /etc/machine-id").strip()) == 32
    state = "systemctl is-system-running --wait || systemctl --failed --no-legend"
    assert rack.ssh(machine, state, timeout=600).strip() == "running"
    order = ["Preparing", "Registering", "Waiting", "Installing", "Booting New Kernel"]
    assert_in_order(event_names(rack, machine), order)


def pull_the_plug(rack, machine):
    """Returns the name of the boot that ended."""
    boot = rack.ssh(machine, "cat /proc/sys/kernel/random/boot_id")
    rack.ssh(machine, "sync")
    machine.power_off()
    return boot


def boot_again(rack, machine, before, boots_from_disk):
    """Now the boot loader has to find it, not kexec. `boots_from_disk`: the firmware goes there by itself; else it
    boots over the network, and anvil sends it to the disk."""
    machine.boots_from_disk = boots_from_disk
    machine.power_on()
    rack.wait_for_ssh(machine)
    assert rack.ssh(machine, "cat /proc/sys/kernel/random/boot_id") != before
