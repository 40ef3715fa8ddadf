"""Whether the options of a proposer are of the types that its factory says it takes."""

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from heisd.errors import BadInput

_NUMBERS: dict[type, type] = {int: Integral, float: Real}  # numpy's are numbers, too


def require_types(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """BadInput, by the names of proposer and option, for a value of another type than the factory's annotation.

    What is inside of containers is the factory's own business, and so are options without an annotation.
    """
    hints = _hints(factory)
    for option, value in options.items():
        if option in hints and not _fits(value, hints[option]):
            raise BadInput(f"proposer {name!r}: its option {option!r} is {value!r}; it takes {_called(hints[option])}")


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters
    except NameError:  # imported for type checkers alone
        return {}
    return {name: each.annotation for name, each in parameters.items() if each.annotation is not each.empty}


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    kind = get_origin(hint) or hint
    if not isinstance(kind, type):  # Any, a literal, a type variable
        return True
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, member) for member in vars(kind) if not member.startswith("_"))
    return isinstance(value, kind)


def _called(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_called, get_args(hint)))
    if hint is NoneType:
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint)
