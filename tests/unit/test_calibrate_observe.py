"""Watching plain decoding: the actions stay plain decoding's, and the rows say what presets would have known."""

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import toy_world
from fake_target import CODEC, FakePolicy, greedy

from heisd.bench.observe import ObservingWorld, ObservingWorlds, observable, present_scouts
from heisd.bench.observed import read_episode, rows_path
from heisd.bench.rollout import EpisodeJob, play
from heisd.errors import BadArtifact
from heisd.presets import builder
from heisd.presets.skippers import SCOUTS, SKIPPERS, Scout
from heisd.propose.base import Stateless
from heisd.propose.persistence import Persistence
from heisd.sim.splits import EpisodeStart
from heisd.types import Draft

EVERYBODY = tuple(SCOUTS)
START = EpisodeStart("toy", 0, 30, None)


class Near(Stateless):
    """Guesses six bins from the last action's tokens, with evidence as a memory or a drafter gives it."""

    def __init__(self, source, evidence=None, log_prob=None):
        self.source, self.evidence, self.log_prob = source, evidence or {}, log_prob

    def propose(self, context, history):  # noqa: ARG002
        if not len(history.tokens):
            return None
        chain = tuple(np.clip(history.tokens[-1] + [6, 0, 0, 0, 0, 0, 0], CODEC.first_token, 999).tolist())
        log_probs = None if self.log_prob is None else ((self.log_prob,) * 7,)
        return Draft((chain,), self.source, (0.0,), log_probs, self.evidence)


class FakeAssets:
    """What the observing world asks of a policy's assets."""

    def __init__(self):
        self.target, self.asked = FakePolicy(), {}

    def proposer(self, name, **options):
        self.asked[name] = options
        evidence = {"similarity": 0.9, "spread_bins": 4.0, "gripper_event_in": np.inf}
        near = {"retrieval": Near("retrieval", evidence), "parallel": Near("parallel", log_prob=-0.5)}
        return near.get(name) or Persistence(CODEC)


def watch(tmp_path, presets=tuple(SKIPPERS), scouts=EVERYBODY):
    world = ObservingWorld(toy_world.ToyWorld(), FakeAssets(), ObservingWorlds(tmp_path, scouts, presets))
    job = EpisodeJob(toy_world.config(), "ar", START, 0, tmp_path, film=False)
    record = play(world, job)
    world.close()
    return record, read_episode(tmp_path, START.key, success=record.success)


def test_the_target_drives_and_is_the_plain_one(tmp_path):
    seen = []

    class Watched(FakePolicy):
        def encode(self, observation):
            seen.append(observation)
            return super().encode(observation)

    FakeAssets_target, assets = Watched(), FakeAssets()
    assets.target = FakeAssets_target
    world = ObservingWorld(toy_world.ToyWorld(), assets, ObservingWorlds(tmp_path, EVERYBODY, tuple(SKIPPERS)))
    record = play(world, EpisodeJob(toy_world.config(), "ar", START, 0, tmp_path, film=False))
    world.close()
    episode = read_episode(tmp_path, START.key, success=record.success)
    assert len(episode.steps) == record.n_steps == len(seen)
    assert record.origins == {"decoded": 7 * record.n_steps}
    for step, observation in zip(episode.steps, seen, strict=True):
        assert list(step.tokens) == greedy(FakePolicy(), observation)
        assert step.action == pytest.approx(CODEC.decode(np.asarray(step.tokens)))
        assert step.proprio.eef_pos_m == pytest.approx(observation.proprio.eef_pos_m)


def test_labels_and_features_are_those_of_the_rule(tmp_path):
    _, episode = watch(tmp_path)
    assert episode.steps[0].cases == {}  # nothing was executed before: no rule would have skipped
    assert np.isnan(episode.steps[0].similarity)
    before = episode.steps[0].tokens
    for step in episode.steps[1:]:
        apart = np.abs(np.asarray(before) - np.asarray(step.tokens))[:6].max()
        persistence = step.guesses["persistence"]
        assert persistence.tokens == before
        assert persistence.distance_bins == apart
        last, now = CODEC.decode(np.asarray(before))[6], CODEC.decode(np.asarray(step.tokens))[6]
        assert persistence.has_same_gripper == (last == now)
        assert persistence.is_good == (apart <= 15 and last == now)
        hybrid, hold = step.cases["hybrid"].features, step.cases["hold_calibrated"].features
        assert (hybrid["similarity"], hybrid["spread_bins"], hybrid["confidence"]) == (0.9, 4.0, -0.5)
        assert np.isnan(hybrid["gripper_event_in"])  # infinite: JSON has no such number
        assert "similarity" not in hold  # the control has no memory
        assert set(step.views) == {"agentview", "wrist"}
        apart = np.abs(np.asarray(step.guesses["parallel"].tokens) - np.asarray(before))[:6].max()
        assert (hold["change_bins"], hold["agreement_bins"]) == (0.0, apart)  # from the drafter's guess, its witness
        assert step.similarity == 0.9
        before = step.tokens


class Remembering(FakePolicy):
    """A policy whose contexts can do with older pictures."""

    def refreshed(self, context, observation):  # noqa: ARG002
        return context


