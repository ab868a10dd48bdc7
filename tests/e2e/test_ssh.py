"""An operator logs in to the agent, and finds that nothing else there listens."""

import re
from dataclasses import dataclass
from pathlib import Path

from rack.commands import LabError

from installation import power_on_and_wait

SSH_PORT = 22
LISTEN = "0A"  # TCP_LISTEN, include/net/tcp_states.h
PACKETS = {"88cc", "0806", "0800"}
"""EtherTypes that the agent hears below IP: LLDP, ARP, and DHCP while it has no address."""


def test_an_operator_logs_in_with_his_key_and_nothing_else_listens(rack):
    public = Path(f"{rack.key}.pub").read_text().strip()
    rack.anvil.configure("partition", ssh_keys=[public])
    rack.start_anvil()
    machine = rack.add_machine()
    power_on_and_wait(rack, machine)
    address = rack.address(machine)
    said = log_in(rack, address, "id -u; echo shell=$0; ls /init /sbin/mke2fs; ps | head -3")
    assert said.splitlines()[0] == "0", said
    assert "/init" in said and "/sbin/mke2fs" in said, said
    check_host_key(rack, machine, address)
    check_no_password(rack, address)
    check_sockets(log_in(rack, address, "for t in tcp tcp6 udp udp6 raw raw6 packet; do echo == $t; cat /proc/net/$t; done"))


def log_in(rack, address, command):
    return rack.network.run([*rack.ssh_command(), f"root@{address}", command], timeout=120)


def check_host_key(rack, machine, address):
    """What the server shows is what the agent said: on its console, and to anvil."""
    told = rack.anvil.show(machine.id)["ssh_host_key"]
    assert machine.console.find(re.escape(told)), "the fingerprint is not on the console"
    scanned = rack.directory / "host_key"
    scanned.write_text(rack.network.run(["ssh-keyscan", "-t", "ed25519", address], timeout=60))
    assert told in rack.network.run(["ssh-keygen", "-l", "-f", scanned]), told


def check_no_password(rack, address):
    command = [word for word in rack.ssh_command() if word not in ("-i", str(rack.key))]
    try:
        rack.network.run([*command, f"root@{address}", "true"], timeout=60)
    except LabError as error:
        assert "(publickey)" in str(error), error
    else:
        raise AssertionError("it lets in whoever asks")


@dataclass(frozen=True)
class Socket:
    kind: str
    port: int
    is_connected: bool
    state: str


def check_sockets(text):
    sockets = list(parse_sockets(text))
    listening = {(s.kind, s.port) for s in sockets if s.kind.startswith("tcp") and s.state == LISTEN}
    assert listening == {("tcp", SSH_PORT), ("tcp6", SSH_PORT)}, text
    # Open to anybody's packets: the DHCP client's, which the kernel delivers broadcasts to.
    open_to_all = {(s.kind, s.port) for s in sockets if s.kind.startswith("udp") and not s.is_connected}
    assert open_to_all <= {("udp", 68), ("udp6", 546)}, text
    assert {s.kind for s in sockets} <= {"tcp", "tcp6", "udp", "udp6"}, f"raw sockets:\n{text}"
    packets = text.split("== packet\n")[1].splitlines()[1:]
    assert {line.split()[3] for line in packets} <= PACKETS, text


def parse_sockets(text):
    kind = None
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["=="]:
            kind = words[1]
        elif kind and kind != "packet" and re.match(r"\d+:", words[0] if words else ""):
            local, remote, state = words[1:4]
            port = int(local.rsplit(":", 1)[1], 16)
            yield Socket(kind, port, set(remote) - set("0:") != set(), state)
