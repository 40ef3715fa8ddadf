"""Speed against success, one SVG file per suite and precision: the same picture as the report's, on its own."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rows import Group, Row

from heisd.bench.charts_xy import PlanePoint, Span, plane_svg

_FONT = "svg { font-family: system-ui, sans-serif; }"


def planes(groups: Sequence[Group], folder: Path) -> list[str]:
    """Write a picture of every group in which something was timed; the lines of Markdown that show them."""
    lines = []
    for group in groups:
        points = [point for row in group.rows if (point := point_of(group, row)) is not None]
        if all(point.is_baseline for point in points):  # nothing was timed beside it
            continue
        name = f"speed_success-{group.title.replace(', ', '-')}.svg"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(standalone(plane_svg(points)), encoding="utf-8")
        lines.append(f"![{group.title}: success over speed-up, every preset](docs/figures/{name})")
    return lines


def point_of(group: Group, row: Row) -> PlanePoint | None:
    """A preset on the plane; None for one without times or successes."""
    rate, speed = row.rate, row.done["speedup_vs_baseline"]
    if rate is None or (speed is None and row.name != group.baseline):
        return None
    success = Span(100 * rate.value, 100 * rate.low, 100 * rate.high)
    span = Span(1.0, 1.0, 1.0) if speed is None else Span(speed["ratio"], *speed["ci95"])
    return PlanePoint(row.name, span, success, f"{len(row.successes)} episodes", is_baseline=speed is None)


def standalone(svg: str) -> str:
    """An inline picture as a file: with its name space and the report's style sheet."""
    style = files("heisd.bench").joinpath("report.css").read_text(encoding="utf-8")
    opening, closing, rest = svg.partition(">")
    opening = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{opening}{closing}<style><![CDATA[{_FONT}\n{style}]]></style>{rest}\n"
