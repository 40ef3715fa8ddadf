"""The accounting of rounds: FLASH's published latencies follow from its published stages and shares."""

from dataclasses import replace

import pytest

from heisd.bench.chunk_model import (
    ChunkCosts,
    RoundShare,
    beside_measured,
    expected_action_ms,
    expected_round_ms,
    shares_of,
)
from heisd.bench.rounds import RoundCounts, RoundKind, round_kind
from heisd.errors import BadArtifact
from heisd.types import RoundRecord, StepRecord

# FLASH with its Triton kernels on an RTX 4090D: a flash round 7.8 ms (encoder 4.7, draft 0.9, verify 2.2), a full one
# 39.7 ms. Per suite: share of flash rounds, accepted share of 12 actions, reported ms per call and per action.
FLASH = ChunkCosts(encode_ms=4.7, prefill_ms=22.0, denoise_ms=13.0, draft_ms=0.9, verify_ms=2.2)
PUBLISHED = {
    "libero_spatial": (0.689, 0.602, 19.2, 2.1),
    "libero_object": (0.864, 0.893, 12.6, 1.2),
    "libero_goal": (0.624, 0.669, 20.5, 2.1),
    "libero_10": (0.496, 0.625, 24.1, 2.3),
}


@pytest.mark.parametrize("suite", PUBLISHED)
def test_flashs_published_latencies_follow_from_its_shares_and_stages(suite: str) -> None:
    flash, accepted, ms_per_call, ms_per_action = PUBLISHED[suite]
    rounds = {
        RoundKind.SPECULATE: RoundShare(flash, 12 * accepted),  # its rejected rounds execute nothing and count here
        RoundKind.FULL: RoundShare(1 - flash, 12.0),
    }
    assert costs_of_kinds() == pytest.approx((7.8, 39.7))
    assert expected_round_ms(FLASH, rounds) == pytest.approx(ms_per_call, abs=1.5)
    assert expected_action_ms(FLASH, rounds) == pytest.approx(ms_per_action, abs=0.2)


def costs_of_kinds() -> tuple[float, float]:
    return FLASH.of(RoundKind.SPECULATE), FLASH.of(RoundKind.FULL)


def test_a_rejection_costs_both_and_encodes_once() -> None:
    both = FLASH.of(RoundKind.SPECULATE) + FLASH.of(RoundKind.FULL)
    assert FLASH.of(RoundKind.REJECTED) == pytest.approx(both - FLASH.encode_ms)
    assert FLASH.of(RoundKind.SKIP) == pytest.approx(5.6)
    assert FLASH.of(RoundKind.IN_HAND) == 0.0


def test_steps_in_hand_are_part_of_an_actions_cost() -> None:
    costs = ChunkCosts(encode_ms=1.0, prefill_ms=2.0, denoise_ms=3.0, in_hand_ms=0.5)
    rounds = {RoundKind.FULL: RoundShare(1.0, 4.0)}
    assert expected_action_ms(costs, rounds) == pytest.approx((6.0 + 3 * 0.5) / 4)


def step(n: int, ms: float, came: RoundRecord | None) -> tuple[StepRecord, float]:
    return StepRecord(n, ms, {}, 0, {"decoded": 7}, round=came), ms


STEPS = [
    step(0, 10.0, RoundRecord(2, n_prefills=1, n_expert_passes=3)),
    step(1, 0.1, None),
    step(2, 4.0, RoundRecord(3, n_chunks=2, n_judged=4, n_accepted=3, n_expert_passes=1, prefix_age_steps=2,
                             stop="over tolerance", source="tail")),
    step(3, 0.1, None),
    step(4, 0.1, None),
    step(5, 12.0, RoundRecord(1, n_chunks=2, n_judged=4, n_prefills=1, n_expert_passes=4, prefix_age_steps=5,
                              stop="gripper", source="tail")),
    step(6, 1.0, RoundRecord(1, source="retrieval", prefix_age_steps=1)),
]  # fmt: skip


def test_rounds_are_counted_by_what_became_of_them() -> None:
    kinds = [round_kind(record).value for record, _ in STEPS]
    assert kinds == ["full", "in hand", "speculate", "in hand", "in hand", "rejected", "skip"]
    one, two = RoundCounts(), RoundCounts()
    for i, (record, ms) in enumerate(STEPS):
        (one if i < 3 else two).add(record, ms)
    total = RoundCounts()
    total.update(one.as_dict())
    total.update(two.as_dict())
    block = total.block()
    assert (block["n"], block["actions_per_round"]) == (4, 7 / 4)
    assert block["kinds"]["full"] == {"n": 1, "share": 0.25, "actions": 2, "unseen": 0, "ms": 10.0}
    assert block["kinds"]["in hand"] == {
        "n": 3, "share": pytest.approx(3 / 7), "actions": 0, "unseen": 0, "ms": pytest.approx(0.1)
    }  # fmt: skip
    assert block["acceptance"]["histogram"] == {"0": 1, "3": 1}
    assert (block["acceptance"]["mean"], block["acceptance"]["share"]) == (1.5, 3 / 8)
    assert block["prefix_age_steps"] == {"2": 1, "5": 1}
    assert block["stops"] == {"over tolerance": 1, "gripper": 1}
    assert block["accepted_by_source"] == {"tail": 3}
    assert block["prefills_per_action"] == pytest.approx(2 / 7)
    assert block["expert_passes_per_action"] == pytest.approx(8 / 7)
    assert RoundCounts().as_dict() == {}  # a token policy's records stay as they were


