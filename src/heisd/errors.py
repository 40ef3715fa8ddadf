"""Every error heisd raises on purpose, so that one ``except HeisdError`` at the edge is enough.

HeisdError
├── BadInput            the caller asked for something that does not exist or cannot be
│   ├── UnknownName     a suite, method, split, protocol … that is not registered
│   └── IncompleteSuite a suite that is registered but whose files are not all there
├── MissingExtra        an optional dependency or system library is not installed
├── BadArtifact         a file that is truncated, foreign, or does not match its manifest
│   └── DatasetError    a demonstration data set that cannot be read or appended to
├── BrokenContract      a plugged-in part (a proposer) did not do what its protocol promises
├── LeakError           evaluation states were about to enter training data
└── WorkerFailed        a worker process died more often than it may
"""

from collections.abc import Iterable


class HeisdError(Exception):
    """Root of all errors raised on purpose; the command line prints it as one line."""


class BadInput(HeisdError):
    """What was asked for is not possible; the message says what is."""


class UnknownName(BadInput):
    """A name that is not registered."""

    def __init__(self, kind: str, given: str, known: Iterable[str], *, more: str = "") -> None:
        """``more`` says where the rest of what is known is listed."""
        super().__init__(f"unknown {kind} {given!r}; known: {', '.join(sorted(known))}{more}")


class IncompleteSuite(BadInput):
    """A registered suite whose task, scene or initial-state files are not all installed."""


class MissingExtra(HeisdError):
    """A dependency is missing; the message holds the command that installs it."""


class BadArtifact(HeisdError):
    """A file that is unreadable, truncated, foreign, or whose hash does not match."""


class DatasetError(BadArtifact):
    """A demonstration data set that cannot be read or safely appended to."""


class BrokenContract(HeisdError):
    """A plugged-in part broke a clause of its protocol; costs speed at run time, never an action."""

    def __init__(self, who: str, clause: str, found: str) -> None:
        super().__init__(f"{who} breaks its contract: {clause}; found {found}")
        self.clause = clause


class LeakError(HeisdError):
    """Validation, test or calibration states would have entered training data."""


class WorkerFailed(HeisdError):
    """A worker process died repeatedly on the same piece of work."""


def first_problem(error: Exception) -> str:
    """An error in one line: of a pydantic ``ValidationError`` the first field that is wrong, and how."""
    problems = getattr(error, "errors", None)
    if problems is None:
        return str(error)
    problem = problems()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"
