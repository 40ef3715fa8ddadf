"""Stage clocks and records of control steps. Costs a few microseconds a step; imports nothing heavy."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from heisd.types import StepRecord

_NS_PER_MS = 1e6


class Clock:
    """Times the stages of one control step: ``clock.start()``, ``with clock("encode"): …``, ``clock.stop()``.

    ``synchronise`` is called before every reading, so that work queued on an accelerator is inside the stage
    that asked for it. ``now_ns`` may be replaced in tests.

    The engine's last stage is ``record``: it begins where the step's ``latency_ms`` ends and is part of what a caller
    waits for. ``stage_ms`` has it as soon as the step is over, the line that a sink writes within it has not.
    """

    __slots__ = ("_began_ns", "_now_ns", "_stage", "_stage_began_ns", "_synchronise", "stage_ms")

    def __init__(
        self, synchronise: Callable[[], None] | None = None, now_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._synchronise = synchronise
        self._now_ns = now_ns
        self.start()

    def start(self) -> None:
        """Begin a control step; forgets the stages of the one before."""
        self.stage_ms: dict[str, float] = {}
        self._stage = ""
        self._began_ns = self._stage_began_ns = self._read_ns()

    def stop(self) -> float:
        """Milliseconds since :meth:`start`."""
        return (self._read_ns() - self._began_ns) / _NS_PER_MS

    def __call__(self, stage: str) -> "Clock":
        """Name the stage that the ``with`` block measures; a stage entered twice adds up."""
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._stage_began_ns = self._read_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        elapsed_ms = (self._read_ns() - self._stage_began_ns) / _NS_PER_MS
        self.stage_ms[self._stage] = self.stage_ms.get(self._stage, 0.0) + elapsed_ms

    def _read_ns(self) -> int:
        if self._synchronise is not None:
            self._synchronise()
        return self._now_ns()


class Sink(Protocol):
    """Takes the record of every control step."""

    def emit(self, record: StepRecord) -> None:
        """Store one record."""
        ...


class NullSink:
    """Forgets everything."""

    def emit(self, record: StepRecord) -> None:
        """Do nothing."""


class MemorySink:
    """Keeps records in a list."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def emit(self, record: StepRecord) -> None:
        """Append the record to :attr:`records`."""
        self.records.append(record)


class JsonlSink:
    """Appends one JSON line a record; use as a context manager, or call :meth:`close`."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def emit(self, record: StepRecord) -> None:
        """Write the record as one line."""
        self._file.write(json.dumps(asdict(record)) + "\n")

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def __enter__(self) -> "JsonlSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
