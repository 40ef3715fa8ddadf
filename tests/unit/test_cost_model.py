"""The cost model on synthetic numbers: every figure can be worked out by hand."""

from dataclasses import replace
from typing import Any

import fake_target as fake
import numpy as np
import pytest
from fake_target import CODEC, FakePolicy

from heisd.bench.cost_model import Usage, beside_measured, ceiling, predict, predicted_speedup, proposers_of
from heisd.bench.latency import BenchConfig
from heisd.bench.measure_costs import ROWS, CostMeter, fit_costs, guessed_tree, time_parts
from heisd.bench.speculation import SpeculationCounts
from heisd.errors import BadArtifact, BadInput
from heisd.propose import registry
from heisd.route.base import Reason
from heisd.route.costs import Costs
from heisd.types import StepRecord

COSTS = Costs(
    vision_ms=1.0, prefill_ms=4.0, decode_ms=1.5, row_ms=0.125, tree_ms=0.25, lookup_ms=0.5, drafter_ms=1.0,
    redraft_ms=0.5, eagle_ms=2.0, overhead_ms=0.25,
)  # fmt: skip


def step(route: str, forwards: int, drafted: int, *verifications: tuple[int, int]) -> StepRecord:
    return StepRecord(
        0, 1.0, {}, forwards, {}, verifications=verifications, n_drafted=drafted, route=route, reason="always"
    )


def speculation(*steps: StepRecord) -> dict[str, Any]:
    counts = SpeculationCounts()
    for each in steps:
        counts.add(each)
    return counts.block({}, sum(each.lm_forwards for each in steps))


# Four steps: one skipped, one accepted whole, one with a second check, one plain.
BLOCK = speculation(
    step("skip", 0, 0), step("speculate", 1, 12, (0, 7)), step("speculate", 4, 20, (0, 2), (3, 1)), step("full", 7, 0)
)


def test_what_an_average_action_asked_for() -> None:
    assert Usage.of(BLOCK) == Usage(skip_share=0.25, n_forwards=3.0, n_rows=8.0, n_later_checks=0.25)


def test_a_step_that_was_decoded_again_paid_a_second_prefill() -> None:
    redone = replace(step("speculate", 8, 6, (0, 0)), reason=Reason.TOO_CLOSE)
    usage = Usage.of(speculation(redone, step("full", 7, 0)))
    assert usage == Usage(0.0, 7.5, 3.0, 0.0, redone_share=0.5)
    assert usage.redone_share == (Usage.of_step(redone).redone_share + 0) / 2
    assert predict(COSTS, usage).prefill_ms == 1.5 * 4.0
    assert predict(COSTS, usage).decode_ms == 6.0 * 1.5


def test_a_prediction_is_the_sum_of_its_parts() -> None:
    predicted = predict(COSTS, Usage.of(BLOCK))
    assert predicted.as_dict() == {
        "vision_ms": 1.0,
        "prefill_ms": 0.75 * 4.0,
        "decode_ms": 2.25 * 1.5,
        "rows_ms": 8 * 0.125 + 0.25 * 0.25,
        "lookup_ms": 0.5,
        "drafter_ms": 1.0 + 0.25 * 0.5,
        "overhead_ms": 0.25,
        "total_ms": 1.0 + 3.0 + 3.375 + 1.0625 + 0.5 + 1.125 + 0.25,
    }
    assert predict(COSTS, Usage.of(BLOCK), overhead_ms=0.75).total_ms == predicted.total_ms + 0.5


def test_plain_decoding_is_predicted_as_the_table_says() -> None:
    plain = Usage.of(speculation(step("speculate", 7, 0), step("full", 7, 0)))
    predicted = predict(COSTS.asking(()), plain)
    assert predicted.total_ms == COSTS.plain_ms(7) == 14.25
    assert predicted_speedup(COSTS, predicted) == 1.0


def test_a_guess_that_is_always_right_and_free_reaches_the_ceiling() -> None:
    free = replace(COSTS, row_ms=0.0, drafter_ms=0.0, lookup_ms=0.0, overhead_ms=0.0)
    usage = Usage.of(speculation(step("speculate", 1, 6, (0, 7))))
    assert predicted_speedup(free, predict(free, usage)) == ceiling(free) == 1 + 9 / 5


def test_presets_are_charged_for_whom_they_ask() -> None:
    assert proposers_of("hybrid") == ("parallel", "retrieval")
    assert proposers_of("heisd_paper") == ("retrieval", "eagle")
    assert proposers_of("ar") == proposers_of("nobody") == ()


