"""Ctrl-C that cannot get lost.

Python drops an exception that is raised inside a callback from C, such as LLVM's while numba compiles the simulator's
kernels: it prints "Exception ignored" and the program goes on as if nobody had asked it to stop.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_pending = threading.Event()


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """While open, SIGINT raises KeyboardInterrupt as always and is also remembered for :func:`check`.

    Does nothing outside the main thread, or where a program handles SIGINT itself.
    """
    with handled(signal.SIGINT, _remember, default=signal.default_int_handler):
        try:
            yield
        finally:
            _pending.clear()


@contextlib.contextmanager
def handled(number: int, handler: Handler, *, default: Handler | signal.Handlers) -> Iterator[None]:
    """``handler`` for a signal while open, where Python allows it (the main thread) and ``default`` is in place."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(number) != default:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, default)


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for and got lost on its way."""
    if _pending.is_set():
        _pending.clear()
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _pending.set()
    signal.default_int_handler(number, frame)
