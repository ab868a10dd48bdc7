"""Programs joined by pipes, with what each of them took."""

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .commands import LabError, last_lines

# GNU time: it is small, so that the memory it tells is the program's. A child of ours begins with ours.
TIME = ["/usr/bin/time", "--quiet", "--format", "%U %S %M", "--output"]


@dataclass(frozen=True)
class Used:
    wall_s: float
    cpu_s: float
    """User and system, of all programs."""
    peak_mib: float
    """Sum of the largest resident sets of programs that run at the same time."""
    largest_mib: float
    """Of one program."""

    def then(self, other):
        """This, and the other after it."""
        peak_mib, largest_mib = max(self.peak_mib, other.peak_mib), max(self.largest_mib, other.largest_mib)
        return Used(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, peak_mib, largest_mib)


def run_all(steps, output=None, timeout=1800):
    """Runs pipelines one after the other; `output`: a file for what they print, else nobody reads it."""
    used = [run_pipeline(step, output, timeout) for step in steps]
    total = used[0]
    for other in used[1:]:
        total = total.then(other)
    return total


def run_pipeline(programs, output=None, timeout=1800):
    """The first reads nothing, each of the others what the one before it prints. All must end well."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = []
        started = time.monotonic()
        try:
            start_all(programs, folder, output, processes)
            statuses = [process.wait(started + timeout - time.monotonic()) for process in processes]
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{joined(programs)}: did not end within {timeout} s") from error
        finally:
            end_all(processes)
        wall_s = time.monotonic() - started
        if any(statuses):
            errors = [(folder / f"{number}.err").read_text(errors="replace") for number in range(len(programs))]
            told = [last_lines(text, 5) for text in errors if text]
            raise LabError("\n".join([f"{joined(programs)}: exit statuses {statuses}", *told]))
        taken = [(folder / f"{number}.time").read_text().split() for number in range(len(programs))]
    memory_mib = [int(kib) / 1024 for _, _, kib in taken]
    return Used(wall_s, sum(float(user) + float(system) for user, system, _ in taken), sum(memory_mib), max(memory_mib))


def start_all(programs, folder, output, processes):
    """Adds each to `processes` as soon as it runs, so that whoever has the list can end them."""
    upstream = subprocess.DEVNULL
    for number, argv in enumerate(programs):
        last = number == len(programs) - 1
        downstream = subprocess.PIPE if not last else open(output or os.devnull, "ab")
        with open(folder / f"{number}.err", "wb") as errors:
            process = subprocess.Popen(
                [*TIME, folder / f"{number}.time", "--", *argv],
                stdin=upstream,
                stdout=downstream,
                stderr=errors,
                process_group=0,
            )
        processes.append(process)
        # Theirs now: a pipe ends when nobody else holds it.
        for stream in (upstream, downstream):
            if hasattr(stream, "close"):
                stream.close()
        upstream = process.stdout


def end_all(processes):
    """With the program that GNU time watches."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def joined(programs):
    return " | ".join(" ".join(str(word) for word in argv) for argv in programs)
