"""The comparison of presets with plain decoding, as tables in Markdown: what README and docs/comparison.md show.

headline   what this project's own presets gain and cost, by suite and over all
gains      speed, successes and memory where something was timed, one row per suite and preset
successes  success by condition, and the difference to plain decoding pooled over all of them
doings     forwards, acceptance, origins of tokens, routes
motions    the split by kind of motion
"""

from collections.abc import Sequence
from typing import Any

from cells import NONE, TIMES, interval, number, percent, scaled, share, table
from rows import BEYOND, Group, Row, kinds, pooled, sped, sped_in_loop, with_preset

from heisd.bench.papers_clock import DEFINITION
from heisd.bench.stats import Estimate, paired_difference
from heisd.presets import PRESETS

OURS = ("exact", "hybrid", "coast")
ORIGINS = ("decoded", "accepted", "relaxed", "compensated", "skipped")
SHARED = "¹"  # behind a success that is the baseline's
Memory = dict[str, float]  # preset -> peak resident MB of a process of its own


def comparison(groups: Sequence[Group], memory: Memory) -> list[str]:
    """Speed and success, with what the columns mean; nothing without runs."""
    if not groups:
        return []
    return [*gains(groups, memory), "", *successes(groups), "", *footnotes(groups)]


def details(groups: Sequence[Group]) -> list[str]:
    """What was done, and the split by kind of motion; nothing without runs."""
    if not groups:
        return []
    return [*doings(groups), "", *motions(groups), "", *faults(groups)]


def headline(groups: Sequence[Group], ours: Sequence[str] = OURS) -> list[str]:
    """Speed-up and paired success of ``ours``, by suite and over all; nothing before something was timed."""
    rows = []
    for mine in kinds(groups):
        for name in (name for name in ours if sped(mine, name) is not None):
            for part in by_suite_and_all(mine):
                rows.append([f"`{name}`", scope(part), *speed_cells(part, name), *success_cells(part, name)])
    if not rows:
        return []
    head = (
        "preset", "suite", "speed-up (95 %)", "simulator between (95 %)", "timed episodes",
        f"success to {groups[0].plain}, points (95 %)", "pairs",
    )  # fmt: skip
    return table(head, rows, n_text=2)


