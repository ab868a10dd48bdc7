"""A machine's serial console: every line with the time it came."""

import re
import threading
import time
from dataclasses import dataclass

from .commands import LabError, TimedOut

# Colours, cursor movements, and what firmware clears the screen with.
ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1bc|[\x00\x07\x08\x0e\x0f]")


@dataclass(frozen=True)
class Line:
    at: float
    """Host's monotonic clock, in seconds."""
    text: str


class Console:
    """Follows QEMU's log of the serial line."""

    def __init__(self, path):
        self.path = path
        self._lines = []
        self._partial = ""
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        path.touch()
        self._thread.start()

    def close(self):
        self._closed.set()
        self._thread.join()

    def _follow(self):
        with open(self.path, "rb") as log:
            while True:
                ending = self._closed.is_set()
                data = log.read()
                if data:
                    self._take(data.decode(errors="replace"))
                elif ending:
                    return
                else:
                    self._closed.wait(0.02)

    def _take(self, text):
        now = time.monotonic()
        with self._changed:
            *whole, self._partial = (self._partial + text).replace("\r", "\n").split("\n")
            self._lines += [Line(now, clean) for clean in (ESCAPES.sub("", line) for line in whole) if clean.strip()]
            self._changed.notify_all()

    def mark(self):
        """The place in the console up to now, for `after`."""
        with self._changed:
            return len(self._lines)

    def find(self, pattern, after=0):
        """The first line, whole or begun (a prompt), that `pattern` is found in."""
        with self._changed:
            return self._find(re.compile(pattern), after)

    def _find(self, pattern, after):
        for line in self._lines[after:]:
            if pattern.search(line.text):
                return line
        begun = ESCAPES.sub("", self._partial)
        return Line(time.monotonic(), begun) if pattern.search(begun) else None

    def wait_for_line(self, pattern, timeout, after=0, alive=lambda: True):
        """Waits for a line; the machine's end (`alive` says no) ends the wait too."""
        compiled = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                was_alive = alive()
                found = self._find(compiled, after)
                if found:
                    return found
                if time.monotonic() > deadline:
                    raise TimedOut(f"no line with {pattern!r} on the console within {timeout} s")
                if not was_alive:
                    raise LabError(f"the machine went off before a line with {pattern!r} came")
                self._changed.wait(0.2)

    def text(self, after=0):
        with self._changed:
            return "\n".join([line.text for line in self._lines[after:]] + [self._partial])

    def tail(self, count=40):
        return "\n".join(self.text().splitlines()[-count:])
