"""QEMU's control socket (QMP): enough to pull cables and plugs, and to hear what QEMU does by itself."""

import json
import socket
import time

from .commands import LabError


class Qmp:
    def __init__(self, path, timeout=30):
        self._timeout = timeout
        self._received = b""
        self._events = []
        deadline = time.monotonic() + timeout
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                self._socket.close()
                if time.monotonic() > deadline:
                    raise LabError(f"QEMU does not answer on {path}: {error}") from error
                time.sleep(0.05)
        self._read(deadline)  # the greeting
        self.command("qmp_capabilities")

    def command(self, name, /, **arguments):
        request = {"execute": name, **({"arguments": arguments} if arguments else {})}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + self._timeout
        while True:
            answer = self._read(deadline)
            if answer is None:
                raise LabError(f"QEMU does not answer to {name}")
            if "event" in answer:
                self._events.append(answer)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refuses {name}: {answer['error'].get('desc')}")

    def wait_for_event(self, name, timeout):
        """The data of the next event of this name; None when none came in time."""
        deadline = time.monotonic() + timeout
        while True:
            event = self._events.pop(0) if self._events else self._read(deadline)
            if event is None:
                return None
            if event.get("event") == name:
                return event.get("data", {})

    def _read(self, deadline):
        """The next line as an object; None when the deadline has passed."""
        while b"\n" not in self._received:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            if not data:
                raise LabError("QEMU closed its control socket")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def close(self):
        self._socket.close()
