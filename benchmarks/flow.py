"""The comparison of flow-matching presets with `full`, as tables in Markdown: what docs/flow.md shows.

comparison   success, speed per executed action, and what the rounds were; then success by condition
details      rounds by what became of them, how much of the drafts was accepted, and why acceptance stopped
model        what shares of rounds and costs of stages add up to, beside what was measured

Rows are those of :mod:`rows`; a suite is one row a preset: times of its timed run, successes of all its conditions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cells import NONE, number, percent, scaled, share, table
from comparison import faults, pooled_cells, scope, speed_cells, successes
from measured import read_all
from rows import Group, Row, kinds, with_preset, within

from heisd.bench.chunk_model import ChunkCosts, beside_measured, expected_round_ms, shares_of
from heisd.bench.rounds import RoundKind
from heisd.bench.stats import Estimate, wilson

ROUNDS = (RoundKind.FULL, RoundKind.SPECULATE, RoundKind.REJECTED, RoundKind.SKIP)
OWN_STAGES = ("full", "full_naive")  # presets whose full rounds are stages of their own; all others' are those of full
Part = tuple[list[Group], Row]  # groups of one suite that have a preset, and the row that tells what it did


def comparison(groups: Sequence[Group], calibrations: Path) -> list[str]:
    """Success, speed and rounds, with what the columns mean; nothing without runs."""
    if not groups:
        return []
    return [*gains(groups, calibrations), "", *successes(groups), "", *footnotes(groups)]


def gains(groups: Sequence[Group], calibrations: Path) -> list[str]:
    """One row per suite and preset."""
    head = (
        "suite", "preset", "success (95 %)", "n", "to `full`, points (95 %)", "pairs",
        "speed-up per executed action (95 %)", "simulator between (95 %)", "ms / action", "ms / round",
        "actions / round", *(f"{kind.value} rounds" for kind in ROUNDS), "prefix age, steps", "false accepts",
        "false rejects",
    )  # fmt: skip
    rows = []
    for mine, row in parts(groups):
        rounds, speed = row.done["speculation"]["rounds"], speed_cells(mine, row.name)
        rate = success(mine, row.name)
        has_verified = bool(rounds["prefix_age_steps"])  # or else its test's errors played no part
        verified = verification(mine[0], row.name, calibrations) if has_verified else {}
        rows.append([
            scope(mine), f"`{row.name}`", percent(rate[0]), str(rate[1]), *pooled_cells(mine, row.name), *speed[:2],
            number(row.done["ms_per_action"]["mean"], ".2f"), number(round_ms(rounds), ".2f"),
            number(rounds["actions_per_round"], ".2f"), *(share(kind_of(rounds, kind)["share"]) for kind in ROUNDS),
            number(mean_age(rounds), ".1f"), *(percentage(verified, f"false_{what}_share") for what in
                                               ("accept", "reject")),
        ])  # fmt: skip
    return table(head, rows, n_text=2)


def details(groups: Sequence[Group]) -> list[str]:
    """Costs of rounds, acceptance, stops and failed proposers; nothing without runs."""
    if not groups:
        return []
    return [*costs(groups), "", *acceptances(groups), "", *faults(groups)]


def costs(groups: Sequence[Group]) -> list[str]:
    """Every kind of round that a preset had: how many, what they yielded and what they took."""
    head = ("suite", "preset", "round", "rounds", "share", "actions / round", "ms / round")
    rows = []
    for mine, row in parts(groups):
        rounds = row.done["speculation"]["rounds"]
        for kind in ROUNDS:
            if (one := kind_of(rounds, kind))["n"]:
                rows.append([
                    scope(mine), f"`{row.name}`", kind.value, f"{one['n']:,}", share(one["share"]),
                    f"{one['actions'] / one['n']:.2f}", number(one["ms"], ".2f"),
                ])  # fmt: skip
    return table(head, rows, n_text=3)


def acceptances(groups: Sequence[Group]) -> list[str]:
    """Of presets that verify: how many actions of a draft were accepted, why no more, whose, and what a pass took."""
    found = [
        (mine, row, rounds)
        for mine, row in parts(groups)
        if (rounds := row.done["speculation"]["rounds"])["acceptance"]["histogram"]
    ]
    most = max((int(n) for *_, rounds in found for n in rounds["acceptance"]["histogram"]), default=0)
    head = (
        "suite", "preset", "stopped by", "whose actions", "verified rounds", "accepted a round",
        "of those that could be", *(f"{n} accepted" for n in range(most + 1)), "prefills / action",
        "expert passes / action",
    )  # fmt: skip
    rows = []
    for mine, row, rounds in found:
        accepted, n = rounds["acceptance"], sum(rounds["acceptance"]["histogram"].values())
        rows.append([
            scope(mine), f"`{row.name}`", parts_of(rounds["stops"]), parts_of(rounds["accepted_by_source"]), f"{n:,}",
            number(accepted["mean"], ".2f"), share(accepted["share"]),
            *(share(accepted["histogram"].get(str(k), 0) / n) for k in range(most + 1)),
            number(rounds["prefills_per_action"], ".3f"), number(rounds["expert_passes_per_action"], ".2f"),
        ])  # fmt: skip
    return table(head, rows, n_text=4)


def model(groups: Sequence[Group], results: Path) -> list[str]:
    """Predicted beside measured milliseconds, per suite and preset; nothing before both shares and costs are there."""
    head = (
        "suite", "preset", "costs measured on", *(f"{kind.value} round, ms" for kind in ROUNDS), "actions / round",
        "sum of a round, ms", "measured", "ms / action", "measured", "error",
    )  # fmt: skip
    rows = []
    for row, where, source, predicted in predictions(groups, results):
        rounds = row.done["speculation"]["rounds"]
        rows.append([
            where, f"`{row.name}`", source,
            *(number(predicted["kind_ms"].get(kind), ".2f") for kind in ROUNDS),
            f"{rounds['actions_per_round']:.2f}", f"{predicted['round_ms']:.2f}", number(round_ms(rounds), ".2f"),
            f"{predicted['predicted_ms']:.2f}", f"{predicted['measured_ms']:.2f}",
            number(scaled(predicted["error"], 100), "+.0f", " %"),
        ])  # fmt: skip
    return table(head, rows, n_text=3) if rows else []


def predictions(groups: Sequence[Group], results: Path) -> list[tuple[Row, str, str, dict[str, Any]]]:
    """Timed rows, their suite, the suite whose costs were taken, and the cost model's prediction beside measurement.

    Costs are of ``heisd bench`` on recorded observations, of another suite where one was measured: a run's own stages
    are no part of its prediction.
    """
    benches = {run["suite"]: run for _, run in read_all(results, "rounds-*.json")}
    found = []
    for mine, row in parts(groups):
        group = mine[0]
        policy = group.runs[0].result["policy"]["sha256"]
        known = [
            suite for suite, run in benches.items()
            if run["policy"]["sha256"] == policy and run["dtype"] == group.config["dtype"] and not group.sampling
            and row.name in run["methods"] and "full" in run["methods"]
        ]  # fmt: skip
        source = next((suite for suite in known if suite != group.suite), next(iter(known), None))
        if source is not None and row.is_timed:
            made = costs_of(benches[source]["methods"], row.name)
            shares = shares_of(row.done["speculation"]["rounds"])
            kind_ms = {kind: made.of(kind, one.looked_share) for kind, one in shares.items()}
            sums = {"kind_ms": kind_ms, "round_ms": expected_round_ms(made, shares)}
            found.append((row, scope(mine), source, sums | beside_measured(made, row.done)))
    return found


def costs_of(methods: Mapping[str, Any], name: str) -> ChunkCosts:
    """What a preset's rounds take, by a bench of it and of ``full``."""
    if name in OWN_STAGES:
        return ChunkCosts.of_bench(methods[name])
    return ChunkCosts.of_bench(methods["full"], methods[name])


