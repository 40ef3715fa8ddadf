"""The methods an evaluation can name: the presets."""

from collections.abc import Sequence

from heisd.presets import PRESETS, unknown_method


def parse_methods(names: str | Sequence[str]) -> tuple[str, ...]:
    """``"ar,hybrid"`` -> names in the order given, or UnknownName."""
    given = names.split(",") if isinstance(names, str) else list(names)
    chosen = tuple(name.strip() for name in given if name.strip())
    for name in chosen or ("",):
        if name not in PRESETS:
            raise unknown_method(name)
    return chosen
