"""Secrets are put in every place that can hold one, and everything that anybody may read is searched for them."""

import json
import re
import sqlite3

import pytest
from rack import commands, network
from rack.commands import CommandFailed

from installation import IMAGE, power_on_and_wait, wait_for_system

PROXY, LOKI, USER_DATA = "MarkerProxyPassword", "MarkerLokiPassword", "MarkerUserData"
COMMANDLINE = "console=ttyS0,115200n8 DEBUG=1"
# Tried against an agent that was given no keys: all ports, and none answers.
SCAN = """
import socket, sys
found = []
for port in range(1, 65536):
    s = socket.socket()
    s.settimeout(5)
    if s.connect_ex((sys.argv[1], port)) == 0:
        found.append(port)
    s.close()
print(found)
"""


# A log server that takes everything, and writes it down.
LOG_SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        with open(sys.argv[2], "ab") as log:
            log.write(self.rfile.read(int(self.headers["Content-Length"])) + b"\\n")
        self.send_response(204)
        self.end_headers()
HTTPServer((sys.argv[1], 3100), Handler).serve_forever()
"""


@pytest.fixture
def remote_log(rack):
    """The file with all that was pushed."""
    path = rack.directory / "pushed"
    argv = ["/usr/bin/python3", "-c", LOG_SERVER, network.ADDRESS, path]
    server = commands.start(argv, rack.directory / "log-server.log", namespace=rack.network.namespace)
    yield path
    commands.stop(server)


def test_no_secret_is_anywhere_and_nothing_listens(rack, busybox, remote_log):
    token = configure(rack)
    rack.add_image(IMAGE, busybox)
    machine = rack.add_machine()
    layout_id = rack.add_layout(machine.options.disk)
    power_on_and_wait(rack, machine)
    assert json.loads(rack.network.run(["/usr/bin/python3", "-c", SCAN, rack.address(machine)], timeout=600)) == []
    user_data = rack.directory / "user-data"
    user_data.write_text(f"#!/bin/sh\n# {USER_DATA}\n")
    words = ["--image", IMAGE, "--layout", layout_id, "--hostname", "web-1", "--user-data", user_data]
    rack.anvil.command("machine", "allocate", machine.id, *words)
    wait_for_system(machine, "web-1")
    crashing = crash(rack)

    secrets = {"token": token, "proxy": PROXY, "loki": LOKI, "user data": USER_DATA, **stored_secrets(rack)}
    assert {"hmac", "client key", "console password", "hmac view", "client.key"} <= secrets.keys(), sorted(secrets)
    searched = {**places(rack, [machine, crashing]), "the remote log": remote_log.read_text()}
    for place, text in searched.items():
        assert text, f"there is nothing in {place}"
        for name, secret in secrets.items():
            found = [line for line in text.splitlines() if secret in line]
            assert not found, f"{name} is in {place}: {found[:3]}"
    for phase in ("install", "hand over"):
        assert f"phase {phase}: start" in searched["the remote log"], "the log did not get to the log server"
    assert "the agent panicked" in searched["the remote log"]
    masked = machine.console.find(r"drophammer: kernel command line: .*drophammer\.token=\*\*\* ")
    assert masked, "the agent does not show its command line"


def configure(rack):
    rack.anvil.configure(
        "partition",
        http_proxy=f"http://user:{PROXY}@{network.ADDRESS}:3128",
        no_proxy=[f"{network.ADDRESS}/24"],
        logging={"endpoint": f"http://{network.ADDRESS}:3100/push", "user": "agents", "password": LOKI},
    )
    rack.anvil._settings["require_enrolment"] = True
    rack.anvil.configure()
    rack.start_anvil()
    token = rack.anvil.query("machine", "token", "--machines", "2")["token"]
    rack.anvil.stop()
    partition = rack.anvil._settings["partition"]
    partition["bootconfig"]["commandline"] = f"{COMMANDLINE} drophammer.token={token} "
    rack.anvil.configure()
    rack.start_anvil()
    return token


def crash(rack):
    """A second machine, whose agent panics."""
    machine = rack.add_machine()
    line = rack.anvil._settings["partition"]["bootconfig"]["commandline"] + " drophammer.fault=panic@wait"
    rack.anvil.stop()
    rack.anvil.configure("partition", bootconfig=rack.anvil._settings["partition"]["bootconfig"] | {"commandline": line})
    rack.start_anvil()
    machine.power_on()
    rack.wait_for_event(machine, "Crashed", fatal=())
    machine.wait_for_line(r"drophammer: rebooting: the agent panicked", 180)
    return machine


def stored_secrets(rack):
    secrets = {}
    data = rack.anvil.data
    with sqlite3.connect(f"file:{data / 'anvil.db'}?mode=ro", uri=True) as database:
        for (document,) in database.execute("SELECT document FROM enrolments"):
            identity = json.loads(document)["identity"]
            secrets["hmac"] = identity["hmac"]
            secrets["client key"] = identity["key"].splitlines()[1]
        for (document,) in database.execute("SELECT document FROM machines"):
            password = json.loads(document).get("console_password")
            if password:
                secrets["console password"] = password
    for role in ("view", "edit", "admin"):
        secrets[f"hmac {role}"] = (data / "hmac" / f"{role}.key").read_text().split()[1]
    for key in (data / "ca").glob("*.key"):
        secrets[key.name] = key.read_text().splitlines()[1]
    return secrets


def places(rack, machines):
    """Everything that people read. The kernel's own lines about its command line are the kernel's; the log of the kernel
    (/dev/kmsg) is on the console, all of it."""
    view = ["--key-file", rack.anvil.data / "hmac" / "view.key"]
    read = {"anvil's log": rack.anvil.log.read_text(errors="replace")}
    for machine in machines:
        lines = machine.console.text().splitlines()
        read[f"{machine.name}'s console"] = "\n".join(
            line for line in lines if "drophammer: " in line or not re.search(r"[Cc]ommand line: ", line)
        )
        for word in ("show", "events", "erasures", "plan"):
            try:
                answer = rack.anvil.command("machine", word, machine.id, "--format", "json", *view)
            except CommandFailed as error:
                assert word == "plan" and machine is not machines[0], error
                answer = str(error)
            read[f"machine {word} {machine.name}"] = answer
    for words in (["machine", "list"], ["machine", "pending", "--all"], ["image", "list"]):
        read["anvil " + " ".join(words)] = rack.anvil.command(*words, "--format", "json", *view)
    return read
