"""Ablations and controls of chunk policies: each is its parent but for the part it names."""

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest

import tiny_flows as flows
from heisd.accept_chunk import EndpointTest
from heisd.kinematics.defaults import LIBERO
from heisd.policies.manifest import FLOW_FORMAT
from heisd.presets import ABLATIONS, PRESETS, builder
from heisd.presets.calibration import Acceptance, SkipSetting
from heisd.presets.flash import SUITES
from heisd.propose.base import Stateless
from heisd.route.calibrated import SkipScore
from heisd.types import ChunkDraft
from heisd.watch import Watch

SETTING = SkipSetting(
    score=SkipScore(("agreement_bins",), (1.0,), (1.0,), (-1.0,), 0.0), threshold=0.9, n_skips=3, calm=True
)
CALIBRATION = SimpleNamespace(
    skips={"flow_hybrid": SETTING}, acceptance=Acceptance(residual=0.75), watch=Watch(), code_ranges=lambda: LIBERO
)


@dataclass(frozen=True)
class Asked(Stateless):
    """A proposer that only knows its name."""

    name: str

    def propose(self, _context: object, _history: object) -> ChunkDraft | None:
        return None


@dataclass
class FakeFlowAssets:
    """Everything a preset of chunks may need, on one suite."""

    suite: str = "libero_goal"
    has_calibration: bool = True

    target = flows.policy()
    sampling = target.config.sampling

    def delay(self, is_delayed: bool) -> int:
        return int(is_delayed)

    def proposer(self, name: str) -> Asked:
        return Asked(name)

    def calibration(self) -> Any:
        return CALIBRATION


def parts(name: str, suite: str = "libero_goal", *, has_calibration: bool = True) -> dict[str, Any]:
    """Everything that makes a preset's engine, by name: rule, router, fallbacks and skips field by field."""
    engine = builder(name)(FakeFlowAssets(suite, has_calibration))
    inference, router = engine._inference, engine._router
    grouped = {"rule": inference._rule, "router": router, "fallbacks": router.fallbacks, "skip": router.skip}
    found = {
        f"{group}.{each.name}": getattr(part, each.name)
        for group, part in grouped.items() if part is not None
        for each in fields(part) if each.name not in ("fallbacks", "skip")
    }  # fmt: skip
    found |= {f"is.{group}": type(part) for group, part in grouped.items()}
    found |= {f"proposers.{each}": proposer for each, proposer in inference.panel._proposers.items()}
    return found | {
        "sampling": inference._sampling,
        "delay_steps": inference._delay_steps,
        "calm_executed": inference._calm_executed,
    }


