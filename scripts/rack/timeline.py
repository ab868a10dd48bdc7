"""From power-on to login: what began when, and how long it took."""

import re
from datetime import datetime

# `[    3.210] drophammer: phase network: done, 1.2 s`
AGENT_LINE = r"\] drophammer: "
PHASE_DONE = re.compile(r"\[\s*(\d+\.\d+)\] drophammer: phase ([^:]+): (\w+), ([0-9.]+) (ms|s|min)")
SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0}


def phases_on_console(text):
    """(phase, start, duration) as the agent told on the console, in seconds of the machine's clock."""
    rows = []
    for line in text.splitlines():
        match = PHASE_DONE.search(line)
        if match:
            took = float(match[4]) * SECONDS[match[5]]
            rows.append((match[2], max(float(match[1]) - took, 0.0), took))
    return rows


def of_machine(machine, provisioning, events, logged_in_at):
    """Rows (phase, start, duration), in seconds since power-on.

    The agent's own phases are placed by the moment its first line came; without them, events stand in.
    """
    first = machine.console.find(AGENT_LINE)
    begun = first.at - machine.powered_on_at if first else 0.0
    rows = [("firmware, boot loader, kernel", 0.0, begun)]
    phases = provisioning.get("phases") or []
    if phases:
        rows += [(p["name"], begun + p["start_ms"] / 1000, p["took_ms"] / 1000) for p in phases]
    else:
        rows += _from_events(events, begun)
    last = max(start + took for _, start, took in rows)
    up = logged_in_at - machine.powered_on_at
    rows.append(("installed system, to login", last, up - last))
    return [(name, round(start, 1), round(took, 1)) for name, start, took in rows]


def _from_events(events, begun):
    """Each event lasts until the next one. The first one is taken as the agent's beginning."""
    own = [e for e in events if e["event"] not in ("Alive", "PXE Booting")]
    told = [(e["event"], datetime.fromisoformat(e["time"]).timestamp()) for e in own]
    rows = []
    for (name, at), (_, until) in zip(told, told[1:]):
        rows.append((name.lower(), begun + at - told[0][1], until - at))
    return rows
