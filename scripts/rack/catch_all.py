#!/usr/bin/python3
"""A computer that is everybody: it answers for any address, and writes down every packet that reaches it.

It is the rack's default router. Whoever speaks to an address that nobody configured finds something there: names, time
and connections, so that it goes on speaking, and what it would do on a network with a way out is seen.
"""

import argparse
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

from . import commands, pcap

ADDRESS = "10.77.0.2"
ANSWER = "198.51.100.7"
"""What every name has as its address (RFC 5737); it is here, too."""
DNS, NTP = 53, 123
TCP_PORTS = (DNS, 80, 443, 853, 4460, 8080)
IP_PKTINFO = 8
ETH_P_ALL = 3
YEAR_S = 365 * 86400
NTP_EPOCH_S = 2208988800
"""From 1900 to 1970."""


class CatchAll:
    """Beside a rack whose machines have it as their router."""

    def __init__(self, rack):
        self._rack = rack
        self.pcap = rack.directory / "catch-all.pcap"
        self._process = None

    def __enter__(self):
        rack = self._rack
        host = rack.network.add_host(ADDRESS)
        # Every address that has no better route is this computer's own (ip-route(8), type local).
        commands.run(["ip", "link", "set", "lo", "up"], namespace=host)
        commands.run(["ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo"], namespace=host)
        rack.network.ip("route", "add", "default", "via", ADDRESS)
        rack.anvil.configure("dhcp", router=ADDRESS)
        log = rack.directory / "catch-all.log"
        self._process = commands.start_module("catch_all", ["--pcap", self.pcap], log, host, ready=self.pcap)
        return self

    def __exit__(self, kind, error, trace):
        commands.stop(self._process)

    def packets(self):
        return pcap.read(self.pcap)


def answer_dns(query):
    """Every name is there: an A record for A, nothing for the rest (RFC 1035). None: it was no query."""
    end = 12
    while end < len(query) and query[end] != 0:
        end += query[end] + 1
    question = query[12 : end + 5]
    if len(query) < 17 or len(question) < 5:
        return None
    is_a = question[-4:-2] == b"\0\1"
    header = query[:2] + struct.pack("!HHHHH", 0x8580, 1, int(is_a), 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(ANSWER)
    return header + question + (record if is_a else b"")


def answer_ntp(query, now):
    """A server of stratum 1 whose clock is a year off (RFC 5905): whoever believes it shows it."""
    if len(query) < 48:
        return None
    seconds = int(now + NTP_EPOCH_S + YEAR_S) & 0xFFFFFFFF
    stamp = struct.pack("!II", seconds, 0)
    head = bytes([0x24, 1, query[2], 0xEC]) + bytes(8) + b"GPS\0"
    return head + stamp + query[40:48] + stamp + stamp


def open_udp(port):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    made.bind(("0.0.0.0", port))
    return made


def answer_udp(udp, port):
    """From the address that was asked, which the kernel would not choose by itself (ip(7), IP_PKTINFO)."""
    query, ancillary, _, client = udp.recvmsg(4096, socket.CMSG_SPACE(12))
    answer = answer_dns(query) if port == DNS else answer_ntp(query, time.time())
    info = next((data for _, kind, data in ancillary if kind == IP_PKTINFO), None)
    if answer is None or info is None:
        return
    asked = info[8:12]
    try:
        udp.sendmsg([answer], [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I", 0) + asked + bytes(4))], 0, client)
    except OSError as error:
        print(f"answering {client}: {error}", file=sys.stderr)


def open_tcp(port):
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("0.0.0.0", port))
    made.listen(64)
    return made


def answer_tcp(listener, port):
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(1)
        try:
            connection.recv(4096)
            if port in (80, 8080):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n")
        except OSError:
            pass  # it has gone


def main():
    parser = argparse.ArgumentParser(description="answers for every address, and records what comes")
    parser.add_argument("--pcap", type=Path, required=True)
    args = parser.parse_args()
    waiting = selectors.DefaultSelector()
    for port in (DNS, NTP):
        udp = open_udp(port)
        waiting.register(udp, selectors.EVENT_READ, lambda udp=udp, port=port: answer_udp(udp, port))
    for port in TCP_PORTS:
        tcp = open_tcp(port)
        waiting.register(tcp, selectors.EVENT_READ, lambda tcp=tcp, port=port: answer_tcp(tcp, port))
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with pcap.Writer(args.pcap) as record:
        waiting.register(link, selectors.EVENT_READ, lambda: record.write(link.recv(65536), time.time()))
        while True:
            for key, _ in waiting.select():
                key.data()


if __name__ == "__main__":
    main()