def by_suite_and_all(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups of every suite; then all of them, where there are several suites."""
    suites = list(dict.fromkeys(group.suite for group in groups))
    parts = [[group for group in groups if group.suite == suite] for suite in suites]
    return [*parts, *([list(groups)] if len(parts) > 1 else [])]


def speed_cells(groups: Sequence[Group], name: str) -> tuple[str, str, str]:
    """Speed-up over all timed episodes of these groups, alone and in the simulator's company, and how many they are.

    Nothing where a suite of them has not been timed.
    """
    timed = [group for group in groups if (row := group.row(name)) is not None and row.timings]
    if {group.suite for group in timed} != {group.suite for group in groups}:
        return NONE, NONE, NONE
    speed, company = sped(timed, name), sped_in_loop(timed, name)
    n = sum(len(group.row_or_shared(name).timings) for group in timed)
    return (
        NONE if speed is None else f"**{interval(speed.value, speed.ci95, '.2f', TIMES)}**",
        NONE if company is None else interval(company.value, company.ci95, ".2f", TIMES),
        str(n),
    )


def success_cells(groups: Sequence[Group], name: str) -> tuple[str, str]:
    """As :func:`pooled_cells`, its promise where it makes one; nothing where a suite of these has not been played."""
    played = {group.suite for group in groups if group.row(name) is not None}
    if played != {group.suite for group in groups} and not PRESETS[name].is_exact:
        return NONE, NONE
    has = with_preset(groups, name)
    if all(group.row_or_shared(name).is_shared for group in has):
        return "the same tokens", NONE
    return pooled_cells(has, name)


def gains(groups: Sequence[Group], memory: Memory) -> list[str]:
    """Speed and success of every group in which something was timed."""
    head = (
        "suite", "preset", "success (95 %)", "n", "to plain, points (95 %)", "speed-up, full clock (95 %)",
        "simulator between (95 %)", "papers' clock (95 %)", "ms / action", "ms / episode", "CPU ms / action",
        "CPU s / episode", "steps",
        "LM forwards / action", "peak MB", "store MB",
    )  # fmt: skip
    rows = [
        [
            group.title, f"`{row.name}`", percent(row.rate) + (SHARED if row.is_shared else ""),
            str(len(row.successes)), difference_cell(group, row), speed_cell(row.done["speedup_vs_baseline"], "**"),
            speed_cell((row.done.get("in_loop") or {}).get("speedup_vs_baseline")),
            speed_cell((row.done.get("papers_clock") or {}).get("speedup_vs_baseline")),
            number(row.done["ms_per_action"]["mean"], ".2f"), number(row.done["ms_per_episode"]["mean"], ".0f"),
            number(scaled(row.done["cpu_s_per_action"], 1000), ".1f"),
            number(row.done.get("cpu_s_per_episode"), ".2f"), number(row.done["mean_steps"], ".0f"),
            number(row.done["speculation"]["lm_forwards_per_action"], ".2f"), number(memory.get(row.name), ".0f"),
            number(row.done["store_mb"], ".1f"),
        ]
        for group in groups if group.is_timed for row in group.rows
    ]  # fmt: skip
    return table(head, rows, n_text=2)


def successes(groups: Sequence[Group]) -> list[str]:
    """Per preset and suite: success by condition and the pooled paired difference; then both suites as one."""
    starts = sorted({group.starts for group in groups}, key=_by_condition)
    head = ("preset", "suite", *starts, f"to {groups[0].plain}, all conditions, points (95 %)", "pairs")
    lines = []
    for mine in kinds(groups):
        for name in dict.fromkeys(row.name for group in mine for row in group.rows):
            for part in by_suite_and_all(with_preset(mine, name)):
                lines.append([f"`{name}`", scope(part), *rates(part, name, starts), *pooled_cells(part, name)])
    return table(head, lines, n_text=2)


def scope(groups: Sequence[Group]) -> str:
    """One suite or all of them, with what is not the headline's."""
    suites = list(dict.fromkeys(group.suite for group in groups))
    unusual = [part for part, usual in zip(groups[0].kind[:2], ("test", "float32"), strict=True) if part != usual]
    called = suites[0] if len(suites) == 1 else f"**all {len(suites)} suites**"
    return ", ".join([called, *unusual, *groups[0].sampling])


def rates(groups: Sequence[Group], name: str, starts: Sequence[str]) -> list[str]:
    """Success and episodes of a preset by condition, over these groups."""
    cells = []
    for each in starts:
        mine = [group.row_or_shared(name) for group in groups if group.starts == each]
        outcomes = [success for row in mine for success in row.successes.values()]
        mark = SHARED if any(row.is_shared for row in mine) else ""
        rate = 100 * sum(outcomes) / len(outcomes) if outcomes else None
        cells.append(NONE if rate is None else f"{rate:.1f} % of {len(outcomes)}{mark}")
    return cells


def pooled_cells(groups: Sequence[Group], name: str) -> tuple[str, str]:
    """Pooled difference and pairs; none for the baseline, and for what is its success by construction."""
    rows = [group.row_or_shared(name) for group in groups]
    if name == groups[0].baseline or all(row.is_shared for row in rows):
        return NONE, NONE
    estimate, n_pairs = pooled(groups, name)
    return points(estimate), str(n_pairs)


def doings(groups: Sequence[Group]) -> list[str]:
    """Acceptance, origins and routes, one row per group and preset."""
    head = (
        "suite", "preset", "acceptance length", "HeiSD's AL", *ORIGINS, "bins from plain", "machinery", "routes",
    )  # fmt: skip
    rows = []
    for group in groups:
        for row in group.rows:
            done = row.done["speculation"]
            total = sum(done[origin] for origin in ORIGINS)
            rows.append([
                group.title, f"`{row.name}`", number(done["acceptance_length"]["mean"], ".2f"),
                number(done.get("acceptance_length_heisd", {}).get("mean"), ".2f"),
                *(share(done[origin] / total if total else None) for origin in ORIGINS),
                number((row.done["deviation"] or {}).get("bins"), ".2f"),
                number(scaled(row.done.get("overhead_share_of_plain"), 100), ".1f", " %"),
                routes_cell(done, is_plain=row.name == group.baseline),
            ])  # fmt: skip
    return table(head, rows, n_text=2)


def motions(groups: Sequence[Group]) -> list[str]:
    """The split by kind of motion, one row per group, preset and kind."""
    head = (
        "suite", "preset", "motion", "share", "skipped", "LM forwards / action", "kept per check", "ms / action",
        "speed-up",
    )  # fmt: skip
    rows = [
        [
            group.title, f"`{row.name}`", kind, share(sums["share"]), share(sums["skipped_share"]),
            number(sums["lm_forwards_per_action"], ".2f"), number(sums["acceptance_length"], ".2f"),
            number(sums["ms_per_action"], ".2f"), number(sums["speedup_vs_baseline"], ".2f", TIMES),
        ]
        for group in groups for row in group.rows
        for kind, sums in row.done["speculation"].get("by_motion", {}).items()
    ]  # fmt: skip
    return table(head, rows, n_text=3)


def faults(groups: Sequence[Group]) -> list[str]:
    """Proposers that failed: a row with such a proposer is not the preset it is called. One sentence where none did."""
    lines = [
        f"* {group.title}, `{row.name}`: {proposer} failed {sum(what.values())} times "
        f"({', '.join(f'{kind}: {n}' for kind, n in what.items())}), benched in {row.benched.get(proposer, 0)} episodes"
        for group in groups for row in group.rows for proposer, what in row.faults.items()
    ]  # fmt: skip
    return ["Proposers that failed:", "", *lines] if lines else ["No proposer failed in any of these runs."]


def footnotes(groups: Sequence[Group]) -> list[str]:
    """What the columns mean and where they come from."""
    files = ", ".join(f"`{run.path.name}`" for group in groups for run in group.runs)
    notes = [
        f"Files: {files} in `benchmarks/results`. Speed-up: baseline time over the preset's on the same observations, "
        "in one process, bootstrap over episodes; times are those of the timed run, successes those of all episodes, "
        "each start once. Times are of the policy alone, the episode's observations answered again behind it; with the "
        "simulator between: while it was played, with the simulator's work between any two answers.",
        f"Papers' clock: {DEFINITION}.",
        "Differences are paired by start, with Tango's score interval; pooled over suites and conditions every episode "
        f"weighs the same ({', '.join(BEYOND)} is left out: nothing was calibrated there). Peak MB: a process that "
        "runs this preset alone, on libero_object. A dash: not measured, or not defined.",
    ]
    if any(row.is_shared for group in groups for row in group.rows):
        notes.append(
            f"{SHARED} Token for token plain decoding: its success is shared from the baseline, not played again."
        )
    return ["  \n".join(notes)]


def difference_cell(group: Group, row: Row) -> str:
    """Paired difference in success to the baseline of the group."""
    if row.name == group.baseline or row.is_shared:
        return NONE
    pairs = group.pairs(row)
    return points(paired_difference([a for a, _ in pairs], [b for _, b in pairs]))


def points(estimate: Estimate | None) -> str:
    """A difference in percentage points."""
    return percent(estimate, "+.1f", "")


def speed_cell(speed: dict[str, Any] | None, mark: str = "") -> str:
    """A speed-up; there is one only where both were timed."""
    return NONE if speed is None else f"{mark}{interval(speed['ratio'], speed['ci95'], '.2f', TIMES)}{mark}"


def routes_cell(speculation: dict[str, Any], *, is_plain: bool = False) -> str:
    """Shares by kind of route, most frequent first. Plain steps are ``full``; older results call them otherwise."""
    shares: dict[str, float] = {}
    for route, counts in speculation.get("routes", {}).items():
        kind = "full" if is_plain else route.split("/", 1)[0]
        shares[kind] = shares.get(kind, 0.0) + counts["share"]
    return ", ".join(f"{kind} {share(part)}" for kind, part in sorted(shares.items(), key=lambda k: -k[1])) or NONE


def _by_condition(starts: str) -> tuple[bool, str]:
    return (starts.startswith("jitter"), starts)
