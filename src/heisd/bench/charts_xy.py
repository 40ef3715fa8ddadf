"""Inline SVG pictures with two axes: speed against success, latency distributions, calibration curves.

Like :mod:`heisd.bench.charts`: colours and strokes come from the page's style sheet, sizes from here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

LINE_COLOURS, LINE_DASHES = 6, 3  # the style sheet defines .line-0 … .line-5 and .dash-0 … .dash-2
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 62, 20, 14, 44
_LABEL_PX = 15  # between two lines of text
_CURVE_POINTS = 120


@dataclass(frozen=True, slots=True)
class Span:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PlanePoint:
    """One method on the speed-success plane; the baseline has a speed of exactly 1."""

    name: str
    speedup: Span
    success: Span  # percent
    note: str  # what its numbers rest on; shown on hover
    is_baseline: bool = False


@dataclass(frozen=True, slots=True)
class Axes:
    """A plot's frame: value ranges on a canvas of so many pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width_px: int = 960
    height_px: int = 380

    def left(self, value: float) -> float:
        """Horizontal pixel of a value, clipped to the frame."""
        return self._place(value, self.x, _LEFT_PX, self.width_px - _RIGHT_PX)

    def top(self, value: float) -> float:
        """Vertical pixel of a value, clipped to the frame."""
        return self._place(value, self.y, self.height_px - _BOTTOM_PX, _TOP_PX)

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """The ``points`` attribute of a polyline."""
        return " ".join(f"{self.left(x)},{self.top(y)}" for x, y in zip(xs, ys, strict=True))

    def svg(
        self, body: str, *, x_label: str, y_label: str, x_unit: str, y_unit: str, kind: str, below_px: float = 0
    ) -> str:
        """The finished picture: grid and tick labels behind ``body``, which may have ``below_px`` more under it."""
        bottom, right = self.height_px - _BOTTOM_PX, self.width_px - _RIGHT_PX
        grid = "".join(
            f'<line class="tick" x1="{self.left(t)}" y1="{_TOP_PX}" x2="{self.left(t)}" y2="{bottom}"/>'
            f'<text class="axis" x="{self.left(t)}" y="{bottom + 17}" text-anchor="middle">{t:g}{x_unit}</text>'
            for t in ticks(*self.x, count=8)
        ) + "".join(
            f'<line class="tick" x1="{_LEFT_PX}" y1="{self.top(t)}" x2="{right}" y2="{self.top(t)}"/>'
            f'<text class="axis" x="{_LEFT_PX - 8}" y="{self.top(t) + 4:.1f}" text-anchor="end">{t:g}{y_unit}</text>'
            for t in ticks(*self.y, count=5)
        )
        label = f"{y_label} over {x_label}"
        return (
            f'<svg class="xy {kind}" viewBox="0 0 {self.width_px} {self.height_px + below_px:g}" role="img" '
            f'aria-label="{escape(label)}">{grid}{body}'
            f'<text class="axis" x="{right}" y="{self.height_px - 6}" text-anchor="end">{escape(x_label)}</text>'
            f'<text class="axis" x="{_LEFT_PX}" y="{self.height_px - 6}">{escape(y_label)}</text></svg>'
        )

    @staticmethod
    def _place(value: float, span: tuple[float, float], start_px: float, end_px: float) -> float:
        low, high = span
        share = (min(max(value, low), high) - low) / (high - low)
        return round(start_px + (end_px - start_px) * share, 1)


