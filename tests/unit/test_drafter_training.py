"""Rollouts survive kills and stay with their policy; drafters learn from them, and a resumed run is an unbroken one."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("libero", reason="episodes start where LIBERO's suites say (extra libero)")

import drafter_fakes as fakes
from training_fakes import assert_resumes

import tiny_policies as tiny
from heisd.engine import Engine
from heisd.errors import BadArtifact, BadInput, LeakError, UnknownName
from heisd.policies.drafter_bundle import load_drafter
from heisd.policies.drafter_eagle import EagleRuntime
from heisd.policies.drafter_runtime import ParallelRuntime
from heisd.policies.proprio import flatten
from heisd.policies.target import OpenVLAPolicy
from heisd.propose.eagle import Eagle
from heisd.propose.parallel import ParallelDraft
from heisd.sim.splits import EpisodeStart, Split
from heisd.telemetry import MemorySink
from heisd.train import drafter as training
from heisd.train import rollouts
from heisd.train.drafter_config import EagleRecipe, ParallelRecipe, load_recipe
from heisd.train.drafter_data import past_of
from heisd.train.drafter_replay import replay
from heisd.train.rollouts import RolloutJob, WatchedPolicy, write_episode

PARALLEL = ParallelRecipe(
    steps=6, batch_size=8, warmup_steps=2, log_every=100, checkpoint_every=3, threads=1, width=16, n_heads=2, inner=24,
)  # fmt: skip
EAGLE = EagleRecipe(steps=6, batch_size=8, warmup_steps=2, log_every=100, checkpoint_every=3, threads=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drafters")


@pytest.fixture(scope="module")
def policy(home: Path) -> OpenVLAPolicy:
    return fakes.stored_policy(home / "policy")


def test_the_plan_is_of_train_starts_and_grows_at_its_end() -> None:
    starts = rollouts.plan(300)
    assert rollouts.plan(120) == starts[:120]
    assert {start.split for start in starts} == {Split.TRAIN}
    assert len({start.key for start in starts}) == 300
    assert len({(s.suite, s.task_index) for s in starts[:20]}) == 20
    kinds = {(start.init_state is None, start.condition) for start in starts}
    assert len(kinds) == 4  # shipped and fresh, moved and not
    held_out = [start for i, start in enumerate(starts) if rollouts.is_held_out(i)]
    assert len(held_out) == 15
    assert len({(s.suite, s.task_index) for s in held_out}) == 15
    with pytest.raises(BadInput, match="at least 1"):
        rollouts.plan(0)
    with pytest.raises(UnknownName, match="suite"):
        rollouts.plan(1, ["libero_moon"])


def test_an_episode_holds_what_the_target_saw_and_said(home: Path, policy: OpenVLAPolicy) -> None:
    start = EpisodeStart("libero_object", 9, 0, None)
    job, env = RolloutJob(start, "tiny", policy.policy_hash, home / "episode"), fakes.FakeEnv(5)
    assert write_episode(job, env, WatchedPolicy(policy)) == fakes.N_STEPS
    assert rollouts.is_written(job.path, start, policy.policy_hash)
    found = rollouts.load(job.path, policy.policy_hash)
    assert (found.start, found.instruction, found.is_solved) == (start, env.instruction, False)
    head = policy.model.language_model.lm_head.weight
    for t, seen in enumerate(env.seen[: fakes.N_STEPS]):
        assert found.tokens[t].tolist() == tiny.greedy(policy, seen)
        np.testing.assert_allclose(found.proprio[t], flatten(seen.proprio), atol=1e-6)
        torch.testing.assert_close(found.prefix[t].float(), policy.encode(seen).prefix.clone(), atol=1e-2, rtol=1e-2)
    # the states are those that chose the tokens
    assert (found.hidden.float() @ head.detach().t()).argmax(-1).eq(found.tokens).float().mean() > 0.95


def test_evaluation_starts_are_neither_recorded_nor_read(home: Path, policy: OpenVLAPolicy) -> None:
    job = RolloutJob(EpisodeStart("libero_object", 0, 45, None), "tiny", policy.policy_hash, home / "leak")
    with pytest.raises(LeakError, match="test split"):
        rollouts.record_episode(job)
    write_episode(job, fakes.FakeEnv(0), WatchedPolicy(policy))
    with pytest.raises(LeakError, match="test split"):
        rollouts.load(job.path, policy.policy_hash)


def test_a_recording_goes_on_with_what_is_missing(home: Path, policy: OpenVLAPolicy) -> None:
    out, played = home / "recording", []

    def play(job: RolloutJob) -> int:
        if len(played) == 3:
            raise KeyboardInterrupt
        played.append(job.start.key)
        return write_episode(job, fakes.FakeEnv(0), WatchedPolicy(policy))

    weights = str(home / "policy")
    with pytest.raises(KeyboardInterrupt):
        rollouts.record(weights, out, 5, workers=0, play=play)
    torn = next(out.glob("*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:100])  # and one file was damaged meanwhile
    first, played[:] = list(played), []

    def rest(job: RolloutJob) -> int:
        played.append(job.start.key)
        return write_episode(job, fakes.FakeEnv(0), WatchedPolicy(policy))

    paths = rollouts.record(weights, out, 5, workers=0, play=rest)
    assert len(paths) == len(set(paths)) == 5
    assert len(played) == 3
    assert len(set(first) & set(played)) == 1
    played.clear()
    rollouts.record(weights, out, 5, workers=0, play=rest)
    assert not played


def test_rollouts_of_another_policy_are_refused(home: Path, policy: OpenVLAPolicy) -> None:
    out = home / "foreign"
    rollouts.claim(out, {"name": "one", "sha256": "1" * 64})
    with pytest.raises(BadInput, match=r"policy 'one' \(111.*not of 'policy'"):
        rollouts.record(str(home / "policy"), out, 1, workers=0)
    (out / "rollouts.json").write_text("{}")
    with pytest.raises(BadArtifact, match="format"):
        rollouts.record(str(home / "policy"), out, 1, workers=0)
    fakes.rollout(policy, home / "theirs")
    path = next((home / "theirs").glob("*.safetensors"))
    with pytest.raises(BadArtifact, match="another policy"):
        rollouts.load(path, "2" * 64)


def test_the_past_of_a_step_ends_before_it() -> None:
    bins = np.arange(5)[:, None] * np.ones((1, 7), dtype=np.int64)
    assert past_of(bins)[:, :, 0].tolist() == [
        [256, 256, 256], [0, 256, 256], [1, 0, 256], [2, 1, 0], [3, 2, 1],
    ]  # fmt: skip
    assert past_of(bins[:1]).tolist() == np.full((1, 3, 7), 256).tolist()


def test_a_batch_is_what_a_proposer_would_read(home: Path, policy: OpenVLAPolicy) -> None:
    """Training inputs equal those of ``ParallelDraft`` in a closed loop."""
    samples = fakes.samples(policy, home / "inputs")
    seen: list[tuple[torch.Tensor, np.ndarray, np.ndarray]] = []
    runtime = ParallelRuntime(fakes.parallel(policy))
    guess = runtime.guess

    def spy(prefix: torch.Tensor, past: np.ndarray, features: np.ndarray) -> object:
        seen.append((prefix, past, features))
        return guess(prefix, past, features)

    runtime.guess = spy  # type: ignore[method-assign, assignment]
    replay(ParallelDraft(policy.codec, drafter=runtime), samples.rollouts, policy)
    assert len(seen) == len(samples.bins)
    batch = samples.batch(np.arange(len(samples.bins)))
    for i, (prefix, past, features) in enumerate(seen):
        torch.testing.assert_close(batch.prefix[i][batch.mask[i]], prefix)
        assert batch.past_bins[i, : len(past)].tolist() == past.tolist()
        np.testing.assert_allclose(batch.features[i], features, atol=1e-4)


@pytest.mark.parametrize("recipe", [PARALLEL, EAGLE], ids=["parallel", "eagle"])
def test_a_resumed_run_equals_an_unbroken_one(
    home: Path, policy: OpenVLAPolicy, tmp_path: Path, recipe: ParallelRecipe | EagleRecipe
) -> None:
    samples = fakes.samples(policy, home / "resume")
    assert_resumes(
        lambda: training.build_trainer(recipe, samples, policy, tmp_path), tmp_path / "checkpoint.safetensors"
    )
    other = recipe.model_copy(update={"learning_rate": 1.0})
    with pytest.raises(BadInput, match="learning_rate"):
        training.build_trainer(other, samples, policy, tmp_path).resume(tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize("recipe", [PARALLEL, EAGLE], ids=["parallel", "eagle"])
def test_drafters_learn(
    home: Path, policy: OpenVLAPolicy, tmp_path: Path, recipe: ParallelRecipe | EagleRecipe
) -> None:
    longer = recipe.model_copy(update={"steps": 80, "learning_rate": 3e-3})
    trainer = training.build_trainer(longer, fakes.samples(policy, home / "learn"), policy, tmp_path)
    losses = [trainer.train_step()["loss"] for _ in range(longer.steps)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_held_out_episodes_are_never_trained_on(home: Path, policy: OpenVLAPolicy) -> None:
    samples = fakes.samples(policy, home / "split")
    trained = {int(i) for step in range(30) for i in samples.train_indices(step, 8, 0)}
    measured = {int(i) for index in samples.holdout_indices(8) for i in index}
    assert trained == set(range(fakes.N_STEPS, 4 * fakes.N_STEPS))
    assert measured == set(range(fakes.N_STEPS))
    with pytest.raises(BadInput, match="nothing to learn from"):
        type(samples)(samples.rollouts, [True] * 4, policy)


def test_a_replay_counts_what_the_engine_counts(policy: OpenVLAPolicy, rng: np.random.Generator) -> None:
    """Same observations, same guesses: the recorded tokens stand in for the target."""
    observations = [tiny.observation(rng) for _ in range(12)]
    watched = WatchedPolicy(policy)
    engine, prefixes, tokens = Engine(watched), [], []
    for seen in observations:
        tokens.append(torch.from_numpy(engine.act(seen).tokens))
        prefixes.append(watched.prefix)
    prefix, ids = torch.stack(prefixes), torch.stack(tokens)
    proprio = torch.from_numpy(np.stack([flatten(seen.proprio) for seen in observations]))
    hidden = rollouts.action_states(policy, prefix, ids)
    start = EpisodeStart("libero_object", 0, 0, None)
    recorded = rollouts.Rollout(start, "", False, prefix, proprio, ids.int(), hidden)
    makers = {
        "parallel": lambda: ParallelDraft(
            policy.codec, drafter=ParallelRuntime(fakes.parallel(policy)), min_probability=1e-5
        ),
        "eagle": lambda: Eagle(policy.codec, drafter=EagleRuntime(fakes.eagle(policy), policy)),
    }
    policy.require_states()
    for name, make in makers.items():
        found = replay(make(), [recorded], policy, needs_prompt_states=name == "eagle")
        sink = MemorySink()
        live = Engine(policy, proposers={name: make()}, sink=sink)
        for seen in observations:
            live.act(seen)
        checks = [kept for record in sink.records for _, kept in record.verifications]
        assert found.forwards_per_action == pytest.approx(np.mean([record.lm_forwards for record in sink.records]))
        assert found.accepted_per_verification == pytest.approx(np.mean(checks))
        assert found.rows_per_action == pytest.approx(np.mean([record.n_drafted for record in sink.records]))


@pytest.mark.parametrize("recipe", [PARALLEL, EAGLE], ids=["parallel", "eagle"])
def test_the_whole_run_writes_a_drafter_of_this_policy(
    home: Path, policy: OpenVLAPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    recipe: ParallelRecipe | EagleRecipe,
) -> None:  # fmt: skip
    def play(job: RolloutJob) -> int:
        return write_episode(job, fakes.FakeEnv(job.start.task_index), WatchedPolicy(policy))

    monkeypatch.setattr(rollouts, "record_episode", play)
    weights, shared = str(home / "policy"), home / "run"

    def again(*, resume: bool = False) -> dict[str, object]:
        return training.run(recipe, weights, shared, tmp_path / "out", episodes=4, workers=0, resume=resume)

    result = again()
    scores = result["scores"]
    assert isinstance(scores, dict)
    assert scores["replay"]["n_steps"] == fakes.N_STEPS
    assert 1.0 <= scores["replay"]["forwards_per_action"] <= 7.0
    runtime = load_drafter(str(result["drafter"]), policy)
    assert runtime.policy_hash == policy.policy_hash
    with pytest.raises(BadInput, match="--resume"):
        again()
    assert again(resume=True) == result


def test_recipes_name_what_they_do_not_know(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text('{"parallel": {"steps": 5}, "eagle": {"noise": 0.1}}')
    assert load_recipe("parallel", file).steps == 5
    assert load_recipe("eagle", file, steps=7).steps == 7
    file.write_text('{"parallel": {"widht": 5}}')
    with pytest.raises(BadInput, match=r"widht.*Known keys: .*width"):
        load_recipe("parallel", file)
    file.write_text('{"steps": 5}')
    with pytest.raises(BadInput, match="unknown sections steps; known: eagle, parallel"):
        load_recipe("parallel", file)
    with pytest.raises(UnknownName, match=r"'medusa'; known: eagle, parallel"):
        load_recipe("medusa", None)


def test_the_shipped_recipe_is_readable() -> None:
    path = Path(__file__).parents[2] / "recipes" / "drafter.json"
    for kind in ("parallel", "eagle"):
        assert load_recipe(kind, path).steps > 0
