"""What the comparison's tables are made of: runs read from disk, put together where they may be, rows per preset.

Runs of the same suite, split, condition, fresh or shipped starts, precision and policy are one group (`comparable` of
the report). Within a group a preset is one row: its times are those of the run with most timed steps, its successes
those of every episode played, each start once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from heisd.bench.report_run import Run, load_run
from heisd.bench.report_speed import comparable
from heisd.bench.results import EpisodeTiming
from heisd.bench.speculation import SpeculationCounts
from heisd.bench.stats import Estimate, paired_difference, ratio_of_sums, wilson
from heisd.policies.manifest import FLOW_FORMAT, FORMAT, KINDS
from heisd.presets import PRESETS


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of policy, and the directories of its comparison: never one table of both."""

    policy: str  # format of its bundles
    prefixes: tuple[str, ...]
    plain: str  # the method that all others are compared with


TOKENS = Family(FORMAT, ("compare-", "success-"), "ar")
CHUNKS = Family(FLOW_FORMAT, ("flow-compare-", "flow-success-"), "full")
PREFIXES = (*TOKENS.prefixes, *CHUNKS.prefixes)
CONDITIONS = ("shipped", "jitter", "jitter4")
BEYOND = ("jitter4",)  # what neither training nor calibration has seen
Start = tuple[str, str]  # an episode's key, and the hash of its first observation


@dataclass(frozen=True, slots=True)
class Row:
    """One preset in one group."""

    name: str
    done: Mapping[str, Any]  # block of the timed run, or else of the one with most episodes
    timings: Mapping[str, EpisodeTiming]  # of the timed run: start -> its episode's
    successes: Mapping[Start, bool]
    is_shared: bool  # token for token the baseline: its successes are the baseline's
    faults: Mapping[str, Mapping[str, int]]  # proposer -> what went wrong in it -> how often, in all runs
    benched: Mapping[str, int]  # proposer -> episodes whose rest it was not heard in

    @property
    def is_timed(self) -> bool:
        """Whether there are times."""
        return bool(self.done["ms_per_action"]["n"])

    @property
    def rate(self) -> Estimate | None:
        """Success with Wilson's interval."""
        return wilson(sum(self.successes.values()), len(self.successes))


