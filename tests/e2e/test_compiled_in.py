"""No host name and no public address is compiled into what is shipped, but those of compiled_in.allow."""

import fnmatch
import ipaddress
import re
import subprocess
from pathlib import Path

import pytest
from rack.paths import DIST

ALLOW_FILE = Path(__file__).parent / "compiled_in.allow"
SHIPPED = ["drophammer", "anvil", "initramfs.img", "initramfs-cloud.img"]

# Top-level domains under which a bare name counts. With a scheme before it any name does.
DOMAINS = b"com|org|net|edu|gov|io|dev|app|cloud|info|de|at|ch|fr|nl|uk|eu|us|cz|jp|cn|ru"
URL = re.compile(rb"\b[a-z][a-z0-9+.]{1,10}://([A-Za-z0-9][A-Za-z0-9._-]*)")
# What is behind an @ is a person's mail.
NAME = re.compile(rb"(?<![A-Za-z0-9@._/-])((?:[a-z0-9][a-z0-9-]*\.)+(?:" + DOMAINS + rb"))(?![A-Za-z0-9._-])")
IPV4 = re.compile(rb"(?<![0-9A-Za-z.])([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?![0-9A-Za-z.])")
IPV6 = re.compile(rb"(?<![0-9A-Za-z:.])([0-9a-fA-F:]{6,39})(?![0-9A-Za-z:.])")
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")

MAGICS = {b"\x28\xb5\x2f\xfd": ["zstd", "-dc"], b"\xfd7zXZ": ["xz", "-dc"], b"\x1f\x8b": ["gzip", "-dc"]}


def unpacked(data):
    """As it is, or what is packed in it."""
    for magic, command in MAGICS.items():
        if data.startswith(magic):
            return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def cpio_members(data):
    """(name, content) of all archives in a row, packed or not (Documentation/driver-api/early-userspace/buffer-format)."""
    offset = 0
    while offset < len(data):
        if data[offset : offset + 1] == b"\0":
            offset += 1
        elif data[offset : offset + 6] == b"070701":
            fields = [int(data[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
            size, name_size = fields[6], fields[11]
            name = data[offset + 110 : offset + 109 + name_size].decode()
            start = offset + 110 + name_size
            start += -start % 4
            if name != "TRAILER!!!":
                yield name, data[start : start + size]
            offset = start + size + -(start + size) % 4
        else:
            rest = unpacked(data[offset:])
            assert rest != data[offset:], f"neither an archive nor packed at {offset}: {data[offset : offset + 8].hex()}"
            yield from cpio_members(rest)
            return


def files(name):
    """(name, content) of what is shipped under this name."""
    data = (DIST / name).read_bytes()
    if not name.startswith("initramfs"):
        return [(name, data)]
    return [(member, unpacked(content)) for member, content in cpio_members(data)]


def is_public(text):
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and (address.version == 4 or address in GLOBAL_IPV6)


def find(data):
    """Host names and public addresses in a file."""
    found = {match.lower() for match in URL.findall(data)} | set(NAME.findall(data))
    texts = {name.decode().rstrip(".") for name in found}
    texts = {text for text in texts if "." in text and not _is_address(text)}
    addresses = {match.decode() for pattern in (IPV4, IPV6) for match in pattern.findall(data)}
    return texts | {text for text in addresses if is_public(text)}


def _is_address(text):
    return re.fullmatch(r"[0-9.]+", text) is not None


def allowed():
    """(pattern of the file, pattern of what is found in it)"""
    lines = (line.split("#")[0].split() for line in ALLOW_FILE.read_text().splitlines())
    return [tuple(words) for words in lines if words]


@pytest.mark.parametrize("shipped", SHIPPED)
def test_no_host_name_and_no_public_address_is_compiled_in(shipped):
    rules = allowed()
    surprises = set()
    for name, data in files(shipped):
        for text in find(data):
            if not any(fnmatch.fnmatch(name, file) and fnmatch.fnmatch(text, pattern) for file, pattern in rules):
                surprises.add(f"{name}  {text}")
    assert not surprises, "not in compiled_in.allow:\n" + "\n".join(sorted(surprises))


def test_names_and_addresses_are_found_in_the_middle_of_a_program():
    program = b"\0\x01pool.ntp.org\0http://Images.Example.test/x\0 8.8.8.8 2001:4860:4860::8888,\xffa@example.com\0"
    assert find(program) == {"pool.ntp.org", "images.example.test", "8.8.8.8", "2001:4860:4860::8888"}
    assert find(b"std::net 10.0.0.1 127.0.0.1 192.0.2.1 1.2.840.113549.1.1 fe80::1 2001:db8::1 v1.2.3 ") == set()
