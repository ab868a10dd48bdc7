"""Where things are in the source tree."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "scripts"
CACHE = ROOT / ".cache"
DIST = ROOT / "dist"
