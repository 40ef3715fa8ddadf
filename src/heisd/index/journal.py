"""Rows appended during operation, so that a kill at any byte leaves what was there before or all of the new ones.

Each task has one file of rows that only grows. Rows exist once ``journal.json`` counts them: they are written and
synced first, then the journal is replaced as a whole. Bytes behind the counted ones are leftovers of a kill; readers
never look at them and the next append cuts them off. The oldest rows are evicted by moving the counted window; when
as many are dead as may live, the live ones are copied to a new file, which the journal then names. So what the folder
may take at most is known beforehand (:func:`rows_that_fit`).
"""

import fcntl
import hashlib
import json
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import Field, ValidationError

from heisd.errors import BadArtifact, BadInput, first_problem
from heisd.files import json_bytes, unwritable, write_atomic, write_synced
from heisd.index.record import RowArray, count_following, row_dtype
from heisd.index.shard import Part
from heisd.policies.config import Frozen

FOLDER, JOURNAL, LOCK = "appended", "journal.json", ".lock"
MAX_START_BYTES = 100  # of an episode's name, as the journal writes it
_NAME_BYTES = MAX_START_BYTES + 12  # with its quotes, comma and indentation
_TAIL_BYTES, _FRAME_BYTES = 500, 300  # the rest of a task's entry, and of the journal, at most
FORGET = f"delete the folder {FOLDER}/ to go on with the demonstrations alone"


class Tail(Frozen):
    """What is appended to one task: rows ``begin`` to ``end`` of ``file``."""

    file: str
    generation: int = Field(ge=0)  # counts rewrites, part of the file's name
    begin: int = Field(ge=0)
    end: int = Field(ge=0)
    sha256: str  # of the file's first ``end`` rows
    episodes: tuple[str, ...]  # by the rows' episode numbers


class Journal(Frozen):
    """The commit file."""

    store: str  # sha256 of the manifest of the store that this belongs to
    tails: dict[int, Tail] = Field(default_factory=dict)  # by task


def read_journal(root: Path, store: str, n_tasks: int) -> Journal:
    """What is committed; an empty journal where nothing was ever appended. BadArtifact when torn or foreign."""
    path = root / FOLDER / JOURNAL
    if not path.exists():
        return Journal(store=store)
    try:
        journal = Journal.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}; {FORGET}") from None
    except ValidationError as error:
        raise BadArtifact(f"{path} is not a journal of appended rows: {first_problem(error)}; {FORGET}") from None
    if journal.store != store:
        raise BadArtifact(f"{path} belongs to another store ({journal.store[:12]}…, not {store[:12]}…); {FORGET}")
    if any(not 0 <= task < n_tasks for task in journal.tails):
        raise BadArtifact(f"{path} names tasks {sorted(journal.tails)}; the store has 0-{n_tasks - 1}; {FORGET}")
    return journal


def read_tail(root: Path, tail: Tail, n_dims: int) -> Part:
    """The live rows of one task, checked against their hash. BadArtifact names the file."""
    path, dtype = root / FOLDER / tail.file, row_dtype(n_dims)
    try:
        content = path.read_bytes()[: tail.end * dtype.itemsize]
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}; {FORGET}") from None
    if len(content) < tail.end * dtype.itemsize:
        raise BadArtifact(f"{path} is truncated: {len(content)} of {tail.end * dtype.itemsize} bytes; {FORGET}")
    if hashlib.sha256(content).hexdigest() != tail.sha256:
        raise BadArtifact(f"{path} does not hold the rows that were appended (its hash differs); {FORGET}")
    return Part(np.frombuffer(content, dtype=dtype)[tail.begin :], tail.episodes)