def parts(groups: Sequence[Group]) -> list[Part]:
    """Every suite's presets, suite by suite; of several timed groups the one with most timed steps tells."""
    found = []
    for mine in kinds(groups):
        for suite in dict.fromkeys(group.suite for group in mine):
            here = [group for group in mine if group.suite == suite]
            for name in dict.fromkeys(row.name for group in here for row in group.rows):
                has = with_preset(here, name)
                rows = [row for group in has if (row := group.row(name)) is not None]
                found.append((has, max(rows, key=lambda r: (r.done["ms_per_action"]["n"], r.done["n_episodes"]))))
    return found


def success(groups: Sequence[Group], name: str) -> tuple[Estimate | None, int]:
    """Rate over all episodes of these groups that the pooled difference is of, and how many they are."""
    outcomes = [came for group in within(groups) for came in group.row_or_shared(name).successes.values()]
    return wilson(sum(outcomes), len(outcomes)), len(outcomes)


def kind_of(rounds: Mapping[str, Any], kind: RoundKind) -> Mapping[str, Any]:
    """What a result says of one kind of round; zeros for one that never came up."""
    none: dict[str, Any] = {"n": 0, "share": 0.0, "actions": 0, "ms": None}
    return rounds["kinds"].get(kind.value, none)


def round_ms(rounds: Mapping[str, Any]) -> float | None:
    """Mean milliseconds of a round; None for an untimed run."""
    taken = [one for kind in ROUNDS if (one := kind_of(rounds, kind))["n"]]
    if any(one["ms"] is None for one in taken):
        return None
    return sum(one["n"] * one["ms"] for one in taken) / sum(one["n"] for one in taken)


