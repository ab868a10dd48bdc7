"""Captured packets: who spoke to whom, in the little detail that a test needs.

Source: pcap file format (libpcap), Ethernet II, RFC 791, RFC 8200, RFC 826.
"""

import ipaddress
import struct
from dataclasses import dataclass, replace

ARP, IPV4, IPV6, VLAN, LLDP = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88CC
TCP, UDP, ICMP6 = 6, 17, 58


@dataclass(frozen=True)
class Packet:
    ethertype: int
    source: str | None = None
    """IP address; None when the packet is none of IP."""
    target: str | None = None
    protocol: int | None = None
    source_port: int | None = None
    target_port: int | None = None
    sender: str | None = None
    """Ethernet address."""
    at: float = 0.0
    """Seconds since 1970, of the clock of who recorded it."""

    def __str__(self):
        if self.source is None:
            return f"ethertype {self.ethertype:#06x}"
        ports = f" port {self.source_port} to {self.target_port}" if self.target_port is not None else ""
        return f"{self.source} to {self.target} protocol {self.protocol}{ports}"


def read(path):
    """All packets of a file, in their order."""
    data = path.read_bytes()
    magic = data[:4]
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}.get(magic)
    if order is None:
        raise ValueError(f"{path} is no pcap file: it begins with {magic.hex()}")
    packets, offset = [], 24
    while offset + 16 <= len(data):
        seconds, microseconds, captured = struct.unpack_from(order + "III", data, offset)
        frame = data[offset + 16 : offset + 16 + captured]
        if len(frame) < captured:
            break  # QEMU was killed while it wrote
        packets.append(parse(frame, seconds + microseconds / 1e6))
        offset += 16 + captured
    return packets


class Writer:
    """Writes what `read` reads."""

    def __init__(self, path):
        self._file = open(path, "wb", buffering=0)
        self._file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65536, 1))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._file.close()

    def write(self, frame, at):
        header = struct.pack("<IIII", int(at), int(at % 1 * 1e6), len(frame), len(frame))
        self._file.write(header + frame)


def parse(frame, at=0.0):
    return replace(_parse(frame), sender=frame[6:12].hex(":"), at=at)


def _parse(frame):
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    payload = frame[14:]
    if ethertype == VLAN:
        (ethertype,) = struct.unpack_from("!H", payload, 2)
        payload = payload[4:]
    if ethertype == IPV4:
        return _parse_ipv4(payload)
    if ethertype == IPV6:
        return _parse_ipv6(payload)
    return Packet(ethertype)


def _parse_ipv4(data):
    protocol, first_fragment = data[9], struct.unpack_from("!H", data, 6)[0] & 0x1FFF == 0
    rest = data[(data[0] & 15) * 4 :] if first_fragment else b""
    return _with_ports(IPV4, data[12:16], data[16:20], protocol, rest)


def _parse_ipv6(data):
    protocol, rest = data[6], data[40:]
    while protocol in (0, 43, 60) and len(rest) >= 8:  # hop-by-hop, routing, destination options
        protocol, rest = rest[0], rest[(rest[1] + 1) * 8 :]
    return _with_ports(IPV6, data[8:24], data[24:40], protocol, rest)


def _with_ports(ethertype, source, target, protocol, rest):
    ports = struct.unpack_from("!HH", rest) if protocol in (TCP, UDP) and len(rest) >= 4 else (None, None)
    return Packet(ethertype, str(ipaddress.ip_address(source)), str(ipaddress.ip_address(target)), protocol, *ports)


def strangers(packets, configured):
    """Packets to or from an address that nobody configured.

    Link-local control stays out of it: ARP, LLDP and the like are no IP, neighbour discovery and listener reports are
    ICMPv6 between link-local addresses, and DHCP begins with no address at all.
    """
    known = {str(ipaddress.ip_address(address)) for address in configured} | {"0.0.0.0", "255.255.255.255"}
    with_addresses = (p for p in packets if p.source is not None and not is_link_control(p))
    return [p for p in with_addresses if not {p.source, p.target} <= known]


def is_link_control(packet):
    """ARP, LLDP and other protocols that no router passes on."""
    if packet.source is None:
        return True
    source, target = ipaddress.ip_address(packet.source), ipaddress.ip_address(packet.target)
    if packet.ethertype == IPV6:
        is_local = source.is_link_local or source.is_unspecified
        return packet.protocol == ICMP6 and is_local and (target.is_link_local or target.is_multicast)
    return packet.protocol == 2 and target.is_multicast  # IGMP


def dns_servers(packets):
    """Who was asked for names."""
    return {p.target for p in packets if p.target_port in (53, 5353, 5355, 853) and p.protocol in (TCP, UDP)}
