"""One episode, step by step, as an inline SVG: routes as a coloured band over speed, F, kept guesses and gripper.

Below them, where there are any: fineness, angular jerk, the picture's complexity, and the score that the route weighed
(of KERV the tolerance in bins, which falls as its kinematic variability rises).
"""

from collections.abc import Sequence
from html import escape
from itertools import groupby

from heisd.bench.motion import DECODED, SKIPPED, VERIFIED, WAITING
from heisd.bench.results import EpisodeTimeline
from heisd.bench.speculation import FULL_ACTION

WIDTH_PX, LEFT_PX, RIGHT_PX = 700, 78, 12
ROUTES = {SKIPPED: "skipped", VERIFIED: "guesses verified", DECODED: "decoded", WAITING: "policy thinking"}
_ROUTE_CLASS = {
    SKIPPED: "route-skipped", VERIFIED: "route-verified", DECODED: "route-decoded", WAITING: "route-waiting",
}  # fmt: skip
_BAND_TOP, _BAND = 4, 20
_PHASES_TOP, _PHASES = 30, 15
_SPEED_TOP, _SPEED = 56, 84
_FUSED_TOP, _FUSED = 152, 60
_KEPT_TOP, _KEPT = 224, 34
_GRIPPER_TOP, _GRIPPER = 270, 18
_MORE_TOP, _MORE, _AXIS = 302, 30, 28  # further curves, one below the other, and the numbers of the steps


def timeline_svg(timeline: EpisodeTimeline) -> str:
    """The picture; hovering over a step tells everything known about it. Needs at least one step."""
    n, bottom_px = len(timeline.route), _bottom_px(timeline)
    height_px = bottom_px + _AXIS
    plots = (
        _bands(timeline),
        _phases(timeline),
        _row_label("mm / step", _SPEED_TOP, _SPEED) + _speed(timeline),
        _row_label("F", _FUSED_TOP, _FUSED) + _curve(timeline.fused, n, 1.0, _FUSED_TOP, _FUSED),
        _row_label("kept", _KEPT_TOP, _KEPT) + _kept(timeline),
        _row_label("gripper", _GRIPPER_TOP, _GRIPPER) + _gripper(timeline),
        _more(timeline),
        _step_axis(n, height_px),
        _hover(timeline),
    )
    playhead = f'<line class="playhead" x1="{LEFT_PX}" y1="0" x2="{LEFT_PX}" y2="{bottom_px}"/>'
    return (
        f'<svg class="steps" viewBox="0 0 {WIDTH_PX} {height_px}" role="img" aria-label="route, speed, F, guesses '
        f'kept and gripper at each of {n} control steps">{"".join(plots)}{playhead}</svg>'
    )


def timeline_legend(timeline: EpisodeTimeline) -> str:
    """What the colours mean; waiting only where there was any."""
    keys = "".join(
        f'<span class="key"><i class="swatch {_ROUTE_CLASS[letter]}"></i>{name}</span>'
        for letter, name in ROUTES.items()
        if letter != WAITING or WAITING in timeline.route
    )
    return f'<div class="legend">{keys}</div>'


def _x(step: float, n: int) -> float:
    return round(LEFT_PX + (WIDTH_PX - LEFT_PX - RIGHT_PX) * step / n, 2)


def _runs(values: Sequence[str]) -> list[tuple[str, int, int]]:
    """(value, first step, step behind the last) of every stretch of equal values."""
    found, at = [], 0
    for value, members in groupby(values):
        length = sum(1 for _ in members)
        found.append((value, at, at + length))
        at += length
    return found


def _bands(timeline: EpisodeTimeline) -> str:
    """The routes: strong at the top, faint behind all plots."""
    n, bottom_px = len(timeline.route), _bottom_px(timeline)
    rects = []
    for letter, first, end in _runs(timeline.route):
        x, wide, style = _x(first, n), _x(end, n) - _x(first, n), _ROUTE_CLASS.get(letter, "")
        rects.append(
            f'<rect class="{style} faint" x="{x}" y="{_BAND_TOP}" width="{wide:.2f}" '
            f'height="{bottom_px - _BAND_TOP}"/>'
            f'<rect class="{style}" x="{x}" y="{_BAND_TOP}" width="{wide:.2f}" height="{_BAND}"/>'
        )
    return _row_label("route", _BAND_TOP, _BAND) + "".join(rects)


def _phases(timeline: EpisodeTimeline) -> str:
    n, parts = len(timeline.phase), []
    for phase, first, end in _runs(timeline.phase):
        x, wide = _x(first, n), _x(end, n) - _x(first, n)
        parts.append(
            f'<rect class="phase" x="{x}" y="{_PHASES_TOP}" width="{max(wide - 1, 0.5):.2f}" height="{_PHASES}"/>'
        )
        if wide > 8 * len(phase):
            parts.append(f'<text class="axis" x="{x + 4:.1f}" y="{_PHASES_TOP + 12}">{escape(phase)}</text>')
    return _row_label("motion", _PHASES_TOP, _PHASES) + "".join(parts)


def _speed(timeline: EpisodeTimeline) -> str:
    top = max((v for v in timeline.speed_mm if v is not None), default=0.0) or 1.0
    mark = f'<text class="axis" x="{LEFT_PX - 8}" y="{_SPEED_TOP + 9}" text-anchor="end">{top:.0f}</text>'
    return mark + _curve(timeline.speed_mm, len(timeline.route), top, _SPEED_TOP, _SPEED)


