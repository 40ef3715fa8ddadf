"""The methods an evaluation can name. A method is a preset; adding one adds one line here."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from heisd.errors import UnknownName

# name -> module holding ``build(policy, sink) -> Engine``; imported only when the method is used
METHODS: dict[str, str] = {
    "ar": "heisd.presets.ar",
}


def parse_methods(names: str | Sequence[str]) -> tuple[str, ...]:
    """``"ar,hybrid"`` -> names in the order given, or UnknownName."""
    given = names.split(",") if isinstance(names, str) else list(names)
    chosen = tuple(name.strip() for name in given if name.strip())
    for name in chosen or ("",):
        if name not in METHODS:
            raise UnknownName("method", name, METHODS)
    return chosen


def method_builder(name: str) -> Callable[..., Any]:
    """The preset's builder; imports torch."""
    builder: Callable[..., Any] = import_module(METHODS[name]).build
    return builder
