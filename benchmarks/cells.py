"""Cells and tables in Markdown."""

from collections.abc import Sequence

from heisd.bench.stats import Estimate

NONE = "–"  # noqa: RUF001 (a dash, on purpose)
TIMES = "×"  # noqa: RUF001 (a multiplication sign, on purpose)


def interval(value: float | None, ends: Sequence[float] | None, form: str, unit: str = "") -> str:
    """A value with its interval."""
    if value is None or ends is None:
        return NONE
    return f"{value:{form}}{unit} ({ends[0]:{form}} to {ends[1]:{form}})"


def percent(estimate: Estimate | None, form: str = ".1f", unit: str = " %") -> str:
    """A rate with its interval, in percent or points."""
    if estimate is None:
        return NONE
    return interval(100 * estimate.value, [100 * estimate.low, 100 * estimate.high], form, unit)


def number(value: float | None, form: str, unit: str = "") -> str:
    """A number, or a dash."""
    return NONE if value is None else f"{value:{form}}{unit}"


def scaled(value: float | None, factor: float) -> float | None:
    """In a smaller unit: percent, thousandths."""
    return None if value is None else factor * value


def share(value: float | None) -> str:
    """Whole percent; what is not nothing never reads as 0."""
    if value is None:
        return NONE
    return "<1 %" if 0 < value < 0.005 else f"{100 * value:.0f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int) -> list[str]:
    """A table; columns behind the first ``n_text`` are right-aligned."""
    rule = ["---" if i < n_text else "--:" for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
