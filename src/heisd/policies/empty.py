"""Modules without numbers in them, to be filled from a checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def empty_weights() -> Iterator[None]:
    """Modules built inside have shapes only (device ``meta``), and nobody draws initial values for them.

    Drawing them would also load torch's compiler, and with it a second LLVM beside the one that software OpenGL brings:
    in a process that has rendered a picture before, that ends in a segmentation fault.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves the functions of ``torch.nn.init`` out."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)
