"""How to install what is optional: the command that works here, not the one of a package index."""

import sys
from pathlib import Path


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation, with the pinned versions where there is a checkout."""
    root = Path(__file__).resolve().parents[2]
    constraints = root / "constraints.txt"
    what = f'-c {constraints} -e "{root}[{extra}]"' if constraints.is_file() else f'"heisd[{extra}]"'
    return f"{sys.executable} -m pip install {what}"