def rows_that_fit(room_bytes: float, n_tasks: int, n_dims: int) -> int:
    """Live rows per task with which the folder never takes more, whatever is appended and whenever one looks.

    Every row may have a dead one beside it and an episode of its own; the journal names both, and stands there twice
    while it is replaced; one task's live rows are there twice while they are copied to a new file.
    """
    record = row_dtype(n_dims).itemsize
    fixed = 2 * (_FRAME_BYTES + n_tasks * (_TAIL_BYTES + _NAME_BYTES))
    return max(0, int((room_bytes - fixed) // (n_tasks * (2 * record + 4 * _NAME_BYTES) + record)))


class AppendLog:
    """The one writer of a store's appended rows; at most ``max_rows`` per task live."""

    def __init__(self, root: Path, store: str, n_tasks: int, n_dims: int, max_rows: int) -> None:
        """Lock, read what is committed, sweep what a kill left. BadArtifact for damage or a second writer."""
        self.root, self.n_dims, self.max_rows = root, n_dims, max_rows
        self._lock = _lock(root / FOLDER)
        try:
            self._journal = read_journal(root, store, n_tasks)
            self.parts = {task: self._newest(read_tail(root, t, n_dims)) for task, t in self._journal.tails.items()}
            self._sweep()
            for task, tail in self._journal.tails.items():
                if tail.end > 2 * max_rows:  # of a wider bound
                    self._commit(task, *self._rewrite(task, tail, _alive(self.parts[task])))
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let another process append."""
        self._lock.close()

    def append(self, task: int, rows: RowArray, start: str) -> Part:
        """Add consecutive rows of one episode; on disk when this returns. The task's live rows are returned.

        Raises BadInput for a ``start`` of more than MAX_START_BYTES, BadArtifact when the disk is full or the folder
        can't be written; nothing has changed then.
        """
        if (n_bytes := len(json.dumps(start, ensure_ascii=False).encode()) - 2) > MAX_START_BYTES:
            raise BadInput(f"the name of an episode takes at most {MAX_START_BYTES} bytes; this one {n_bytes}: {start}")
        old = self._journal.tails.get(task)
        end = (old.end if old else 0) + len(rows)
        n_live = min(self.max_rows, end - (old.begin if old else 0))
        if old is not None and end - n_live <= self.max_rows:
            tail, part = self._grow(old, rows, start, n_live)
        else:
            tail, part = self._rewrite(task, old, self._newest(_joined(self.parts.get(task), rows, start)))
        self._commit(task, tail, part)
        return part

    def _commit(self, task: int, tail: Tail, part: Part) -> None:
        """Count what was written."""
        old = self._journal.tails.get(task)
        journal = self._journal.model_copy(update={"tails": self._journal.tails | {task: tail}})
        write_atomic(self.root / FOLDER / JOURNAL, json_bytes(journal.model_dump(mode="json")))
        self._journal = journal
        self.parts[task] = part
        if old is not None and old.file != tail.file:
            (self.root / FOLDER / old.file).unlink(missing_ok=True)

    def _grow(self, old: Tail, rows: RowArray, start: str, n_live: int) -> tuple[Tail, Part]:
        """Write behind the counted rows of the same file."""
        path = self.root / FOLDER / old.file
        added = _in_episode(rows, len(old.episodes))
        before = path.read_bytes()[: old.end * added.itemsize]
        if hashlib.sha256(before).hexdigest() != old.sha256:
            raise BadArtifact(f"{path} was changed by someone else while it was open; {FORGET}")
        _write(path, len(before), added.tobytes())
        digest = hashlib.sha256(before + added.tobytes()).hexdigest()
        end, episodes = old.end + len(added), (*old.episodes, start)
        tail = Tail(file=old.file, generation=old.generation, begin=end - n_live, end=end, sha256=digest,
                    episodes=episodes)  # fmt: skip
        whole = np.frombuffer(before + added.tobytes(), dtype=added.dtype)
        return tail, Part(whole[tail.begin :], episodes)

    def _rewrite(self, task: int, old: Tail | None, part: Part) -> tuple[Tail, Part]:
        """These rows alone into a new file."""
        generation = 0 if old is None else old.generation + 1
        content = part.rows.tobytes()
        name = f"task-{task:03d}-{generation:06d}.rows"
        _write(self.root / FOLDER / name, 0, content)
        digest = hashlib.sha256(content).hexdigest()
        tail = Tail(file=name, generation=generation, begin=0, end=len(part.rows), sha256=digest,
                    episodes=part.episodes)  # fmt: skip
        return tail, part

    def _newest(self, part: Part) -> Part:
        """The last ``max_rows`` rows."""
        return Part(part.rows[-self.max_rows :], part.episodes)

    def _sweep(self) -> None:
        known = {JOURNAL, LOCK, *(tail.file for tail in self._journal.tails.values())}
        for path in (self.root / FOLDER).iterdir():
            if path.name not in known:
                path.unlink()


def _joined(part: Part | None, rows: RowArray, start: str) -> Part:
    """Old and new rows."""
    if part is None:
        return Part(_in_episode(rows, 0), (start,))
    kept = _alive(part)
    return Part(np.concatenate([kept.rows, _in_episode(rows, len(kept.episodes))]), (*kept.episodes, start))


def _alive(part: Part) -> Part:
    """The same rows with the episodes that still have any, numbered from 0."""
    alive = np.unique(part.rows["episode"])
    rows = part.rows.copy()
    rows["episode"] = np.searchsorted(alive, part.rows["episode"])
    return Part(rows, tuple(part.episodes[i] for i in alive))


def _in_episode(rows: RowArray, number: int) -> RowArray:
    """A copy of the rows as one episode with this number."""
    copy = rows.copy()
    copy["episode"] = number
    copy["n_following"] = count_following(copy["episode"], copy["frame"])
    return copy


def _write(path: Path, offset: int, content: bytes) -> None:
    try:
        write_synced(path, offset, content)
    except OSError as error:
        raise unwritable(path, error) from error


def _lock(folder: Path) -> IO[str]:
    """An exclusive lock held until closed."""
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise BadArtifact(
            f"another process appends to {folder.parent}; open the store with max_appended_rows=0, or close the other"
        ) from None
    return file