def differing(mine: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """What differs; the tail apart, which is there for whoever asks it: a skip's score, or a verification."""
    missing = object()
    for each in (mine, other):
        asks_tail = "tail" in each.get("skip.scouts", ()) or "tail" in each.get("router.sources", ())
        assert ("proposers.tail" in each) == asks_tail
    found = {part for part in mine | other if mine.get(part, missing) != other.get(part, missing)}
    return found - {"proposers.tail"}


SKIP = {"is.skip", *(f"skip.{name}" for name in (
    "score", "threshold", "source", "scouts", "n_actions", "n_skips", "gripper_margin_steps", "audited_share",
    "n_unseen", "passes_gripper",
))}  # fmt: skip
VERIFIES = {*SKIP, "router.sources", "fallbacks.max_age_steps"}  # where the parent skips, and asks for no check
# ablation -> what differs from its parent on a suite and with a calibration that have the part, and nothing else
DIFFERS: dict[str, set[str]] = {
    "flash_at_05": {"rule.levels", "rule.tolerances"},
    "flash_at_10": {"rule.levels", "rule.tolerances"},
    "flash_4_levels": {"rule.levels", "rule.tolerances"},
    "flash_delta_05": {"rule.tolerances"},
    "flash_delta_10": {"rule.tolerances"},
    "flash_delta_30": {"rule.tolerances"},
    "flash_velocity": {"rule.tolerances"},
    "flash_2_noises": {"rule.levels", "rule.shares_noise"},
    "flash_guarded": {"rule.verify_stop", "rule.post_cut"},
    "flash_no_verify_stop": {"rule.verify_stop"},
    "flash_no_post_cut": {"rule.post_cut"},
    "flash_period_4": {"fallbacks.period"},
    "flash_no_period": {"fallbacks.period"},
    "flow_hybrid_through": {"skip.passes_gripper", "fallbacks.gripper_margin_steps"},
    "flow_hybrid_even": {"router.calm_executed", "calm_executed"},
    "flow_hybrid_looking": {"skip.n_unseen"},
    "flow_hybrid_blind": {"skip.n_unseen"},
    "flow_hybrid_no_similarity": {"fallbacks.min_similarity"},
    "flow_hybrid_no_margin": {"fallbacks.gripper_margin_steps"},
    "flow_hybrid_no_watch": {"router.watch"},
    "flow_hybrid_no_skip": VERIFIES,
    "flow_hybrid_2to1": {"skip.score", "skip.threshold", "skip.n_skips"},
    "flow_hybrid_with_tail": VERIFIES,
    "flow_hybrid_tail": {*VERIFIES, "proposers.draft_head"},
    "flow_hybrid_persistence": {*VERIFIES, "proposers.draft_head", "proposers.persistence"},
    "flow_hybrid_retrieval": {*VERIFIES, "proposers.draft_head", "proposers.retrieval"},
    "flow_hybrid_all_drafts": {*VERIFIES, "proposers.persistence", "proposers.retrieval"},
}  # fmt: skip
WHERE = {"flash_guarded": "libero_object", "flash_period_4": "libero_object"}  # elsewhere it is the parent's own
FLOW_ABLATIONS = [name for name, preset in ABLATIONS.items() if preset.policy == FLOW_FORMAT]


def test_every_one_is_known() -> None:
    assert list(DIFFERS) == FLOW_ABLATIONS


@pytest.mark.parametrize("name", FLOW_ABLATIONS)
def test_an_ablation_is_its_parent_but_for_the_part_it_names(name: str) -> None:
    parent, suite = ABLATIONS[name].ablates, WHERE.get(name, "libero_goal")
    assert differing(parts(name, suite), parts(parent, suite)) == DIFFERS[name]
    # Without a calibration nothing is skipped, so what takes skips away takes nothing but the choice of who drafts.
    bare = differing(parts(name, suite, has_calibration=False), parts(parent, suite, has_calibration=False))
    kept = DIFFERS[name] - SKIP - {"fallbacks.max_age_steps"}
    if name in ("flow_hybrid_no_skip", "flow_hybrid_through", "flow_hybrid_even"):
        kept = set()
    assert bare == (SKIP if name == "flow_hybrid_2to1" else kept)


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_ablated_is_no_other_suite_s_setting(suite: str) -> None:
    """Guards and periods that are not the question stay the suite's, whichever it is."""
    for name in DIFFERS:
        found = differing(parts(name, suite), parts(ABLATIONS[name].ablates, suite))
        assert found <= DIFFERS[name]


def test_what_the_parts_become() -> None:
    def rule(name: str) -> EndpointTest:
        found = builder(name)(FakeFlowAssets())._inference._rule
        assert isinstance(found, EndpointTest)
        return found

    assert (rule("flash_at_05").levels, rule("flash_at_05").tolerances) == ((0.05,), (0.15,))
    assert (rule("flash_at_10").levels, rule("flash_at_10").tolerances) == ((0.10,), (0.15,))
    assert (rule("flash_4_levels").levels, rule("flash_4_levels").tolerances) == ((0.4, 0.2, 0.1, 0.05), (0.15,) * 4)
    assert [rule(f"flash_delta_{d}").tolerances[0] for d in ("05", "10", "30")] == [0.05, 0.10, 0.30]
    assert rule("flash_velocity").tolerances == pytest.approx((0.15, 0.075))
    assert rule("flash_2_noises").levels == (0.10, 0.10)
    assert not rule("flash_2_noises").shares_noise
    assert rule("flash_2_noises").tolerances == (0.15, 0.15)
    assert parts("flash_no_period")["fallbacks.period"] == 0
    assert parts("flash_period_4", "libero_object")["fallbacks.period"] == 4
    assert parts("flash_guarded", "libero_object")["rule.verify_stop"]
    assert parts("flow_hybrid_looking")["skip.n_unseen"] == 0
    assert parts("flow_hybrid_blind")["skip.n_unseen"] > 520  # more than an episode has control steps, and so rounds
    for name, n_unseen in (("flow_hybrid", 2), ("flow_hybrid_2to1", 2)):
        assert parts(name)["skip.n_unseen"] == n_unseen
    assert parts("flow_hybrid_no_similarity")["fallbacks.min_similarity"] == float("-inf")
    assert parts("flow_hybrid_no_margin")["fallbacks.gripper_margin_steps"] == 0
    assert parts("flow_hybrid_no_watch")["router.watch"] is None
    assert (parts("flow_hybrid_2to1")["skip.n_skips"], parts("flow_hybrid_2to1")["skip.threshold"]) == (2, 0.0)
    assert parts("flow_hybrid_2to1")["skip.score"]({}) > 0.999
    assert parts("flow_hybrid_retrieval")["router.sources"] == ("retrieval",)
    # Nothing is verified where something is skipped, so no prefix is too old; without skips both are back.
    for name in ("flow_hybrid", "flow_hybrid_looking", "flow_hybrid_blind", "flow_hybrid_2to1"):
        found = parts(name)
        assert (found["router.sources"], found["fallbacks.max_age_steps"]) == ((), float("inf"))
    unskipped = parts("flow_hybrid_no_skip")
    executed = unskipped["sampling"].executed
    assert (unskipped["router.sources"], unskipped["fallbacks.max_age_steps"]) == (("draft_head",), 3 * executed)


def test_an_ablation_needs_whom_it_asks() -> None:
    kept = {"draft_head": "draft_head", "retrieval": "store"}
    for name in ("tail_2to1", *FLOW_ABLATIONS):
        asked = builder(name)(FakeFlowAssets())._router.asked
        assert set(PRESETS[name].needs) == {kept[proposer] for proposer in asked if proposer in kept}, name


def test_the_control_is_memory_s_preset_with_the_last_chunk_in_its_place() -> None:
    assert differing(parts("tail_2to1"), parts("flash_retrieval")) == {
        "router.sources", "skip.source", "proposers.retrieval",
    }  # fmt: skip
    assert parts("tail_2to1")["skip.n_skips"] == 2
    assert not PRESETS["tail_2to1"].ablates
