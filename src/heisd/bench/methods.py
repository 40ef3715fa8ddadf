"""The methods an evaluation can name: the presets."""

from collections.abc import Sequence

from heisd.errors import UnknownName
from heisd.presets import PRESETS


def parse_methods(names: str | Sequence[str]) -> tuple[str, ...]:
    """``"ar,hybrid"`` -> names in the order given, or UnknownName."""
    given = names.split(",") if isinstance(names, str) else list(names)
    chosen = tuple(name.strip() for name in given if name.strip())
    for name in chosen or ("",):
        if name not in PRESETS:
            raise UnknownName("method", name, PRESETS)
    return chosen
