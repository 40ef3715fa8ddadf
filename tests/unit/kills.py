"""A process that ends before the n-th of the system calls by which files become what they are."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The process ends here: no handler of ours may catch it."""


@dataclass
class Kill:
    """Whether it came to that call."""

    has_happened: bool = False


@contextmanager
def killed_before_call(n: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kill]:
    """Whatever runs inside ends before its n-th fsync, rename or unlink, counted from 0; what is behind goes on."""
    countdown, kill = iter(range(n, -10_000, -1)), Kill()

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(countdown) == 0:
                raise Killed
            return real(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, killing(getattr(owner, name)))
        try:
            yield kill
        except Killed:
            kill.has_happened = True
