"""How the tests start ``heisd`` as a process."""

import os
import sys
from pathlib import Path


def command(*arguments):
    return [sys.executable, "-m", "heisd.cli", *map(str, arguments)]


def environment():
    source = str(Path(__file__).resolve().parents[2] / "src")
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