@dataclass(frozen=True)
class Group:
    """Runs that may be put together."""

    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """Configuration; the runs agree in what a row depends on."""
        config: Mapping[str, Any] = self.runs[0].result["config"]
        return config

    @property
    def suite(self) -> str:
        """Suite name."""
        return self.runs[0].suite

    @property
    def starts(self) -> str:
        """Condition, and whether the starts are freshly sampled."""
        return f"{self.config['condition']}{', fresh' if self.config.get('fresh') else ''}"

    @property
    def kind(self) -> tuple[str, ...]:
        """What must agree before groups of several suites and conditions are pooled."""
        policy = self.runs[0].result["policy"]
        unusual = (policy["name"], policy["sha256"], self.baseline, *self.sampling)
        return (self.config["split"], self.config["dtype"], *unusual)

    @property
    def sampling(self) -> tuple[str, ...]:
        """How a chunk policy was sampled, where that is not its own way."""
        asked = {"Euler steps": self.config.get("euler_steps"), "executed": self.config.get("executed")}
        return tuple(f"{n} {what}" for what, n in asked.items() if n is not None)

    @property
    def plain(self) -> str:
        """What the family's plain method is called in a table's head."""
        is_chunks = self.baseline in PRESETS and PRESETS[self.baseline].policy == CHUNKS.policy
        return f"`{CHUNKS.plain}`" if is_chunks else "plain"

    @property
    def title(self) -> str:
        """Suite, and whatever is not the headline's: condition, starts, precision, split, sampling."""
        usual = ("shipped", "float32", "test")
        parts = (self.starts, self.config["dtype"], self.config["split"])
        return ", ".join([self.suite, *(p for p, u in zip(parts, usual, strict=True) if p != u), *self.sampling])

    @property
    def baseline(self) -> str:
        """The first method of every run."""
        return self.runs[0].baseline

    @property
    def is_timed(self) -> bool:
        """Whether anything was timed."""
        return any(row.is_timed for row in self.rows)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One a preset, the baseline first."""
        names = dict.fromkeys(name for run in self.runs for name in run.methods)
        plain = self._successes(self.baseline)
        return tuple(self._row(name, plain) for name in names)

    def row(self, name: str) -> Row | None:
        """A preset's row."""
        return next((row for row in self.rows if row.name == name), None)

    def row_or_shared(self, name: str) -> Row:
        """A preset's row; where it was not played, the baseline's successes under its name."""
        row = self.row(name)
        return replace(self.rows[0], name=name, timings={}, is_shared=True) if row is None else row

    def pairs(self, row: Row, beside: str | None = None) -> list[tuple[bool, bool]]:
        """The baseline's success and the preset's, on every start both have played and seen alike.

        ``beside`` names another preset to take in the baseline's place.
        """
        other = self.rows[0] if beside is None else self.row(beside)
        theirs = {} if other is None else other.successes
        return [(theirs[start], success) for start, success in row.successes.items() if start in theirs]

    def _row(self, name: str, plain: Mapping[Start, bool]) -> Row:
        mine = [run for run in self.runs if name in run.methods]
        shown = max(mine, key=lambda run: (run.methods[name]["ms_per_action"]["n"], run.methods[name]["n_episodes"]))
        timings = {r.key: r.timing for r in shown.records if r.method == name and r.timing is not None}
        own = self._successes(name)
        is_shared = len(own) < len(plain) and self._is_baseline_s(name)
        records = [r.speculation for run in self.runs for r in run.records if r.method == name and r.speculation]
        counts = SpeculationCounts.total(records)
        done = shown.methods[name]
        return Row(name, done, timings, plain if is_shared else own, is_shared, counts.faults, counts.benched)

    def _successes(self, name: str) -> dict[Start, bool]:
        """Every start once; what an untimed run says of it comes first."""
        runs = sorted(self.runs, key=lambda run: not run.result["config"]["timing"])
        return {start: success for run in runs for start, success in successes_in(run, name).items()}

    def _is_baseline_s(self, name: str) -> bool:
        """Whether a preset promises the baseline's tokens, and no run of both has an outcome against it."""
        if name not in PRESETS or not PRESETS[name].is_exact:
            return False
        return all(successes_in(run, name).items() <= successes_in(run, self.baseline).items() for run in self.runs)


def successes_in(run: Run, name: str) -> dict[Start, bool]:
    """What came of every start that a preset has played in a run."""
    return {(record.key, record.start_hash): record.success for record in run.records if record.method == name}


def read_groups(results: Path, family: Family = TOKENS) -> list[Group]:
    """Groups of all complete runs of a comparison, by suite, condition and precision. Exits on runs that disagree."""
    places = sorted(path.parent for prefix in family.prefixes for path in results.glob(f"{prefix}*/eval_info.json"))
    runs = [run for run in map(load_run, places) if run.result["status"] == "complete"]
    for run in runs:
        _require_whole(run)
        _require_family(run, family)
    _require_same_assets(runs)
    groups = [Group(tuple(mine)) for mine in comparable(runs)]
    return sorted(groups, key=_place)


def with_preset(groups: Sequence[Group], name: str) -> list[Group]:
    """Groups that have a row of a preset: all of them for one whose successes are the baseline's wherever it was."""
    has = [(group, row) for group in groups if (row := group.row(name)) is not None]
    return list(groups) if all(row.is_shared for _, row in has) else [group for group, _ in has]


def pooled(groups: Sequence[Group], name: str, beside: str | None = None) -> tuple[Estimate | None, int]:
    """A preset's paired difference to the baseline over all episodes of several groups, and the number of pairs.

    ``beside`` names another preset to take in the baseline's place.

    Left out are groups of :data:`BEYOND`, for which nothing was calibrated, and successes shared from the baseline.
    Every episode weighs the same: Tango's score interval on the pooled two-by-two table. The groups' sizes are fixed,
    so differences between groups only widen it.
    """
    played = [(group, row) for group in within(groups) if not (row := group.row_or_shared(name)).is_shared]
    pairs = [pair for group, row in played for pair in group.pairs(row, beside)]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs]), len(pairs)


def within(groups: Sequence[Group]) -> list[Group]:
    """Without those of :data:`BEYOND`."""
    return [group for group in groups if group.config["condition"] not in BEYOND]