def block(mean_ms: float | None, **stages: float) -> dict[str, Any]:
    return {
        "speculation": BLOCK,
        "ms_per_action": {"n": 4, "mean": mean_ms},
        "stages": {name: {"n": 4, "mean": mean} for name, mean in stages.items()},
    }


def test_prediction_beside_measurement() -> None:
    beside = beside_measured(
        COSTS, "hybrid", block(10.0, encode=9.0, route=0.25, trie=0.125, accept=0.0625, act=0.0625)
    )
    assert beside["predicted"]["total_ms"] == 1.0 + 3.0 + 3.375 + 1.0625 + 0.5 + 1.125 + 0.5
    assert beside["error"] == pytest.approx(0.05625)
    assert beside["is_within_10_percent"] is True
    assert beside_measured(COSTS, "exact", block(10.0))["predicted"]["lookup_ms"] == 0.0
    assert beside_measured(COSTS, "spec_vla_strict", block(10.0))["predicted"]["drafter_ms"] == 0.25 * 2.0


@pytest.mark.parametrize(("measured_ms", "is_within"), [(9.0, False), (11.2, True), (11.6, False)])
def test_ten_percent_to_both_sides(measured_ms: float, is_within: bool) -> None:
    assert beside_measured(COSTS, "hybrid", block(measured_ms))["is_within_10_percent"] is is_within  # predicts 10.3125


def test_a_run_without_timing_is_predicted_and_not_judged() -> None:
    beside = beside_measured(COSTS, "hybrid", block(None))
    assert (beside["measured_ms"], beside["error"], beside["is_within_10_percent"]) == (None, None, None)


@pytest.mark.parametrize(
    "wrong", [{}, {"routes": {}}, {**BLOCK, "routes": {}}, {**BLOCK, "acceptance_by_position": []}]
)
def test_results_without_speculation_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArtifact, match="run heisd eval again"):
        beside_measured(COSTS, "hybrid", {"speculation": wrong})


def means(row_ms: float, tree_ms: float, **others: float) -> dict[str, float]:
    prefill = {f"prefill+{n}": 4.0 + row_ms * n for n in ROWS}
    decode = {f"decode+{n}": 1.5 + (tree_ms if n else 0.0) + row_ms * n for n in ROWS}
    return {"vision": 1.0, **prefill, **decode, **others}


def test_the_table_is_read_off_straight_curves() -> None:
    costs = fit_costs(means(0.125, 0.25, lookup=0.5, drafter=1.0, redraft=0.5, eagle=2.0, overhead=0.25))
    assert {name: pytest.approx(getattr(costs, name)) for name in Costs.__slots__} == {
        name: getattr(COSTS, name) for name in Costs.__slots__
    }
    assert fit_costs(means(0.0, 0.0)) == Costs(1.0, 4.0, 1.5, 0.0)


def test_noise_cannot_make_a_row_or_a_tree_earn_time() -> None:
    costs = fit_costs(means(-0.01, -0.5))
    assert (costs.row_ms, costs.tree_ms) == (0.0, 0.0)


def test_a_curve_that_is_missing_is_named() -> None:
    without = {name: ms for name, ms in means(0.1, 0.2).items() if not name.startswith("decode")}
    with pytest.raises(BadInput, match="curve of decode"):
        fit_costs(without)


def test_the_guessed_tree_has_branches_that_an_action_could_hold(rng: np.random.Generator) -> None:
    free, behind = guessed_tree(CODEC, 48, rng), guessed_tree(CODEC, 48, rng, known=CODEC.first_token)
    assert (len(free.tokens), len(behind.tokens)) == (48, 49)
    assert free.depth.max() == 5
    assert behind.depth.max() == 6
    assert (free.parents == -1).sum() == 8
    assert (behind.parents == -1).sum() == 1
    assert len(guessed_tree(CODEC, 0, rng, known=7).tokens) == 1


def test_every_part_is_timed_once_a_step_behind_the_warm_up() -> None:
    clock = iter(range(0, 10**12, 1_000_000))  # one reading a millisecond
    meter = CostMeter(FakePolicy(), {"parallel": registry.create("persistence", CODEC)}, now_ns=lambda: next(clock))
    config = BenchConfig(("ar",), steps=7, warmup=2)
    series = time_parts(meter, fake.observations(4), config)
    assert {name: len(values) for name, values in series.items()} == dict.fromkeys(series, 7)
    curves = {f"{forward}+{n}" for forward in ("prefill", "decode") for n in ROWS}
    assert set(series) == {"vision", "overhead", "drafter", "redraft"} | curves
    assert all(values == [1.0] * 7 for name, values in series.items() if name != "overhead")
    assert fit_costs(dict.fromkeys(series, 1.0)).drafter_ms == 1.0