class Sees(Near):
    """Guesses by the picture it is shown, not by what was executed."""

    def propose(self, context, history):
        draft = super().propose(context, history)
        chain = (CODEC.first_token + context.seed % 256, *draft.chains[0][1:]) if draft else ()
        return None if draft is None else Draft((chain,), self.source, (0.0,), draft.log_probs)


def test_a_preset_that_skips_without_looking_is_judged_by_its_guess_from_older_pictures(tmp_path):
    assets, policy = FakeAssets(), Remembering()
    assets.target = policy
    assets.proposer = lambda name, **_: Sees(name, log_prob=-0.5)
    seen = []
    world = ObservingWorld(toy_world.ToyWorld(), assets, ObservingWorlds(tmp_path, EVERYBODY, tuple(SKIPPERS)))
    encode = policy.encode
    policy.encode = lambda observation: seen.append(encode(observation)) or seen[-1]
    record = play(world, EpisodeJob(toy_world.config(), "ar", START, 0, tmp_path, film=False))
    world.close()
    steps = read_episode(tmp_path, START.key, success=record.success).steps
    glanced = [(i, step, step.cases["coast"]) for i, step in enumerate(steps) if "coast" in step.cases]
    assert len(glanced) > 3
    for i, step, case in glanced:
        age = int(case.features["n_skips"]) + 1
        assert case.guess.tokens[0] == CODEC.first_token + seen[i - age].seed % 256
        assert case.guess.distance_bins == np.abs(np.asarray(case.guess.tokens) - step.tokens)[:6].max()
        assert step.guesses["parallel"].tokens[0] == CODEC.first_token + seen[i].seed % 256
        assert all(step.cases[name].guess is None for name in step.cases if name != "coast")
    assert {int(case.features["n_skips"]) for _, _, case in glanced} >= {0, 1, 2}


def test_a_preset_that_is_not_watched_and_a_scout_that_is_not_there_leave_no_trace(tmp_path):
    _, episode = watch(tmp_path, ("hold_calibrated",), ("persistence", "parallel"))
    assert {name for step in episode.steps for name in step.cases} == {"hold_calibrated"}
    assert {name for step in episode.steps for name in step.guesses} == {"persistence", "parallel"}


@pytest.mark.parametrize("preset", SKIPPERS)
def test_the_scouts_are_those_the_preset_asks(preset, tmp_path):
    from calibrate_fakes import TARGET, observed

    from heisd.bench.suite_fit import fit_suite

    assets = FakeAssets()
    assets.calibration = lambda: fit_suite("toy", TARGET, observed(tmp_path, 3))
    assets.costs = lambda: None
    engine = builder(preset)(assets)
    asked = {*SKIPPERS[preset].scouts, *SKIPPERS[preset].drafters}
    assert assets.asked == {name: dict(SCOUTS[name].options) for name in asked}
    router = engine._router
    router = getattr(router, "router", router)
    assert router.watch == assets.calibration().watch
    assert router.looks is SKIPPERS[preset].looks
    assert (router.source, tuple(router.scouts)) == (SKIPPERS[preset].source, SKIPPERS[preset].scouts)


def test_an_episode_that_begins_again_begins_its_file_again(tmp_path):
    record, _ = watch(tmp_path)
    again, episode = watch(tmp_path)
    assert len(episode.steps) == again.n_steps == record.n_steps


def test_a_torn_line_is_dropped_and_a_wrong_one_is_named(tmp_path):
    _, whole = watch(tmp_path)
    path = rows_path(tmp_path, START.key)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:3]) + b"\n" + lines[3][:50])
    torn = read_episode(tmp_path, START.key, success=True)
    assert [step.tokens for step in torn.steps] == [step.tokens for step in whole.steps[:3]]
    path.write_bytes(b"\n".join([lines[0], lines[2], lines[3]]) + b"\n")
    with pytest.raises(BadArtifact, match=r"line 2 is not control step 1 of toy/task00"):
        read_episode(tmp_path, START.key, success=True)
    with pytest.raises(BadArtifact, match="cannot be read"):
        read_episode(tmp_path, "toy/nowhere", success=True)


def test_equal_factories_are_one_world_to_a_worker(tmp_path):
    factory = ObservingWorlds(tmp_path, EVERYBODY, tuple(SKIPPERS))
    sent = copy.deepcopy(factory)  # by the protocol that sends it to a worker
    assert sent == factory
    assert hash(sent) == hash(factory)
    assert replace(factory, presets=()) != factory


def test_presets_without_their_scouts_are_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "policy").mkdir()
    scouts = present_scouts(tmp_path / "policy", "toy")
    assert scouts == {"persistence": ""}
    with caplog.at_level(logging.WARNING):
        assert observable(tuple(SKIPPERS), scouts) == ()
    assert "hybrid is left out: there is no parallel, store for this policy" in caplog.text
    (tmp_path / "policy-drafter").mkdir()
    (tmp_path / "policy-drafter" / "manifest.json").write_text("{}")
    assert len(present_scouts(tmp_path / "policy", "toy")["parallel"]) == 64
    assert Scout().needs is None
