"""Pictures as SVG files: speed against success per suite and precision, as the report has it, on its own."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rows import Group, Row

from heisd.bench.charts_xy import PlanePoint, Span, plane_svg

_FONT = "svg { font-family: system-ui, sans-serif; }"


def planes(groups: Sequence[Group], folder: Path, *, family: str = "", link: str = "docs/figures") -> list[str]:
    """Write a picture of every group in which something was timed; the lines of Markdown that show them.

    ``family`` begins the files' names; ``link`` leads from the document to the folder.
    """
    lines = []
    for group in groups:
        points = [point for row in group.rows if (point := point_of(group, row)) is not None]
        if all(point.is_baseline for point in points):  # nothing was timed beside it
            continue
        name = f"{family}speed_success-{group.title}"
        caption = f"{group.title}: success over speed-up, every preset"
        lines.append(saved(plane_svg(points), folder, name, caption, link=link))
    return lines


def saved(svg: str, folder: Path, name: str, caption: str, *, link: str) -> str:
    """Write an inline picture as a file of its own; the line of Markdown that shows it."""
    file = f"{name.replace(', ', '-').replace(' ', '_')}.svg"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(standalone(svg), encoding="utf-8")
    return f"![{caption}]({link}/{file})"


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
