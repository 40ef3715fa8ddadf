"""What runs in which the world does not wait have shown, for docs/realtime.md: a table, and success in pictures.

    results/realtime-SUITE-PROFILE/, results/realtime-SUITE-CONDITION-PROFILE/      heisd eval --realtime

The names behind the prefix are free: what was played is read from the result. Over profiles, runs that are alike in all
else are one picture; over the belt's speed, those of :mod:`heisd.bench.report_belt`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cells import interval, number, share, table
from comparison import scope
from pictures import saved
from rows import CHUNKS, Group

from heisd.bench.charts_xy import lines_svg
from heisd.bench.curves import lines_of, points_of, rate_text, xs_of
from heisd.bench.latency_profile import LatencyProfile
from heisd.bench.report_belt import belt_lines, belt_svg, carried
from heisd.bench.report_run import Run, load_run
from heisd.bench.report_speed import SAME, comparable
from heisd.config import SIMULATION_HZ, Meanwhile
from heisd.presets import PRESETS
from heisd.sim.splits import Condition

PREFIX = "realtime-"
LINK = "figures"  # from docs/realtime.md
_BUT_THE_PROFILE = ("tasks", *(name for name in SAME if name != "realtime"))


def read_paced(results: Path) -> list[Run]:
    """Complete runs, by family, suite, condition and profile. Exits on one in which the world has waited."""
    places = sorted(path.parent for path in results.glob(f"{PREFIX}*/eval_info.json"))
    runs = [run for run in map(load_run, places) if run.result["status"] == "complete"]
    for run in runs:
        if not run.result["config"].get("realtime"):
            raise SystemExit(f"{run.path} is a run without --realtime: name it otherwise than {PREFIX}…")
    return sorted(runs, key=_place)


def paced(runs: Sequence[Run]) -> list[str]:
    """One row per run and method, with what the columns mean; nothing without runs."""
    if not runs:
        return []
    head = (
        "suite", "condition", "profile", "method", "plain, ms", "success (95 %)", "n",
        "to the first method, points (95 %)", "stale actions", "action age, steps", "new actions / s",
        "deadlines missed", "charged, ms",
    )  # fmt: skip
    rows = []
    for run in runs:
        for name, block in run.methods.items():
            pace, paired = block["realtime"], block["paired"]
            rows.append([
                scope([Group((run,))]), Group((run,)).starts, pace_of(run), f"`{name}`",
                f"{profile_of(run).plain_ms:.1f}",
                interval(block["pc_success"], block["wilson95"], ".1f", " %"), str(block["n_episodes"]),
                interval(paired and paired["difference_points"], paired and paired["ci95"], "+.1f"),
                share(pace["stale_action_ratio"]), number(pace["mean_action_age_steps"], ".1f"),
                number(pace["effective_control_hz"], ".1f"), share(pace["deadline_misses"]["share"]),
                number(pace["charged_ms"]["mean"], ".1f"),
            ])  # fmt: skip
    return [*table(head, rows, n_text=4), "", *footnotes(runs)]


def over_profiles(runs: Sequence[Run], folder: Path) -> list[str]:
    """A picture of success over what a plain answer takes by the profile; only of what was played by several."""
    shown, used = [], Counter[str]()
    for group in _alike(runs):
        lines = lines_of(group, lambda _, method: method, lambda run: round(profile_of(run).plain_ms, 1))
        if len(xs_of(lines)) < 2:
            continue
        answer = "full round" if _is_of_chunks(group[0]) else "plain action"
        svg = lines_svg(
            points_of(lines, "ms"), x_label=f"milliseconds of a {answer}, by the latency profile", y_label="success",
            x_unit=" ms", kind="profiles", has_legend=True,
        )  # fmt: skip
        title = ", ".join([Group((group[0],)).title, *_unusual_pace(group[0])])
        caption = f"{title}: success over the latency profile's milliseconds, a line a method"
        shown.append(saved(svg, folder, _named("realtime", group[0], title, used), caption, link=LINK))
    return shown


def on_the_belt(runs: Sequence[Run], folder: Path) -> list[str]:
    """A picture and a table of success over the belt's speed, by method and pace; nothing where no target moves."""
    shown, used = [], Counter[str]()
    for group in carried(runs):
        lines = belt_lines(group)
        speeds = xs_of(lines)
        title = scope([Group((group[0],))])
        caption = f"{title}: success over the belt's speed, a line per method and profile"
        svg = belt_svg(lines, has_legend=True)
        head = (title, *(f"{speed:g} cm/s" for speed in speeds))
        rows = [[name, *(rate_text(blocks.get(speed)) for speed in speeds)] for name, blocks in lines.items()]
        shown += ["", saved(svg, folder, _named("belt", group[0], title, used), caption, link=LINK), ""]
        shown += table(head, rows, n_text=1)
    return shown[1:]


def profile_of(run: Run) -> LatencyProfile:
    """The profile that a run was charged by, from its result."""
    return LatencyProfile.model_validate({k: v for k, v in run.result["latency_profile"].items() if k != "sha256"})


def pace_of(run: Run) -> str:
    """The profile's name, with whatever of the pace is not the default."""
    return ", ".join([profile_of(run).name, *_unusual_pace(run)])


def footnotes(runs: Sequence[Run]) -> list[str]:
    """What the columns mean and where they come from."""
    profiles = {profile.name: profile for profile in map(profile_of, runs)}
    told = "; ".join(f"{name}: {profile.model}, {profile.hardware}" for name, profile in sorted(profiles.items()))
    files = ", ".join(f"`{run.path.name}`" for run in runs)
    return ["  \n".join([
        f"Files: {files} in `benchmarks/results`. Profiles: {told}. Plain: seven tokens decoded one by one, or a chunk "
        "denoised in full, by the profile.",
        "Differences are paired by start, with Tango's score interval. Stale actions: share of the control steps in "
        "which the robot went on with an older command; action age: since the policy saw what the action in force "
        "answers to; charged: mean of all answers, actions in hand among them.",
    ])]  # fmt: skip


def _alike(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs that differ in nothing but the profile."""
    for group in comparable(runs, _BUT_THE_PROFILE):
        for pace in dict.fromkeys(map(_pace, group)):
            yield [run for run in group if _pace(run) == pace]


def _pace(run: Run) -> tuple[int, str]:
    settings = run.result["config"]["realtime"]
    return settings["control_hz"], settings["meanwhile"]


def _unusual_pace(run: Run) -> list[str]:
    control_hz, meanwhile = _pace(run)
    return [
        *([f"{control_hz} Hz"] if control_hz != SIMULATION_HZ else []),
        *([meanwhile] if meanwhile != Meanwhile.HOLD else []),
    ]


def _is_of_chunks(run: Run) -> bool:
    return any(name in PRESETS and PRESETS[name].policy == CHUNKS.policy for name in run.methods)


def _named(what: str, run: Run, title: str, used: Counter[str]) -> str:
    """A file name of its own: by family and title, numbered where two pictures have the same."""
    name = f"{what}-{'flow-' if _is_of_chunks(run) else ''}{title}"
    used[name] += 1
    return name if used[name] == 1 else f"{name}-{used[name]}"


def _place(run: Run) -> tuple[object, ...]:
    condition = Condition(run.result["condition"])
    return (
        _is_of_chunks(run), run.suite, condition.belt_m_s, condition.value, profile_of(run).plain_ms, str(run.path)
    )  # fmt: skip
