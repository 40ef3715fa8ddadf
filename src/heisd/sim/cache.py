"""Files that heisd can recompute: small textures, decimated meshes, the OpenGL verdict."""

import os
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Where recomputable files live (``$XDG_CACHE_HOME/heisd`` or ``~/.cache/heisd``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heisd"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; raises OSError when it cannot.

    Other processes see either nothing or the whole file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
