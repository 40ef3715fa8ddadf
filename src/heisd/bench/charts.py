"""Small inline SVG pictures for the report. Colours come from the page's style sheet, sizes from here."""

from collections.abc import Mapping, Sequence
from html import escape

STAGE_CLASSES = 6  # the style sheet defines .stage-0 … .stage-5
TOKEN_NAMES = ("x", "y", "z", "rx", "ry", "rz", "grip")  # of an action, in the order they are decoded


def interval_svg(percent: float, low: float, high: float, *, width_px: int = 240) -> str:
    """A dot with its 95 % interval on a scale from 0 to 100 percent."""
    pad, middle = 8, 13

    def x(value: float) -> float:
        return round(pad + (width_px - 2 * pad) * value / 100, 1)

    ticks = "".join(
        f'<line class="tick" x1="{x(t)}" y1="5" x2="{x(t)}" y2="21"/>' for t in (0, 25, 50, 75, 100)
    )  # fmt: skip
    return (
        f'<svg class="interval" width="{width_px}" height="26" role="img" '
        f'aria-label="{percent:.0f} percent, 95 percent interval {low:.0f} to {high:.0f}">{ticks}'
        f'<line class="whisker" x1="{x(low)}" y1="{middle}" x2="{x(high)}" y2="{middle}"/>'
        f'<circle class="dot" cx="{x(percent)}" cy="{middle}" r="5"/></svg>'
    )


def stacked_svg(parts_ms: Mapping[str, float], *, scale_ms: float, width_px: int = 960) -> str:
    """Stage means side by side; ``scale_ms`` fills the width, so that bars of several methods compare."""
    left, pieces = 0.0, []
    for i, (name, ms) in enumerate(parts_ms.items()):
        wide = width_px * ms / scale_ms
        label, bar_px = f"{name} {ms:.2f} ms", max(wide - 1, 0.5)
        pieces.append(
            f'<rect class="stage-{i % STAGE_CLASSES}" x="{left:.1f}" width="{bar_px:.1f}" height="34" rx="3">'
            f"<title>{escape(label)}</title></rect>"
        )
        if wide > 16 + 7.5 * len(label):
            pieces.append(f'<text class="onbar" x="{left + 8:.1f}" y="22">{escape(label)}</text>')
        left += wide
    return (
        f'<svg class="stack" viewBox="0 0 {width_px} 34" role="img" aria-label="time by stage">{"".join(pieces)}</svg>'
    )


def histogram_svg(values: list[float], *, unit: str, width_px: int = 960, height_px: int = 120, bins: int = 60) -> str:
    """Distribution of per-step values up to their 99.5th percentile (a longer tail is counted in the label)."""
    ordered = sorted(values)
    top = ordered[min(int(0.995 * len(ordered)), len(ordered) - 1)] or 1.0
    counts = [0] * bins
    for value in ordered:
        if value <= top:
            counts[min(int(bins * value / top), bins - 1)] += 1
    beyond, tallest, step = sum(v > top for v in ordered), max(counts), width_px / bins
    bars = "".join(
        f'<rect class="bar" x="{i * step:.1f}" y="{height_px - 20 - (height_px - 28) * n / tallest:.1f}" '
        f'width="{step - 1:.1f}" height="{(height_px - 28) * n / tallest:.1f}"/>'
        for i, n in enumerate(counts)
        if n
    )
    marks = "".join(
        f'<text class="axis" x="{width_px * f:.0f}" y="{height_px - 4}" text-anchor="{anchor}">'
        f"{top * f:.1f} {unit}</text>"
        for f, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    tail = (
        f'<text class="axis" x="{width_px}" y="12" text-anchor="end">{beyond} slower steps not shown</text>'
        if beyond
        else ""
    )
    frame = f'<svg class="histogram" viewBox="0 0 {width_px} {height_px}" role="img" aria-label="distribution">'
    return f"{frame}{bars}{marks}{tail}</svg>"


def positions_svg(by_position: Sequence[Mapping[str, int]], *, width_px: int = 300, height_px: int = 118) -> str:
    """For every token of an action the share of judged guesses that was kept; a token never judged stays empty."""
    top, floor = 20, height_px - 20
    wide = width_px / max(len(by_position), 1)
    bars = []
    for i, counts in enumerate(by_position):
        name = TOKEN_NAMES[i] if i < len(TOKEN_NAMES) else str(i)
        middle, judged, kept = (i + 0.5) * wide, counts["judged"], counts["kept"]
        bars.append(f'<text class="axis" x="{middle:.1f}" y="{height_px - 4}" text-anchor="middle">{name}</text>')
        if not judged:
            continue
        share = kept / judged
        high = (floor - top) * share
        bars.append(
            f"<g><title>{name}: {kept} of {judged} judged guesses kept</title>"
            f'<rect class="empty" x="{i * wide + 4:.1f}" y="{top}" width="{wide - 8:.1f}" '
            f'height="{floor - top}" rx="3"/>'
            f'<rect class="bar" x="{i * wide + 4:.1f}" y="{floor - high:.1f}" width="{wide - 8:.1f}" '
            f'height="{high:.1f}" rx="3"/>'
            f'<text class="axis" x="{middle:.1f}" y="{floor - high - 4:.1f}" text-anchor="middle">'
            f"{100 * share:.0f}</text></g>"
        )
    return (
        f'<svg class="positions" viewBox="0 0 {width_px} {height_px}" role="img" '
        f'aria-label="percent of judged guesses kept, by token">{"".join(bars)}</svg>'
    )