def sped(groups: Sequence[Group], name: str) -> Estimate | None:
    """A preset's speed-up over all timed episodes of several groups: the baseline's time over its own, as sums."""
    rows = [row for group in groups if (row := group.row(name)) is not None]
    timings = [timing for row in rows for timing in row.timings.values() if timing.shadow_ms]
    return ratio_of_sums([sum(t.shadow_ms) for t in timings], [sum(t.latency_ms) for t in timings])


def sped_in_loop(groups: Sequence[Group], name: str) -> Estimate | None:
    """The same from the times while the episodes were played, where plain decoding played its own from that start.

    Every start weighs the same, by its mean step.
    """
    ours, plain = [], []
    for group in groups:
        row, baseline = group.row(name), group.rows[0].timings
        for start, timing in row.timings.items() if row is not None else ():
            means = [_mean_loop_ms(each) for each in (baseline.get(start), timing)]
            if all(means):
                plain.append(means[0] or 0.0)
                ours.append(means[1] or 0.0)
    return ratio_of_sums(plain, ours)


def _mean_loop_ms(timing: EpisodeTiming | None) -> float | None:
    return None if timing is None or timing.loop_ms is None else timing.loop_ms / len(timing.latency_ms)


def kinds(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups of one policy, split, precision and baseline, over all suites and conditions."""
    by_kind: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        by_kind.setdefault(group.kind, []).append(group)
    yield from by_kind.values()


def has_place(config: Mapping[str, Any]) -> bool:
    """Whether the tables have a place for such a run: targets that stand, nothing changed, a world that waits."""
    return config["condition"] in CONDITIONS and not (config.get("shift") or config.get("realtime"))


def _place(group: Group) -> tuple[Any, ...]:
    """Order of the tables: what is unusual last."""
    order = (CONDITIONS.index(group.config["condition"]), bool(group.config.get("fresh")))
    return (group.config["dtype"] != "float32", group.sampling, group.suite, order)


def _require_whole(run: Run) -> None:
    """A result counts what its episodes say, and is one of plain conditions."""
    if not has_place(run.result["config"]):
        raise SystemExit(
            f"{run.path} is a run with --shift, --realtime or moving targets, which the comparison has no row for: "
            f"name it otherwise than {', '.join(f'{prefix}…' for prefix in PREFIXES)}"
        )
    for name, block in run.methods.items():
        n = sum(record.method == name for record in run.records)
        if n != block["n_episodes"]:
            raise SystemExit(
                f"{run.path} has {n} episodes of {name} where its result speaks of {block['n_episodes']}: "
                "commit episodes.jsonl beside eval_info.json"
            )


def _require_family(run: Run, family: Family) -> None:
    """Methods of this kind of policy alone, and nothing compared with another baseline than the family's."""
    foreign = [name for name in run.methods if name in PRESETS and PRESETS[name].policy != family.policy]
    if foreign:
        raise SystemExit(
            f"{run.path} has {', '.join(foreign)}, which runs {KINDS[PRESETS[foreign[0]].policy]}: a directory of its "
            f"family is named {' or '.join(f'{p}…' for f in (TOKENS, CHUNKS) if f != family for p in f.prefixes)}"
        )
    is_compared = run.result["config"]["timing"] or family.plain in run.methods
    if is_compared and run.baseline != family.plain:
        raise SystemExit(
            f"{run.path} compares everything with {run.baseline!r}, which it names first: "
            f"play it again with --method {family.plain},…"
        )


def _require_same_assets(runs: Sequence[Run]) -> None:
    """One table, one drafter, store and calibration: exits where a preset was played with two."""
    seen: dict[tuple[str, ...], tuple[str | None, Path]] = {}
    for run in runs:
        policy = run.result["policy"]["sha256"]
        for name in run.methods:
            for what in PRESETS[name].reads if name in PRESETS else ():
                scope = run.suite if what == "calibration" else ""
                mine = run.asset(what, name)
                found, first = seen.setdefault((policy, name, what, scope), (mine, run.path))
                if found != mine:
                    raise SystemExit(
                        f"{name!r} was played with another {what} in {run.path} than in {first}: "
                        "play one of them again, or leave it out of the results"
                    )
