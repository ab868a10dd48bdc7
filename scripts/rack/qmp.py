"""QEMU's control socket (QMP): enough to pull cables and plugs."""

import json
import socket
import time

from .commands import LabError


class Qmp:
    def __init__(self, path, timeout=30):
        deadline = time.monotonic() + timeout
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                self._socket.close()
                if time.monotonic() > deadline:
                    raise LabError(f"QEMU does not answer on {path}: {error}") from error
                time.sleep(0.05)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._stream.readline()  # the greeting
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        request = {"execute": name, **({"arguments": arguments} if arguments else {})}
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        while True:
            line = self._stream.readline()
            if not line:
                raise LabError(f"QEMU closed its control socket during {name}")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refuses {name}: {answer['error'].get('desc')}")

    def close(self):
        self._stream.close()
        self._socket.close()
