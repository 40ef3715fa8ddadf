"""Success over something that was varied between runs: what stands on one line, whether in a report or a document."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heisd.bench.charts_xy import Span
from heisd.bench.report_run import Run
from heisd.presets import PRESETS

Lines = dict[str, dict[float, dict[str, Any]]]  # line -> what was varied -> the method's block of a result


def lines_of(
    runs: Sequence[Run], name_of: Callable[[Run, str], str], x_of: Callable[[Run], float]
) -> Lines:  # fmt: skip
    """What was played, method by method; of two equal runs the one with more episodes.

    A line is of one drafter, store and calibration; its name (``name_of`` run and method) says which where there are
    several.
    """
    played: dict[str, Lines] = {}
    for run in runs:
        for method, block in run.methods.items():
            blocks = played.setdefault(name_of(run, method), {}).setdefault(_assets(run, method), {})
            if block["n_episodes"] > blocks.get(x_of(run), {"n_episodes": 0})["n_episodes"]:
                blocks[x_of(run)] = block
    return {
        f"{name}, {assets}" if len(lines) > 1 else name: blocks
        for name, lines in sorted(played.items())
        for assets, blocks in sorted(lines.items())
        if blocks
    }


def points_of(lines: Lines, unit: str) -> dict[str, list[tuple[float, Span, str]]]:
    """The same as a picture wants it, with a text for every point."""
    return {
        name: [(x, span_of(block), f"{name}, {x:g} {unit}: {rate_text(block)}") for x, block in sorted(blocks.items())]
        for name, blocks in lines.items()
    }


def xs_of(lines: Mapping[str, Mapping[float, Any]]) -> list[float]:
    """Everything that any line was played at, in order."""
    return sorted({x for blocks in lines.values() for x in blocks})


def pace_text(run: Run) -> str:
    """How long the world waits for an answer, and what the robot does meanwhile."""
    settings = run.result["config"].get("realtime")
    if not settings:
        return "the world waits"
    return f"{run.result['latency_profile']['name']}, {settings['control_hz']} Hz, {settings['meanwhile']}"


def span_of(block: Mapping[str, Any]) -> Span:
    """Success with Wilson's interval, in percent."""
    return Span(block["pc_success"], *block["wilson95"])


def rate_text(block: Mapping[str, Any] | None) -> str:
    """Success of a block in words, or a dash."""
    if block is None:
        return "–"  # noqa: RUF001 (a dash, on purpose)
    low, high = block["wilson95"]
    return f"{block['pc_success']:.0f} % of {block['n_episodes']} ({low:.0f} to {high:.0f})"


def _assets(run: Run, method: str) -> str:
    """What a method read beside the policy, by the beginnings of the hashes."""
    reads = PRESETS[method].reads if method in PRESETS else ()
    known = ((what, run.asset(what, method)) for what in reads)
    return ", ".join(f"{what} {sha256[:8]}" for what, sha256 in known if sha256) or "assets not recorded"