def mean_age(rounds: Mapping[str, Any]) -> float | None:
    """Control steps since the prefix that a verification read; None where nothing was verified."""
    ages = rounds["prefix_age_steps"]
    return sum(int(age) * n for age, n in ages.items()) / sum(ages.values()) if ages else None


def verification(group: Group, name: str, calibrations: Path) -> Mapping[str, Any]:
    """What the suite's calibration has found of a preset's test; empty without one of this policy."""
    path = calibrations / f"{group.suite}.json"
    if not path.is_file():
        return {}
    calibration = json.loads(path.read_text(encoding="utf-8"))
    if calibration["policy_hash"] != group.runs[0].result["policy"]["sha256"]:
        return {}
    found: Mapping[str, Any] = calibration["evidence"].get("verification", {}).get(name, {})
    return found


def percentage(found: Mapping[str, Any], name: str) -> str:
    """A share of a calibration with a decimal; a dash where there is none."""
    return number(scaled(found.get(name), 100), ".1f", " %")


def parts_of(counts: Mapping[str, int]) -> str:
    """``gripper 40 %, over tolerance 60 %``, most frequent first."""
    n = sum(counts.values())
    frequent = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{what} {share(count / n)}" for what, count in frequent if count) or NONE


def footnotes(groups: Sequence[Group]) -> list[str]:
    """What the columns mean and where they come from."""
    files = ", ".join(f"`{run.path.name}`" for group in groups for run in group.runs)
    return ["  \n".join([
        f"Files: {files} in `benchmarks/results`. An action is one that was executed: rejected rounds, drafts, "
        "look-ups and embeddings are inside. Speed-up: `full`'s time over the preset's on the same observations, in "
        "one process, bootstrap over episodes, full clock; simulator between: while the episodes were played. Times "
        "and rounds are those of the timed run, successes those of all episodes, each start once.",
        "Rounds: full: denoised; speculate: a draft was verified and some of it accepted; rejected: verified in vain, "
        "then denoised in the same call; skip: executed unverified. Prefix age: control steps since the picture that "
        "a verification reads.",
        "Differences are paired by start, with Tango's score interval, every episode with the same weight. False "
        "accepts (of accepted actions) and false rejects (of the leading good ones) are against the chunk denoised in "
        "full from zero noise on the same observation, on calibration starts. A dash: not measured, or not defined.",
    ])]  # fmt: skip
