"""Calibration of chunk policies: rounds observed, tests fitted and held against the truth, skips by the same rule."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import route_fakes as fakes
from calibrate_fakes import SUITE, TARGET, FakePlay, record, rows
from fake_chunks import HORIZON, FakeChunkPolicy, FakeContext, Scripted, chunk, observations
from typer.testing import CliRunner

import tiny_flows as flows
import tiny_policies as tiny
from heisd import cli
from heisd.accept_chunk import EndpointTest, good_actions, path_bins
from heisd.bench.calibrate import STAGES, run
from heisd.bench.calibration_plan import CalibrationPlan
from heisd.bench.chunk_fit import RESIDUALS, allowed_deviation, fit_acceptance, judge_all, preset_rates, rates
from heisd.bench.ladder import CHUNK_LADDER, judge
from heisd.bench.observe_chunks import ChunkWitness
from heisd.bench.observed import ObservedRound, RowWriter, read_episode
from heisd.bench.speculation import SpeculationCounts
from heisd.config import EvalConfig
from heisd.engine import ChunkEngine
from heisd.errors import BadArtifact, BadInput
from heisd.kinematics.gripper import GripperState
from heisd.policies.config import SamplingConfig
from heisd.policies.manifest import Manifest, dump
from heisd.presets.calibration import Calibration
from heisd.presets.flash import HYBRID_ROUNDS, LEVELS, hybrid_rule
from heisd.presets.skippers import CHUNKS
from heisd.propose.chunks import ShiftedTail
from heisd.route.base import Memory, Plan, RoundMemory
from heisd.route.calibrated import FEATURES, SkipScore
from heisd.route.chunk_skips import CalibratedChunkSkip
from heisd.route.chunks import Fallbacks, Rounds
from heisd.telemetry import MemorySink
from heisd.types import ChunkDraft, RoundRecord, StepRecord
from heisd.watch import Watch

SIZES = np.full(7, 0.008)
BIN = 2 / 255  # of the normalised range
OPENED = GripperState(False, None, 0.08, 0.0, False)
N = 4  # executed actions


# --- what good means --------------------------------------------------------------------------------------------------


def test_a_chunk_is_good_as_long_as_it_leads_nowhere_else_and_has_the_same_gripper() -> None:
    truth = chunk(0.1)[:N]
    near, far = chunk(0.1 + 14.9 * BIN)[:N], chunk(0.1 + 15.1 * BIN)[:N]
    assert good_actions(near, truth).all()
    assert good_actions(far, truth).tolist() == [True, True, True, False]  # 15.1 bins an action, on the whole
    assert not good_actions(chunk(0.1, 0.2)[:N], truth).any()
    assert not good_actions(chunk(np.nan)[:N], truth).any()
    one_axis = truth.copy()
    one_axis[1, 4] += 40 * BIN
    np.testing.assert_allclose(path_bins(one_axis, truth), [0, 10, 10, 10], atol=1e-4)
    one_axis[2, 4] -= 40 * BIN  # led back: what it was away for stays
    np.testing.assert_allclose(path_bins(one_axis, truth), [0, 10, 10, 10], atol=1e-4)
    one_axis[3, 0] -= 60 * BIN  # another number, the other way: the largest counts
    np.testing.assert_allclose(path_bins(one_axis, truth), [0, 10, 10, 15], atol=1e-4)
    # Beyond the range everything is executed as its end.
    assert good_actions(chunk(3.0)[:N], chunk(1.0)[:N]).all()
    stacked = path_bins(np.stack([near, far]), truth)
    np.testing.assert_allclose(stacked, [path_bins(near, truth), path_bins(far, truth)])


# --- the rule ---------------------------------------------------------------------------------------------------------


def skip_rule(**changes: Any) -> CalibratedChunkSkip:
    score = SkipScore(("agreement_bins",), (10.0,), (1.0,), (-1.0,), 0.0)  # 0.5 at 10 bins, 0.99 at 5.4
    made = CalibratedChunkSkip(score, 0.9, "draft_head", ("draft_head", "tail"), N, 2, audited_share=0.0)
    return replace(made, **changes)


def router(**changes: Any) -> Rounds:
    return Rounds((), Fallbacks(), fakes.ranges(), skip_rule(**changes), watch=Watch())


def drafts(apart_bins: float = 0.0, gripper: float = -1.0, other: float = -1.0) -> list[ChunkDraft]:
    mine, theirs = chunk(0.0, gripper), chunk(apart_bins * BIN, other)
    return [ChunkDraft(mine[None], "draft_head", (0.0,)), ChunkDraft(theirs[None], "tail", (0.0,))]


PREFIXED = Memory(rounds=RoundMemory(has_prefix=True, age_steps=4))
FREE = fakes.phase(gripper=OPENED)


def decided(rule: Rounds, found: list[ChunkDraft], memory: Memory = PREFIXED, phase: Any = FREE) -> tuple[str, str]:
    route = rule.decide(cast(Any, FakeContext("", cast(Any, None), 1)), phase, found, memory)
    return str(route.kind), str(route.reason)


def test_a_round_is_skipped_where_nothing_speaks_against_it() -> None:
    rule = router()
    assert decided(rule, drafts()) == ("skip", "tolerant motion")
    assert decided(rule, drafts(9.0)) == ("full", "score below threshold")
    assert decided(rule, drafts(np.nan)) == ("full", "score below threshold")  # a feature that is missing
    assert decided(rule, drafts()[1:]) == ("full", "no guess")
    assert decided(rule, drafts(gripper=1.0)) == ("full", "gripper event near")
    assert decided(rule, drafts(other=1.0)) == ("full", "gripper event near")
    for late in (drafts(), drafts()[::-1]):
        late[0].chunks[0, -1, 6] = 1.0  # behind what is executed: a grasp comes next
        assert decided(rule, late) == ("full", "gripper event near")
    assert decided(rule, drafts(), replace(PREFIXED, n_skips=2)) == ("full", "enough skips in a row")
    assert decided(rule, drafts(), replace(PREFIXED, n_skips=1))[0] == "skip"
    moved = fakes.phase(gripper=GripperState(False, 3, 0.04, 0.0, False))
    assert decided(rule, drafts(), phase=moved) == ("full", "gripper event near")
    unknown = fakes.phase(gripper=GripperState(None, None, 0.04, 0.0, False))
    assert decided(rule, drafts(), phase=unknown) == ("full", "gripper event near")
    assert decided(rule, drafts(), Memory()) == ("full", "no prefix yet")


def test_the_tail_is_compared_as_far_as_it_knows() -> None:
    """Behind the end of the last chunk its guess is its last action again, which the score must not weigh."""
    found = drafts()
    found[1].chunks[0, 1:, :6] = 1.0  # the tail knows one action
    longer = replace(PREFIXED, rounds=replace(PREFIXED.rounds, n_actions=HORIZON - 1))
    assert decided(router(), found) == ("full", "score below threshold")
    assert decided(router(), found, longer) == ("skip", "tolerant motion")


def test_a_gripper_move_in_the_rest_of_the_last_chunk_is_full_before_anybody_is_asked() -> None:
    moving = replace(PREFIXED, rounds=replace(PREFIXED.rounds, rest_moves_gripper=True))
    assert router().plan(FREE, moving) == Plan(())
    assert decided(router(), drafts(), moving) == ("full", "gripper event near")
    alone = router(scouts=("draft_head",))  # nobody who guesses the rest: it does not count
    assert alone.plan(FREE, moving).scouts == ("draft_head",)
    assert decided(alone, drafts(), moving)[0] == "skip"


def test_a_rule_that_passes_the_gripper_looks_there_and_skips_by_its_score() -> None:
    rule = router(n_unseen=2, passes_gripper=True)
    moved = fakes.phase(gripper=GripperState(False, 3, 0.04, 0.0, False))
    coming = replace(PREFIXED, rounds=replace(PREFIXED.rounds, rest_moves_gripper=True))
    for memory, phase in ((coming, FREE), (PREFIXED, moved)):
        assert rule.plan(phase, memory) == Plan(("draft_head", "tail"), looks=True)
        assert decided(rule, drafts(gripper=1.0), memory, phase)[0] == "skip"
        assert decided(rule, drafts(9.0), memory, phase) == ("full", "score below threshold")
    assert rule.plan(FREE, PREFIXED).looks is False  # nothing near: as without
    assert decided(rule, drafts(gripper=1.0)) == ("full", "gripper event near")  # by an old picture alone


def test_a_stricter_threshold_skips_a_subset() -> None:
    for apart in np.linspace(0, 15, 31):
        loose, strict = (decided(router(threshold=t), drafts(apart))[0] == "skip" for t in (0.6, 0.95))
        assert loose or not strict


def test_witnesses_are_asked_only_where_a_skip_is_possible() -> None:
    moved = fakes.phase(gripper=GripperState(False, 3, 0.04, 0.0, False))
    for rule in (router(), router(n_unseen=2)):
        assert rule.plan(FREE, PREFIXED) == Plan(("draft_head", "tail"), looks=rule == router())
        for refused in (rule.plan(FREE, replace(PREFIXED, n_skips=2)), rule.plan(moved, PREFIXED)):
            assert refused == Plan(())  # and looks


def unseen(n: int, steps: int) -> Memory:
    return Memory(rounds=replace(PREFIXED.rounds, n_unseen=n, unseen_steps=steps))


def test_a_skip_looks_once_so_many_in_a_row_have_not() -> None:
    looks = [router(n_unseen=2).plan(FREE, unseen(n, 4 * (n + 1))).looks for n in range(5)]
    assert looks == [False, False, True, True, True]
    assert all(router(n_unseen=0).plan(FREE, unseen(n, 4 * (n + 1))).looks for n in range(5))


@dataclass
class Weighed:
    """A score that remembers what it weighed."""

    features: list[Mapping[str, float]] = field(default_factory=list)

    def __call__(self, features: Mapping[str, float]) -> float:
        self.features.append(features)
        return 1.0


def test_the_score_weighs_the_age_of_the_pictures_and_that_of_the_prefix_does_not_count() -> None:
    score = Weighed()
    rule = router(score=score, n_unseen=2)
    for n, steps in ((0, 4), (1, 8), (2, 12), (3, 16)):
        memory = unseen(n, steps)
        decided(rule, drafts(), replace(memory, rounds=replace(memory.rounds, age_steps=40)))
    assert [features["age_steps"] for features in score.features] == [4.0, 8.0, 0.0, 0.0]  # 0: behind a look
    assert not {"prefix_similarity", "n_skips"} & set().union(*score.features)
    assert set().union(*score.features) <= {*FEATURES}


def test_what_decides_a_skip_ends_in_no_verification() -> None:
    """Whatever the guesses, the counters and the score: a skip or a full round."""
    found = {
        decided(router(n_unseen=1, threshold=t), given, replace(unseen(n, 4), n_skips=n), phase)
        for t in (0.0, 0.9, 1.1)
        for given in (drafts(), drafts(9.0), drafts(gripper=1.0), drafts()[1:], [])
        for n in range(4)
        for phase in (FREE, fakes.phase(gripper=GripperState(False, 3, 0.04, 0.0, False)))
    }
    assert {kind for kind, _ in found} == {"skip", "full"}
    assert {reason for kind, reason in found if kind == "full"} == {
        "no guess", "enough skips in a row", "gripper event near", "score below threshold",
    }  # fmt: skip


def test_an_audit_is_a_full_round_of_what_could_have_been_skipped(rng: np.random.Generator) -> None:
    rule, n = router(audited_share=0.05), 4000

    def different(apart_bins: float = 0.0) -> list[ChunkDraft]:
        found = drafts(apart_bins)
        found[0].chunks[0, -1, 0] = rng.normal()  # behind what is executed: as likely to be good
        return found

    kinds = [decided(rule, different(), replace(PREFIXED, step=i % 15)) for i in range(n)]
    assert set(kinds) == {("full", "audit"), ("skip", "tolerant motion")}
    assert kinds.count(("full", "audit")) == pytest.approx(0.05 * n, abs=4 * (0.05 * 0.95 * n) ** 0.5)
    once = different()
    assert len({decided(rule, once, replace(PREFIXED, step=i)) for i in range(50)}) == 1  # a run repeats
    assert ("full", "audit") not in [decided(rule, different(9.0)) for _ in range(1000)]


@pytest.mark.parametrize(("apart", "vouched"), [(0.0, "draft_head"), (14.0, "draft_head"), (16.0, "")])
def test_an_audit_tells_whose_whole_draft_was_good(apart: float, vouched: str) -> None:
    """The second chunk of the fake policy holds 0.02."""
    policy, sink = FakeChunkPolicy(), MemorySink()
    loop = ChunkEngine(
        policy, sampling=SamplingConfig(euler_steps=1, executed=N), rule=EndpointTest.uniform((0.1,), 0.15),
        proposers={"draft_head": Scripted(chunk(0.02 + apart * BIN), source="draft_head")}, sink=sink,
        router=Rounds((), Fallbacks(), fakes.ranges(), skip_rule(scouts=("draft_head",), audited_share=1.0)),
    )  # fmt: skip
    for seen in observations(N + 1):
        loop.act(seen)
    audit = sink.records[N]
    assert (audit.route, audit.reason) == ("full", "audit")
    assert audit.round is not None
    assert (audit.round.vouched_for, audit.round.n_prefills, audit.round.n_chunks) == (vouched, 1, 0)
    assert policy.calls[-3:] == ["encode", "prefill", "denoise 1"]


def test_an_audited_round_is_counted_by_whose_draft_was_good() -> None:
    counts = SpeculationCounts()
    for source in ("draft_head", "", "draft_head"):
        came = RoundRecord(4, n_prefills=1, vouched_for=source)
        counts.add(StepRecord(0, 1.0, {}, 1, {}, route="full", reason="audit", round=came))
    assert counts.block({}, 0)["audits"] == {"n": 3, "kept_by_source": {"draft_head": 2}}


def test_a_rung_counts_rounds_not_control_steps() -> None:
    config, plain = EvalConfig(suite="toy", methods=("flow_hybrid",)), EvalConfig(suite="toy", methods=("full",))
    counts = SpeculationCounts()
    counts.n_steps = 16
    counts.routes.update({"skip/tolerant motion": 1, "full/audit": 1, "full/score below threshold": 2})
    counts.routes["chunk/action in hand"] = 12
    counts.audits.update({"draft_head": 1})
    mine = [record(config, f"toy/{i}", speculation=counts.as_dict()) for i in range(4)]
    theirs = [record(plain, f"toy/{i}") for i in range(4)]
    row = judge("flow_hybrid", "draft_head", CHUNK_LADDER[0], theirs, mine, plain="full")
    assert (row["skip_share"], row["skips_per_episode"]) == (0.25, 1.0)
    assert (row["n_audits"], row["n_bad_audits"], row["passes"]) == (4, 0, True)


# --- the fit ----------------------------------------------------------------------------------------------------------


def seen_round(
    residual: float, off_bins: float, *, age: int = 4, source: str = "draft_head", n: int = 8
) -> ObservedRound:
    """A draft whose endpoints leave ``residual`` at both levels; all its actions are ``off_bins`` from the truth."""
    draft = chunk(0.0)[0][None].repeat(n, 0)
    truth = draft.copy()
    truth[:, 0] += off_bins * BIN
    endpoints = np.stack([draft, draft])
    for k, level in enumerate(LEVELS):
        endpoints[k, :, :6] += residual * level
    return ObservedRound(age, -1.0, LEVELS, truth, (source,), draft[None], endpoints[None])


def test_the_loosest_bound_that_keeps_its_word_is_chosen() -> None:
    rounds = [seen_round(0.9, 3.0) for _ in range(20)] + [seen_round(1.4, 125.0) for _ in range(20)]
    made = fit_acceptance(rounds, SIZES)
    assert made.residual == 1.0
    tried = made.evidence["tried"]
    assert [row["residual"] for row in tried] == [1.0, 1.5]  # stricter ones accept nothing: no test
    assert [row["passes"] for row in tried] == [True, False]
    assert (tried[1]["n_accepted"], tried[1]["n_false_accepts"]) == (320, 160)
    assert made.evidence["tolerance"] == allowed_deviation(0.1, SIZES)
    json.dumps(made.model_dump(mode="json"), allow_nan=False)


def test_no_bound_and_too_few_actions_accept_nothing() -> None:
    assert fit_acceptance([seen_round(0.2, 125.0) for _ in range(20)], SIZES).residual == 0.0
    few = fit_acceptance([seen_round(0.2, 0.0, n=4)], SIZES)
    assert (few.residual, few.evidence["tried"]) == (0.0, [])
    assert fit_acceptance([seen_round(0.2, 0.0) for _ in range(20)], SIZES).residual == RESIDUALS[-1]
    with pytest.raises(BadInput, match="no draft of flow_hybrid was observed"):
        fit_acceptance([seen_round(0.2, 0.0, source="retrieval")], SIZES)


def test_false_accepts_and_rejects_by_hand() -> None:
    """Two actions accepted of four, one of them bad; of the three leading good ones, none behind the two is missed …"""
    seen = seen_round(0.0, 0.0, n=4)
    seen.truth[1, 0] = 61 * BIN  # the second action is bad: one leading good action
    seen.endpoints[0, :, 2:, :6] += 1.0  # refused from the third on
    found = rates(judge_all(hybrid_rule(1.0), ("draft_head",), [seen]), SIZES)
    assert (found["n_judged"], found["n_accepted"], found["n_false_accepts"]) == (4, 2, 1)
    assert (found["false_accept_share"], found["n_leading_good"], found["false_reject_share"]) == (0.5, 1, 0.0)
    assert found["deviation"]["bins"]["max"] == pytest.approx(61, abs=1e-3)
    assert found["deviation"]["mm"]["max"] == pytest.approx(61 * 0.008 * 50.0, abs=1e-2)
    seen.truth[1, 0] = 0.0
    found = rates(judge_all(hybrid_rule(1.0), ("draft_head",), [seen]), SIZES)
    assert (found["n_false_accepts"], found["n_leading_good"], found["n_false_rejects"]) == (0, 4, 2)
    assert found["false_reject_share"] == 0.5
    nothing = rates([], SIZES)
    assert (nothing["accepted_share"], nothing["false_accept_share"], nothing["deviation"]) == (None, None, None)


def test_every_preset_is_judged_by_its_own_rule_and_drafts() -> None:
    remembered = seen_round(1.6, 0.0, source="retrieval", age=8)
    rounds = [seen_round(1.6, 0.0), remembered, seen_round(1.6, 0.0, source="tail")]
    found = preset_rates(rounds, "libero_goal", 2.0, SIZES)
    # A residual of 1.6 is 0.16 at t = 0.1: beyond flash's 0.15, within the fork's 0.3.
    assert {name: (row["n_rounds"], row["n_accepted"]) for name, row in found.items()} == {
        "flash": (1, 0), "flash_retrieval": (1, 8), "flow_hybrid": (1, 8),
    }  # fmt: skip
    assert list(found["flash_retrieval"]["by_age_steps"]) == ["8"]
    assert "flash" not in preset_rates(rounds[1:], "libero_goal", 2.0, SIZES)


def test_what_a_tolerance_allows_is_said_in_bins_millimetres_and_degrees() -> None:
    allowed = allowed_deviation(0.15, SIZES)
    assert allowed["bins"] == pytest.approx(0.15 * np.sqrt(6) * 127.5, abs=1e-3)
    assert allowed["mm"] == pytest.approx([allowed["bins"] * 0.008 * 50.0] * 3, abs=1e-2)
    assert allowed["deg"] == pytest.approx([allowed["bins"] * 0.008 * np.degrees(0.5)] * 3, abs=1e-2)


# --- the observation --------------------------------------------------------------------------------------------------


@dataclass
class FakeFlowAssets:
    """A tiny policy with a scripted draft head. Each that is asked for is kept, in order."""

    target: Any = field(default_factory=flows.policy)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(euler_steps=2, executed=3))
    heads: list["Head"] = field(default_factory=list)

    def proposer(self, name: str, **options: Any) -> Any:
        assert options == {}
        if name == "tail":
            return ShiftedTail(self.target.codec, self.target.horizon)
        self.heads.append(Head())
        return self.heads[-1]


class Head(Scripted):
    """Keeps the pictures and states that it was asked on."""

    def __init__(self) -> None:
        super().__init__(chunk(0.1), source="draft_head")
        self.keys: list[Any] = []
        self.states: list[Any] = []

    def propose(self, context: Any, history: Any) -> ChunkDraft | None:
        self.keys.append(context.vision_key)
        self.states.append(context.state)
        return super().propose(context, history)


def test_full_drives_and_the_rows_say_what_would_have_been_seen(tmp_path: Path, rng: np.random.Generator) -> None:
    assets, writer = FakeFlowAssets(), RowWriter(tmp_path)
    witness = ChunkWitness(assets, flows.policy(), ("draft_head", "tail"), ("flow_hybrid",), writer.write)
    plain = ChunkEngine(flows.policy(), sampling=assets.sampling)
    seen = [tiny.observation(rng) for _ in range(3 * (HYBRID_ROUNDS + 3))]
    writer.begin("toy/1")
    witness.reset()
    for each in seen:
        action, step = witness.act(each)
        np.testing.assert_array_equal(action.values, plain.act(each).values)
        assert step.route in {"full", "chunk"}
    writer.close()
    episode = read_episode(tmp_path, "toy/1", success=True)
    assert len(episode.steps) == len(seen)
    rounds = {i: step.round for i, step in enumerate(episode.steps) if step.round is not None}
    assert list(rounds) == [3, 6, 9, 12, 15]  # the first has nothing to verify against
    # Behind a prefix of one, two and three rounds ago, then a new one.
    assert [r.age_steps for r in rounds.values()] == [3, 6, 9, 3, 6]
    first = rounds[3]
    assert first is not None
    assert first.sources == ("draft_head", "tail")
    assert (first.drafts.shape, first.endpoints.shape, first.truth.shape) == ((2, 3, 7), (2, 2, 3, 7), (3, 7))
    policy = flows.policy()
    context = policy.encode(seen[3])
    truth = policy.denoise(policy.prefill(context), context, np.zeros((HORIZON, 7), np.float32), 2)
    np.testing.assert_allclose(first.truth, truth[:3], atol=1e-4)
    step = episode.steps[3]
    assert set(step.guesses) == {"draft_head", "tail"}
    assert step.guesses["draft_head"].distance_bins == np.ceil(path_bins(chunk(0.1)[:3], truth[:3])[-1])
    features = step.cases["flow_hybrid"].features
    assert features.keys() == {"agreement_bins", "age_steps", "fused", "speed_mm"}
    assert step.cases["flow_hybrid"].guess == step.guesses["draft_head"]  # scripted: the same whatever it sees
    ages = {i: int(episode.steps[i].cases["flow_hybrid"].features["age_steps"]) for i in rounds}
    n_unseen = CHUNKS.skippers["flow_hybrid"].n_unseen
    assert set(ages.values()) == {3 * n for n in range(n_unseen + 1)}  # looks of now, and of so many rounds before
    _, glancing = assets.heads  # one is asked on the pictures of now, the other on those of so many steps before
    for key, state, (i, age) in zip(glancing.keys[1:], glancing.states[1:], ages.items(), strict=True):
        np.testing.assert_array_equal(key, policy.encode(seen[i - age]).vision_key)
        np.testing.assert_array_equal(state, policy.encode(seen[i]).state)
    assert not episode.steps[4].cases
    looked = {i for i, step in enumerate(episode.steps) if step.views}  # where a round begins
    assert looked == {0, *rounds}
    assert all(view.n_frozen == 0 for i in looked for view in episode.steps[i].views.values())
    again = ChunkWitness(FakeFlowAssets(), flows.policy(), ("draft_head", "tail"), ("flow_hybrid",), writer.write)
    before = (tmp_path / "toy_1.jsonl").read_bytes()
    writer.begin("toy/1")
    again.reset()
    for each in seen:
        again.act(each)
    writer.close()
    assert (tmp_path / "toy_1.jsonl").read_bytes() == before


def test_a_torn_round_is_refused(tmp_path: Path) -> None:
    row = chunk_rows(0)[8]
    row["round"]["endpoints"] = row["round"]["endpoints"][:0]
    writer = RowWriter(tmp_path)
    writer.begin("toy/1")
    writer.write({**row, "step": 0})
    writer.close()
    with pytest.raises(BadArtifact, match="line 1 is not control step 0 of toy/1"):
        read_episode(tmp_path, "toy/1", success=True)


# --- from start to end ------------------------------------------------------------------------------------------------


def chunk_rows(seed: int) -> list[dict[str, Any]]:
    """The rows of a token policy, with a round every eight steps in place of its guesses."""
    rng, made = np.random.default_rng(seed), rows(seed)
    for row in made:
        row |= {"guesses": {}, "cases": {}, "similarity": None}
        if row["step"] and row["step"] % 8 == 0:
            is_good = bool(rng.random() < 0.5)
            seen = seen_round(0.3 if is_good else 1.9, 3.0 if is_good else 125.0)
            row["round"] = {
                "age_steps": 8, "last_gripper": -1.0, "levels": list(LEVELS), "sources": ["draft_head"],
                **{name: getattr(seen, name).tolist() for name in ("truth", "drafts", "endpoints")},
            }  # fmt: skip
            row["guesses"] = {
                "draft_head": {"tokens": row["tokens"], "distance_bins": 3 if is_good else 40, "has_same_gripper": True}
            }
            features = {"agreement_bins": 2.0 + 20 * (not is_good) + float(rng.uniform(0, 9)),
                        "age_steps": float(rng.choice((0, 8, 16))), "fused": 0.0, "speed_mm": 4.0}  # fmt: skip
            row["cases"] = {"flow_hybrid": {"features": features, "is_gripper_near": False}}
    return made


class FakeChunkPlay(FakePlay):
    """Plays nothing: rounds of a chunk policy."""

    def _observe(self, directory: Path, key: str, seed: int) -> None:
        writer = RowWriter(directory)
        writer.begin(key)
        for row in chunk_rows(seed):
            writer.write(row)
        writer.close()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    for name in ("tiny", "tiny-draft"):
        (tmp_path / "weights" / name).mkdir(parents=True)
        manifest = Manifest(name=name, files={}, format="heisd-flow-1")
        (tmp_path / "weights" / name / "manifest.json").write_text(dump(manifest))
    return tmp_path / "weights" / "tiny"


def test_all_stages_give_a_file_with_acceptance_and_skips(tmp_path: Path, policy: Path) -> None:
    plan = CalibrationPlan(SUITE, tmp_path / "runs", ("flow_hybrid",), n_observed=16, n_trials=10)
    assert plan.family is CHUNKS
    place, play = tmp_path / "c.json", FakeChunkPlay({"flow_hybrid-3-shipped": 3})
    result = run(plan, STAGES, policy=policy, place=place, target=TARGET, play=play)
    made = Calibration.load(place, TARGET.sha256)
    assert made.acceptance is not None
    assert made.acceptance.residual == 1.5  # 0.3 is good, 1.9 is not
    assert result["acceptance"]["residual"] == 1.5
    setting = made.skip_setting("flow_hybrid")
    assert (setting.n_skips, setting.threshold) == (CHUNK_LADDER[1].n_skips, CHUNK_LADDER[1].threshold)
    assert set(setting.score.names) == {"agreement_bins", "age_steps", "fused"}  # what varies
    assert setting.min_similarity is None
    shares = result["evidence"]["verification"]
    assert shares["flow_hybrid"]["false_accept_share"] == 0.0
    assert shares["flow_hybrid"]["false_reject_share"] == 0.0
    assert "flash_retrieval" not in shares
    json.dumps(result, allow_nan=False)
    assert play.played[:4] == ["observe/shipped", "observe/jitter", "ladder/full-shipped", "ladder/full-jitter"]
    tried = [config for out, config, _ in play.asked if out.name == "flow_hybrid-1-shipped"]
    candidate = Calibration.load(Path(str(tried[0].calibration)), TARGET.sha256)
    assert candidate.acceptance == made.acceptance


@pytest.mark.parametrize(("n_lost", "is_calm"), [(0, True), (3, False)])
def test_the_setting_that_stands_is_tried_with_calm_chunks_and_the_file_says_what_came_of_it(
    tmp_path: Path, policy: Path, n_lost: int, is_calm: bool
) -> None:
    plan = CalibrationPlan(SUITE, tmp_path / "runs", ("flow_hybrid",), n_observed=16, n_trials=10)
    calm = f"flow_hybrid-{len(CHUNK_LADDER) + 1}"
    place, play = tmp_path / "c.json", FakeChunkPlay({"flow_hybrid-3-shipped": 3, f"{calm}-shipped": n_lost})
    run(plan, STAGES, policy=policy, place=place, target=TARGET, play=play)
    played = {out.name: Calibration.load(Path(str(config.calibration)), TARGET.sha256).skip_setting("flow_hybrid")
              for out, config, _ in play.asked if out.name.startswith("flow_hybrid-")}  # fmt: skip
    assert {name: each.calm for name, each in played.items()} == {
        f"flow_hybrid-{n}-{condition}": n > len(CHUNK_LADDER)
        for n in (1, 2, 3, len(CHUNK_LADDER) + 1) for condition in ("shipped", "jitter")
    }  # fmt: skip
    setting = Calibration.load(place, TARGET.sha256).skip_setting("flow_hybrid")
    assert (setting.n_skips, setting.calm) == (CHUNK_LADDER[1].n_skips, is_calm)
    assert [row["passes"] for row in setting.evidence["rungs"]] == [True, True, False, is_calm]


def test_the_command_prints_what_verification_lets_pass(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heisd.cli_calibrate._target", lambda _policy: TARGET)
    monkeypatch.setattr("heisd.bench.weights.resolve_weights", lambda *_: policy)
    monkeypatch.setattr("heisd.cli_calibrate._play", FakeChunkPlay())
    command = ["calibrate", "--suite", SUITE, "--observe", "16", "--episodes", "10"]
    shown = CliRunner().invoke(cli.app, [*command, "--method", "flow_hybrid"])
    assert shown.exit_code == 0, shown.stderr
    assert "verification beside the chunk denoised from zero noise" in shown.stdout
    assert "drafts are executed up to a residual of 1.5" in shown.stdout
    assert "least similarity" not in shown.stdout
    refused = CliRunner().invoke(cli.app, [*command, "--method", "hybrid"])
    assert refused.exit_code == 2
    assert "method 'hybrid' runs a policy that decodes tokens" in refused.stderr