def test_prediction_stands_beside_measurement() -> None:
    counts = RoundCounts()
    for record, ms in STEPS:
        counts.add(record, ms)
    costs = ChunkCosts(encode_ms=1.0, prefill_ms=4.0, denoise_ms=5.0, draft_ms=0.0, verify_ms=3.0, in_hand_ms=0.1)
    measured = sum(ms for _, ms in STEPS) / len(STEPS)
    block = {"speculation": {"rounds": counts.block()}, "ms_per_action": {"mean": measured}}
    found = beside_measured(costs, block)
    assert found["predicted_ms"] == pytest.approx((10 + 4 + 13 + 1 + 3 * 0.1) / 7)
    assert found["error"] == pytest.approx(found["predicted_ms"] / measured - 1)
    assert found["is_within_10_percent"]
    coasting = RoundCounts()
    for record, ms in STEPS:
        coasting.add(replace(record, looked=round_kind(record) is not RoundKind.SKIP), ms)
    found = beside_measured(costs, block | {"speculation": {"rounds": coasting.block()}})
    assert found["predicted_ms"] == pytest.approx((10 + 4 + 13 + 0 + 3 * 0.1) / 7)  # a skip without a look is free here
    untimed = beside_measured(costs, block | {"ms_per_action": {"mean": None}})
    assert (untimed["measured_ms"], untimed["error"]) == (None, None)
    assert sum(found.share for found in shares_of(counts.block()).values()) == pytest.approx(1.0)


def test_other_results_are_refused() -> None:
    for block in ({}, {"speculation": {"rounds": {"kinds": {"odd": {}}}}}):
        with pytest.raises(BadArtifact, match="rounds block"):
            beside_measured(FLASH, block)
    with pytest.raises(BadArtifact, match="heisd bench --method full,METHOD"):
        ChunkCosts.of_bench({"stages": {"encode": {"mean": 1.0}}}, {})


def test_drafting_is_shared_out_over_the_rounds_that_draft() -> None:
    names = ("encode", "prefill", "denoise", "propose", "verify", "route", "accept")
    # also at the steps that had their action in hand
    looked = {"route": {"mean": 0.25, "n": 40}, "act": {"mean": 0.25, "n": 40}, "record": {"mean": 0.125, "n": 40}}
    full = {"stages": {name: {"mean": 1.0, "n": 10} for name in names[:4]} | looked}
    assert ChunkCosts.of_bench(full).of(RoundKind.FULL) == 4.0 + 0.375
    assert ChunkCosts.of_bench(full).of(RoundKind.IN_HAND) == 0.375
    # Of 10 rounds 5 were verified; the others asked nobody, in no time.
    counts = {name: {"mean": 1.0, "n": 5 if name in ("verify", "accept") else 10} for name in names}
    flash = {"stages": counts | looked | {"act": {"mean": 0.5, "n": 40}}}
    costs = ChunkCosts.of_bench(full, flash)
    assert costs.draft_ms == 2.0
    assert costs.of(RoundKind.REJECTED) == 3.0 + 2.0 + 1.0 + 2.0 + 0.625  # full, draft, verify, route and accept, act
    assert costs.of(RoundKind.IN_HAND) == 0.625
    # Skips draft, too: 3 of them beside the 5 verifications.
    skipping = flash | {"speculation": {"rounds": {"kinds": {"full": {"n": 2}, "skip": {"n": 3}}}}}
    assert ChunkCosts.of_bench(full, skipping).draft_ms == pytest.approx(10 / 8)


def test_a_preset_that_only_skips_drafts_in_every_round() -> None:
    step = {"act": {"mean": 0.25, "n": 40}, "record": {"mean": 0.125, "n": 40}}
    full = {"stages": {name: {"mean": 1.0, "n": 10} for name in ("encode", "prefill", "denoise", "route")} | step}
    asked = {"encode": {"mean": 1.0, "n": 10}, "route": {"mean": 0.5, "n": 10}, "propose": {"mean": 2.0, "n": 5}}
    costs = ChunkCosts.of_bench(full, {"stages": asked | step})
    assert (costs.draft_ms, costs.verify_ms) == (0.0, 0.0)
    assert costs.of(RoundKind.FULL) == 3.0 + 1.0 + 0.5 + 0.375  # full, its part of the drafting, route, act
    assert costs.of(RoundKind.SKIP, looked_share=0.5) == 0.5 + 1.0 + 0.5 + 0.375


def test_actions_that_an_episodes_end_has_cut_off_are_not_counted() -> None:
    counts = RoundCounts()
    for record, ms in [*STEPS[:2], step(7, 10.0, RoundRecord(4, n_prefills=1, n_expert_passes=3))]:
        counts.add(record, ms)
    block = counts.block()
    assert block["kinds"]["full"]["actions"] == 6  # of which 3 were executed
    assert shares_of(block) == {RoundKind.FULL: RoundShare(1.0, 1.5)}
    costs = ChunkCosts(encode_ms=1.0, prefill_ms=4.0, denoise_ms=5.0, in_hand_ms=0.1)
    assert expected_action_ms(costs, shares_of(block)) == pytest.approx((10.0 + 10.0 + 0.1) / 3)
