"""The cost model on synthetic numbers: every figure can be worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from heisd.bench.cost_model import Usage, beside_measured, ceiling, predict, predicted_speedup, proposers_of
from heisd.bench.speculation import SpeculationCounts
from heisd.errors import BadArtifact
from heisd.route.base import Reason
from heisd.route.costs import Costs
from heisd.types import StepRecord

COSTS = Costs(
    vision_ms=1.0, prefill_ms=4.0, decode_ms=1.5, row_ms=0.125, tree_ms=0.25, lookup_ms=0.5, drafter_ms=1.0,
    redraft_ms=0.5, eagle_ms=2.0, overhead_ms=0.25,
)  # fmt: skip


def step(
    route: str, forwards: int, drafted: int, *verifications: tuple[int, int], asked: tuple[str, ...] = ()
) -> StepRecord:
    return StepRecord(
        0, 1.0, {}, forwards, {}, verifications=verifications, n_drafted=drafted, route=route, reason="always",
        asked=dict.fromkeys(asked, 2),
    )  # fmt: skip


def speculation(*steps: StepRecord) -> dict[str, Any]:
    counts = SpeculationCounts()
    for each in steps:
        counts.add(each)
    return counts.block({}, sum(each.lm_forwards for each in steps))


# Four steps: one skipped, one accepted whole, one with a second check, one plain.
BLOCK = speculation(
    step("skip", 0, 0, asked=("retrieval", "parallel")), step("speculate", 1, 12, (0, 7), asked=("parallel",)),
    step("speculate", 4, 20, (0, 2), (3, 1), asked=("retrieval", "parallel")), step("full", 7, 0),
)  # fmt: skip
# V + 0.75 P + 2.25 D + rows and a later check + half the look-ups + three drafts of four and one more + the rest
PREDICTED_MS = 1.0 + 3.0 + 3.375 + (8 * 0.125 + 0.25 * 0.25) + 0.25 + (0.75 + 0.25 * 0.5) + 0.25


def test_what_an_average_action_asked_for() -> None:
    assert Usage.of(BLOCK) == Usage(
        skip_share=0.25, n_forwards=3.0, n_rows=8.0, n_later_checks=0.25, n_checks=0.75, lookup_share=0.5,
        drafter_share=0.75,
    )  # fmt: skip


def test_a_step_that_was_decoded_again_paid_a_second_prefill() -> None:
    redone = replace(step("speculate", 8, 6, (0, 0)), reason=Reason.TOO_CLOSE)
    usage = Usage.of(speculation(redone, step("full", 7, 0)))
    assert usage == Usage(0.0, 7.5, 3.0, 0.0, n_checks=0.5, redone_share=0.5)
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
        "lookup_ms": 0.5 * 0.5,
        "drafter_ms": 0.75 * 1.0 + 0.25 * 0.5,
        "overhead_ms": 0.25,
        "total_ms": PREDICTED_MS,
    }
    checked = predict(replace(COSTS, check_ms=0.5, judge_ms=9.0), Usage.of(BLOCK))
    assert checked.total_ms == predicted.total_ms + 0.75 * 0.5
    assert predict(replace(COSTS, judge_ms=9.0), Usage.of(BLOCK), is_judged=True).total_ms == PREDICTED_MS + 9.0


def test_plain_decoding_is_predicted_as_the_table_says() -> None:
    plain = Usage.of(speculation(step("speculate", 7, 0), step("full", 7, 0)))
    predicted = predict(COSTS.asking(()), plain)
    assert predicted.total_ms == COSTS.plain_ms(7) == 14.25
    assert predicted_speedup(COSTS, predicted) == 1.0


def test_a_guess_that_is_always_right_and_free_reaches_the_ceiling() -> None:
    free = replace(COSTS, row_ms=0.0, overhead_ms=0.0)
    usage = Usage.of(speculation(step("speculate", 1, 6, (0, 7))))
    assert predicted_speedup(free, predict(free, usage)) == ceiling(free) == 1 + 9 / 5


def test_presets_are_charged_for_whom_they_ask() -> None:
    assert proposers_of("hybrid") == ("parallel", "retrieval")
    assert proposers_of("heisd_paper") == ("retrieval", "eagle")
    assert proposers_of("ar") == proposers_of("nobody") == ()


def block(mean_ms: float | None) -> dict[str, Any]:
    return {"speculation": BLOCK, "ms_per_action": {"n": 4, "mean": mean_ms}, "speedup_vs_baseline": {"ratio": 1.5}}


def test_prediction_beside_measurement() -> None:
    costs = replace(COSTS, judge_ms=0.25)
    beside = beside_measured(costs, "hybrid", block(10.0))
    assert beside["predicted"]["total_ms"] == PREDICTED_MS + 0.25  # the route is judged
    assert beside["error"] == pytest.approx((PREDICTED_MS + 0.25) / 10.0 - 1)
    assert beside["is_within_10_percent"] is True
    assert beside["measured_speedup"] == 1.5
    assert beside["predicted_speedup"] == 14.25 / (PREDICTED_MS + 0.25)
    exact = beside_measured(costs, "exact", block(10.0))["predicted"]
    assert (exact["lookup_ms"], exact["overhead_ms"]) == (0.0, 0.25)
    assert beside_measured(costs, "spec_vla_strict", block(10.0))["predicted"]["drafter_ms"] == 0.25 * 2.0


def test_the_towers_are_charged_where_they_ran() -> None:
    unseen = replace(step("skip", 0, 0, asked=("parallel",)), looked=False)
    seen = step("full", 7, 0)
    assert predict(COSTS, Usage.of(speculation(unseen, seen, seen, seen))).vision_ms == 0.75
    assert (Usage.of_step(unseen).looked_share, Usage.of_step(seen).looked_share) == (0.0, 1.0)
    older = {name: value for name, value in speculation(unseen).items() if name != "looked_share"}
    assert Usage.of(older).looked_share == 1.0


def test_the_stages_of_the_run_that_is_predicted_are_no_part_of_the_prediction() -> None:
    slow = {**block(10.0), "stages": {"route": {"n": 4, "mean": 99.0}, "act": {"n": 4, "mean": 99.0}}}
    assert beside_measured(COSTS, "hybrid", slow) == beside_measured(COSTS, "hybrid", block(10.0))


@pytest.mark.parametrize(("measured_ms", "is_within"), [(8.8, False), (10.0, True), (11.0, False)])
def test_ten_percent_to_both_sides(measured_ms: float, is_within: bool) -> None:
    assert beside_measured(COSTS, "hybrid", block(measured_ms))["is_within_10_percent"] is is_within  # predicts 9.8125


def test_a_run_without_timing_is_predicted_and_not_judged() -> None:
    beside = beside_measured(COSTS, "hybrid", block(None))
    assert (beside["measured_ms"], beside["error"], beside["is_within_10_percent"]) == (None, None, None)


@pytest.mark.parametrize(
    "wrong", [{}, {"routes": {}}, {**BLOCK, "routes": {}}, {**BLOCK, "acceptance_by_position": []}]
)
def test_results_without_speculation_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArtifact, match="run heisd eval again"):
        beside_measured(COSTS, "hybrid", {"speculation": wrong})


def test_results_that_do_not_say_whom_they_asked_are_refused() -> None:
    old = SpeculationCounts().as_dict()
    del old["asked"]
    asked = SpeculationCounts.total([old, SpeculationCounts().as_dict()]).asked
    assert asked is None
    with pytest.raises(BadArtifact, match="again with this version"):
        Usage.of({**BLOCK, "asked_share": None})
