"""Ctrl-C that cannot get lost.

Python drops an exception that is raised inside a callback from C, such as LLVM's while numba compiles the simulator's
kernels: it prints "Exception ignored" and the program goes on as if nobody had asked it to stop.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_pending = threading.Event()


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """While open, SIGINT raises KeyboardInterrupt as always and is also remembered for :func:`check`.

    Does nothing outside the main thread, or where a program handles SIGINT itself.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _pending.clear()


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for and got lost on its way."""
    if _pending.is_set():
        _pending.clear()
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _pending.set()
    signal.default_int_handler(number, frame)
