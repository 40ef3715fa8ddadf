"""Files that survive a kill: write, fsync, rename. Every error names the file and says what is still intact."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from heisd.errors import BadArtifact

TEMP_SUFFIX = ".unfinished"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, content: bytes, *, error_type: type[BadArtifact] = BadArtifact) -> None:
    """Replace ``path`` as a whole: afterwards it holds ``content`` or what it held before. Makes its directory.

    Raises ``error_type`` when it cannot be written or the disk is full.
    """
    temporary = path.with_name(path.name + TEMP_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, 0, content)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error, error_type) from error


def mb_on_disk(folder: Path) -> float:
    """Size of all files under a folder [MB of 10^6 bytes]."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def write_synced(path: Path, offset: int, content: bytes) -> None:
    """Make the file hold its first ``offset`` bytes, then ``content``, then nothing; on disk when this returns."""
    is_new = not path.exists()
    with path.open("w+b" if is_new else "r+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a new name or a rename survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError, error_type: type[BadArtifact] = BadArtifact) -> BadArtifact:
    """The error to raise when a write failed."""
    if error.errno in _FULL:
        return error_type(f"no space left for {path}: what was there before is intact; free some space and repeat")
    return error_type(f"cannot write {path}: {error.strerror}; what was there before is intact")


def json_bytes(value: object) -> bytes:
    """Indented JSON with a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file as a whole; raises BadArtifact as :func:`write_atomic`."""
    write_atomic(path, json_bytes(value))


def read_json(path: Path, *, error_type: type[BadArtifact] = BadArtifact, hint: str = "") -> dict[str, Any]:
    """A JSON object; ``error_type``, ending in ``hint``, when the file is missing, torn or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise error_type(f"{path} cannot be read: {error.strerror}{hint}") from None
    except ValueError as error:
        raise error_type(f"{path} is not JSON ({error}): it is torn or foreign{hint}") from None
    if not isinstance(value, dict):
        raise error_type(f"{path} holds a {type(value).__name__}; an object was expected{hint}")
    return value