def _curve(values: Sequence[float | None], n: int, top: float, top_px: int, height_px: int) -> str:
    """A line through the middle of every step; broken where a value is missing."""
    bottom = top_px + height_px
    floor = f'<line class="tick" x1="{LEFT_PX}" y1="{bottom}" x2="{WIDTH_PX - RIGHT_PX}" y2="{bottom}"/>'
    pieces = []
    for is_known, members in groupby(enumerate(values), key=lambda pair: pair[1] is not None):
        if is_known:
            points = " ".join(
                f"{_x(i + 0.5, n)},{top_px + height_px * (1 - (value or 0.0) / top):.1f}" for i, value in members
            )
            pieces.append(f'<polyline class="curve line-ink" points="{points}"/>')
    return floor + "".join(pieces)


def _kept(timeline: EpisodeTimeline) -> str:
    """Guesses kept at each step: tokens, of seven, or actions of a chunk, which may be more."""
    n, most = len(timeline.n_accepted), max(FULL_ACTION, *timeline.n_accepted)
    return "".join(
        f'<rect class="bar" x="{_x(i, n)}" y="{_KEPT_TOP + _KEPT * (1 - kept / most):.1f}" '
        f'width="{max(_x(1, n) - _x(0, n) - 0.5, 0.5):.2f}" height="{_KEPT * kept / most:.1f}"/>'
        for i, kept in enumerate(timeline.n_accepted)
        if kept
    )


def _gripper(timeline: EpisodeTimeline) -> str:
    n, parts = len(timeline.gripper), []
    for state, first, end in _runs([_gripper_name(value) for value in timeline.gripper]):
        x, wide = _x(first, n), _x(end, n) - _x(first, n)
        parts.append(
            f'<rect class="gripper-{state}" x="{x}" y="{_GRIPPER_TOP}" width="{wide:.2f}" height="{_GRIPPER}"/>'
        )
        if wide > 8 * len(state):
            parts.append(f'<text class="ongrip" x="{x + 4:.1f}" y="{_GRIPPER_TOP + 13}">{state}</text>')
    return "".join(parts)


def _gripper_name(value: float | None) -> str:
    return "unknown" if value is None else "closed" if value > 0 else "open"


def _row_label(text: str, top_px: int, height_px: int) -> str:
    return f'<text class="axis" x="{LEFT_PX - 8}" y="{top_px + height_px / 2 + 4:.1f}" text-anchor="end">{text}</text>'


def _more_curves(timeline: EpisodeTimeline) -> list[tuple[str, Sequence[float | None]]]:
    """Further readings that this episode has, by their label."""
    found = (
        ("fineness", timeline.fineness),
        ("jerk", timeline.angular_jerk),
        ("picture", timeline.complexity),
        ("score", timeline.score),
    )
    return [(label, values) for label, values in found if any(value is not None for value in values)]


def _more(timeline: EpisodeTimeline) -> str:
    """One curve each, from 0 to the largest value, which is written beside it (at least 1: most readings end there)."""
    parts = []
    for i, (label, values) in enumerate(_more_curves(timeline)):
        top_px, top = _MORE_TOP + i * (_MORE + 10), max(1.0, *(value for value in values if value is not None))
        clipped = [None if value is None else max(value, 0.0) for value in values]
        mark = f'<text class="axis" x="{LEFT_PX - 8}" y="{top_px + 5}" text-anchor="end">{top:.3g}</text>'
        curve = _curve(clipped, len(timeline.route), top, top_px, _MORE)
        parts.append(_row_label(label, top_px, _MORE + 8) + mark + curve)
    return "".join(parts)


def _bottom_px(timeline: EpisodeTimeline) -> int:
    """Where the last plot ends."""
    n = len(_more_curves(timeline))
    return _MORE_TOP + n * (_MORE + 10) - 10 if n else _GRIPPER_TOP + _GRIPPER


def _step_axis(n: int, height_px: int) -> str:
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, n) if n / step <= 10)
    return "".join(
        f'<text class="axis" x="{_x(i, n)}" y="{height_px - 8}" text-anchor="middle">{i}</text>'
        for i in range(0, n + 1, every)
    )


def _hover(timeline: EpisodeTimeline) -> str:
    n, bottom_px = len(timeline.route), _bottom_px(timeline)
    return "".join(
        f'<rect class="step" x="{_x(i, n)}" y="0" width="{_x(i + 1, n) - _x(i, n):.2f}" '
        f'height="{bottom_px}"><title>{escape(_said(timeline, i))}</title></rect>'
        for i in range(n)
    )


def _said(timeline: EpisodeTimeline, i: int) -> str:
    """Everything known about one step."""
    score = timeline.score[i]
    parts = (
        f"step {i}: {ROUTES.get(timeline.route[i], timeline.route[i])} ({timeline.reason[i]})",
        "" if score is None else f"score {score:.2f}",
        f"{timeline.n_accepted[i]} guesses kept",
        f"{timeline.phase[i]}, {_known(timeline.speed_mm[i], '.1f')} mm per step, F {_known(timeline.fused[i], '.2f')}",
        f"gripper {_gripper_name(timeline.gripper[i])}",
    )
    return "; ".join(part for part in parts if part)


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
