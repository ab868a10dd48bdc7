"""Telling a person what is going on: a step list that is redrawn on a terminal, plain lines elsewhere."""

import shutil
import sys
import threading
import time
from contextlib import contextmanager

BAR_WIDTH = 24
PLAIN_EVERY_S = 30


def bar(done, total):
    filled = min(BAR_WIDTH, BAR_WIDTH * done // max(total, 1))
    return f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {100 * done // max(total, 1):3d} %"


def megabytes(count):
    return f"{count / 1e6:.0f} MB"


class Step:
    """What is going on; `detail` may be set from any thread."""

    def __init__(self, name):
        self.name = name
        self.detail = ""
        self.started = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.started


class Terminal:
    def __init__(self, stream=sys.stderr):
        self._stream = stream
        self._live = stream.isatty()

    def line(self, text=""):
        self._stream.write(f"{text}\n")
        self._stream.flush()

    @contextmanager
    def step(self, name):
        """One step: its line is kept current, and stays with the time it took."""
        step = Step(name)
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(step, over), daemon=True)
        watcher.start()
        mark = "FAILED"
        try:
            yield step
            mark = "done"
        finally:
            over.set()
            watcher.join()
            text = f"{mark:<7}{step.seconds():7.1f} s  {step.name}"
            self._stream.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
            self._stream.flush()

    def _watch(self, step, over):
        while not over.wait(0.25 if self._live else PLAIN_EVERY_S):
            text = f"{'':<7}{step.seconds():7.1f} s  {step.name}  {step.detail}".rstrip()
            if self._live:
                width = shutil.get_terminal_size().columns
                self._stream.write(f"\r\x1b[K{text[: width - 1]}")
            else:
                self._stream.write(f"{text}\n")
            self._stream.flush()


def table(rows, header):
    """Columns as wide as they need to be; numbers to the right."""
    texts = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    right = [all(isinstance(row[i], int | float) or row[i] == "-" for row in rows) for i in range(len(header))]
    lines = []
    for row in texts:
        columns = zip(row, widths, right)
        cells = (cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in columns)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