def ticks(low: float, high: float, *, count: int) -> list[float]:
    """At most ``count + 1`` round values from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def line_class(position: int) -> str:
    """Style of the i-th line of a plot; 18 differ."""
    return f"line-{position % LINE_COLOURS} dash-{position // LINE_COLOURS % LINE_DASHES}"


def plane_svg(points: Sequence[PlanePoint]) -> str:
    """Success over speed-up, with both intervals; up and to the right is better. Needs at least one point."""
    lowest = min(point.success.low for point in points)
    slowest, fastest = min(p.speedup.low for p in points), max(p.speedup.high for p in points)
    margin = 0.06 * max(fastest - slowest, 0.2)
    axes = Axes((max(slowest - margin, 0.0), fastest + 3 * margin), (max(10.0 * (lowest // 10) - 5, 0.0), 102.0))
    base = next((point for point in points if point.is_baseline), None)
    guides = "" if base is None else _guides(axes, base)
    places = _label_places([axes.top(p.success.value) for p in points], [axes.left(p.speedup.value) for p in points])
    body = guides + "".join(_plane_point(axes, p, y) for p, y in zip(points, places, strict=True))
    return axes.svg(
        body, x_label="speed-up, full clock", y_label="success", x_unit="x", y_unit=" %", kind="plane"
    )  # fmt: skip


def _guides(axes: Axes, base: PlanePoint) -> str:
    x, y = axes.left(base.speedup.value), axes.top(base.success.value)
    return (
        f'<line class="guide" x1="{x}" y1="{_TOP_PX}" x2="{x}" y2="{axes.height_px - _BOTTOM_PX}"/>'
        f'<line class="guide" x1="{_LEFT_PX}" y1="{y}" x2="{axes.width_px - _RIGHT_PX}" y2="{y}"/>'
    )


def _plane_point(axes: Axes, point: PlanePoint, label_px: float) -> str:
    x, y = axes.left(point.speedup.value), axes.top(point.success.value)
    speed, success = point.speedup, point.success
    text = (
        f"{point.name}: {speed.value:.2f}x ({speed.low:.2f} to {speed.high:.2f}), "
        f"{success.value:.1f} % ({success.low:.1f} to {success.high:.1f}); {point.note}"
    )
    mark = (
        f'<rect class="base" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" transform="rotate(45 {x} {y})"/>'
        if point.is_baseline
        else f'<circle class="dot" cx="{x}" cy="{y}" r="5.5"/>'
    )
    leader = "" if label_px == y else f'<line class="leader" x1="{x}" y1="{y}" x2="{x + 9:.1f}" y2="{label_px}"/>'
    return (
        f'<g><title>{escape(text)}</title>{leader}<line class="whisker" x1="{axes.left(speed.low)}" y1="{y}" '
        f'x2="{axes.left(speed.high)}" y2="{y}"/><line class="whisker" x1="{x}" y1="{axes.top(success.low)}" '
        f'x2="{x}" y2="{axes.top(success.high)}"/>{mark}'
        f'<text class="name" x="{x + 10:.1f}" y="{label_px + 4:.1f}">{escape(point.name)}</text></g>'
    )


def _label_places(tops_px: Sequence[float], lefts_px: Sequence[float], near_px: float = 130) -> list[float]:
    """Vertical places of labels, each pushed below those that already stand beside it."""
    places: dict[int, float] = {}
    for i in sorted(range(len(tops_px)), key=lambda i: tops_px[i]):
        place = tops_px[i]
        for other in sorted(places, key=lambda j: places[j]):
            if abs(lefts_px[i] - lefts_px[other]) < near_px and abs(place - places[other]) < _LABEL_PX:
                place = places[other] + _LABEL_PX
        places[i] = place
    return [places[i] for i in range(len(tops_px))]


def lines_svg(
    lines: Mapping[str, Sequence[tuple[float, Span, str]]], *, x_label: str, y_label: str, x_unit: str, kind: str,
    has_legend: bool = False,
) -> str:  # fmt: skip
    """Percentages with their intervals over what was varied, a line each; the text of a point is shown on hover.

    Points stand a little beside one another, so that no interval hides another. Needs at least one point. A page has
    :func:`legend_html` behind it; a picture on its own says itself what its lines stand for.
    """
    last = max(x for line in lines.values() for x, *_ in line)
    margin = 0.05 * last or 1.0
    axes = Axes((-margin, last + margin), (0.0, 102.0))
    body = "".join(_line(axes, i, (i - (len(lines) - 1) / 2) * 5, points) for i, points in enumerate(lines.values()))
    keys, below_px = _legend(list(lines), axes) if has_legend else ("", 0.0)
    return axes.svg(
        body + keys, x_label=x_label, y_label=y_label, x_unit=x_unit, y_unit=" %", kind=kind, below_px=below_px
    )  # fmt: skip


def _legend(names: Sequence[str], axes: Axes) -> tuple[str, float]:
    """Rows of keys under the axes, in the order of :func:`line_class`; and how much taller the picture is for them."""
    x, y, keys = float(_LEFT_PX), axes.height_px + 0.75 * _LABEL_PX, []
    for i, name in enumerate(names):
        wide = 34 + 7.5 * len(name) + 18
        if x > _LEFT_PX and x + wide > axes.width_px - _RIGHT_PX:
            x, y = float(_LEFT_PX), y + 1.4 * _LABEL_PX
        keys.append(
            f'<line class="curve {line_class(i)}" x1="{x:.1f}" y1="{y:.1f}" x2="{x + 26:.1f}" y2="{y:.1f}"/>'
            f'<text class="name" x="{x + 34:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
        )
        x += wide
    return "".join(keys), y + _LABEL_PX - axes.height_px


def _line(axes: Axes, position: int, beside_px: float, points: Sequence[tuple[float, Span, str]]) -> str:
    style, places = line_class(position), [axes.left(x) + beside_px for x, *_ in points]
    corners = " ".join(f"{x:.1f},{axes.top(span.value)}" for x, (_, span, _) in zip(places, points, strict=True))
    marks = "".join(
        f'<g><title>{escape(text)}</title><line class="curve {style}" x1="{x:.1f}" y1="{axes.top(span.low)}" '
        f'x2="{x:.1f}" y2="{axes.top(span.high)}" opacity="0.45"/>'
        f'<circle class="curve {style}" cx="{x:.1f}" cy="{axes.top(span.value)}" r="3.5"/></g>'
        for x, (_, span, text) in zip(places, points, strict=True)
    )
    return f'<polyline class="curve {style}" points="{corners}"/>{marks}'


def cdf_svg(series: Mapping[str, Sequence[float]]) -> str:
    """Share of control steps answered within so many milliseconds, a curve per method.

    Every method needs at least one value; the axis ends at the largest 99th percentile.
    """
    ordered = {name: sorted(values) for name, values in series.items()}
    axes = Axes((0.0, max(_quantile(values, 0.99) for values in ordered.values()) or 1.0), (0.0, 100.0))
    curves = "".join(
        f'<polyline class="curve {line_class(i)}" points="{_cdf_points(axes, values)}"><title>{escape(name)}</title>'
        "</polyline>"
        for i, (name, values) in enumerate(ordered.items())
    )
    return axes.svg(
        curves, x_label="milliseconds per action", y_label="share of control steps", x_unit="", y_unit=" %", kind="cdf"
    )  # fmt: skip


def _cdf_points(axes: Axes, ordered: Sequence[float]) -> str:
    shares = [i / _CURVE_POINTS for i in range(_CURVE_POINTS + 1)]
    xs = [_quantile(ordered, share) for share in shares]
    last = next((i for i, x in enumerate(xs) if x > axes.x[1]), len(xs))  # beyond the frame there is no curve
    return axes.points(xs[:last], [100 * share for share in shares[:last]])


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def legend_html(names: Sequence[str]) -> str:
    """What the lines of a plot stand for, in the order of :func:`line_class`."""
    keys = "".join(
        f'<span class="key"><svg width="26" height="10"><line class="curve {line_class(i)}" x1="1" y1="5" x2="25" '
        f'y2="5"/></svg>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<div class="legend">{keys}</div>'


def calibration_svg(curve: Sequence[tuple[float, Span, int]], *, threshold: float | None = None) -> str:
    """Share of good skips (percent, with its interval) over the score that promised it; the diagonal is perfection."""
    axes = Axes((0.0, 1.0), (0.0, 100.0), height_px=340)
    most = max((n for *_, n in curve), default=0) or 1
    diagonal = f'<polyline class="guide" points="{axes.points((0.0, 1.0), (0.0, 100.0))}"/>'
    mark = ""
    if threshold is not None and threshold <= 1:
        x = axes.left(threshold)
        mark = (
            f'<line class="threshold" x1="{x}" y1="{_TOP_PX}" x2="{x}" y2="{axes.height_px - _BOTTOM_PX}"/>'
            f'<text class="name" x="{x - 6:.1f}" y="{_TOP_PX + 14}" text-anchor="end">'
            f"skips from {threshold:g} on</text>"
        )
    points = axes.points([score for score, *_ in curve], [good.value for _, good, _ in curve])
    line = f'<polyline class="curve line-0" points="{points}"/>'
    dots = "".join(
        f"<g><title>score {score:.2f}: {good.value:.0f} % good of {n}</title>"
        f'<line class="whisker" x1="{axes.left(score)}" y1="{axes.top(good.low)}" x2="{axes.left(score)}" '
        f'y2="{axes.top(good.high)}"/><circle class="dot" cx="{axes.left(score)}" cy="{axes.top(good.value)}" '
        f'r="{2.5 + 5 * math.sqrt(n / most):.1f}"/></g>'
        for score, good, n in curve
    )
    return axes.svg(
        diagonal + mark + line + dots,
        x_label="score before the language model runs",
        y_label="good skips",
        x_unit="",
        y_unit=" %",
        kind="reliability",
    )
