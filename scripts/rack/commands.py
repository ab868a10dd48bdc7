"""Running programs: to their end, or beside us with a life that ends with ours."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .paths import SCRIPTS

# prctl(2): the kernel sends this signal to a child when the thread that started it ends, whatever ends it. So children
# are started from the main thread only.
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """A sentence for the person at the terminal."""


class TimedOut(LabError):
    """What was waited for did not come in time."""


class CommandFailed(LabError):
    """A program ended with a status other than 0."""

    def __init__(self, argv, status, output):
        super().__init__(f"{' '.join(argv)}: exit status {status}\n{last_lines(output, 20)}".rstrip())
        self.status = status
        self.output = output


def last_lines(text, count):
    return "\n".join(text.splitlines()[-count:])


def in_namespace(namespace, argv):
    argv = [str(word) for word in argv]
    return ["ip", "netns", "exec", namespace, *argv] if namespace else argv


def run(argv, namespace=None, timeout=120, env=None, stdin=None, cwd=None):
    """Runs a program to its end; returns what it printed on standard output."""
    argv = in_namespace(namespace, argv)
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{' '.join(argv)} did not end within {timeout} s") from error
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stdout + done.stderr)
    return done.stdout


def _die_with_parent():
    # Ctrl-C goes to the whole foreground group: a session of its own leaves the order of the end to us.
    os.setsid()
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(argv, log, namespace=None, env=None):
    """Starts a program beside us, with its output appended to the file `log`."""
    argv = in_namespace(namespace, argv)
    with open(log, "ab") as output:
        # The C library is loaded before the fork, so nothing between fork and exec can block on another thread's lock.
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            preexec_fn=_die_with_parent,
        )


def start_module(module, words, log, namespace, ready, timeout=30):
    """Starts a program of this package, and waits until it has made the file or socket `ready`."""
    argv = [sys.executable, "-m", f"rack.{module}", *words]
    process = start(argv, log, namespace=namespace, env={"PYTHONPATH": str(SCRIPTS)})
    deadline = time.monotonic() + timeout
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            raise LabError(f"{module} did not start:\n{Path(log).read_text(errors='replace')}")
        time.sleep(0.02)
    return process


def stop(process, patience=5):
    """Ends a program that `start` started: politely, then not."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
