"""Files that survive a kill: write, fsync, rename. Every error names the file and says what is still intact."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from heisd.errors import BadArtifact

TEMP_SUFFIX = ".unfinished"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` as a whole: afterwards it holds ``content`` or what it held before. Raises BadArtifact."""
    temporary = path.with_name(path.name + TEMP_SUFFIX)
    try:
        write_synced(temporary, 0, content)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


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


def unwritable(path: Path, error: OSError) -> BadArtifact:
    """The error to raise when a write failed."""
    if error.errno in _FULL:
        return BadArtifact(f"no space left for {path}: what was stored before is intact; free some space and repeat")
    return BadArtifact(f"cannot write {path}: {error.strerror}; what was stored before is intact")


def json_bytes(value: object) -> bytes:
    """Indented JSON with a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; BadArtifact when the file is missing, torn or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadArtifact(f"{path} is not JSON ({error}): it is torn or foreign; build the store again") from None
    if not isinstance(value, dict):
        raise BadArtifact(f"{path} holds a {type(value).__name__}; an object was expected")
    return value
