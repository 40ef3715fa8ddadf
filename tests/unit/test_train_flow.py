"""Flow matching: it learns, a killed run continues as if nothing had happened, and what it writes can be played."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("libero", reason="the vocabulary is built from LIBERO's instructions (extra libero)")

from training_fakes import assert_resumes, fake_demos

import tiny_flows as flows
from heisd.engine import ChunkEngine
from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.policies.bundle import load_policy
from heisd.policies.flow.bundle import load_flow
from heisd.policies.identity import describe_weights
from heisd.testing import synthetic_observations
from heisd.train.borrow import borrow
from heisd.train.config import FlowRecipe, TrainConfig, load_flow_recipe
from heisd.train.data import Samples
from heisd.train.flow import FlowTrainer, run
from heisd.train.flow_data import FlowSamples
from heisd.train.policy import Trainer
from heisd.train.targets import chunk_indices

TINY = FlowRecipe(
    steps=6, batch_size=8, warmup_steps=2, log_every=100, checkpoint_every=3, threads=1, holdout_every=4,
    hidden_size=32, n_layers=2, n_heads=2, intermediate_size=48, expert_hidden_size=24, expert_intermediate_size=32,
    horizon=4, executed=3, euler_steps=2, draws=2, validate_episodes=0,
)  # fmt: skip


def test_a_chunk_repeats_the_last_action_beyond_its_episode() -> None:
    episode = np.array([0, 0, 0, 1, 1, 2])
    assert chunk_indices(episode, 3).tolist() == [
        [0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4], [5, 5, 5],
    ]  # fmt: skip
    assert chunk_indices(episode, 1)[:, 0].tolist() == list(range(6))


def test_labels_are_the_next_actions_in_normalised_units() -> None:
    samples = FlowSamples(fake_demos(), TINY)
    demos = samples.demos
    index = samples.train_indices(0)
    batch = samples.train_batch(0, np.random.default_rng(0))
    for row, i in enumerate(index.tolist()):
        last = np.flatnonzero(demos.episode == demos.episode[i])[-1]
        wanted = samples.codec.normalise_chunk(demos.actions[np.minimum(np.arange(i, i + 4), last)])
        np.testing.assert_allclose(batch.actions[row], wanted, atol=1e-6)
    assert batch.noise.shape == (8, 2, 4, 7)
    assert ((batch.t > 0) & (batch.t <= 1)).all()


def test_frames_in_which_an_expert_waits_begin_no_chunk() -> None:
    demos = fake_demos()
    demos.phase[10:20] = 1  # the second episode grasps …
    demos.actions[10:20, 6] = 1.0
    demos.proprio[10:20, 9:11] = 0.0  # … with still fingers
    samples = FlowSamples(demos, TINY)
    begun = {int(i) for step in range(30) for i in samples.train_indices(step)}
    assert not begun & set(range(14, 20))
    assert {10, 11, 12, 13} <= begun


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    samples = FlowSamples(fake_demos(), TINY)
    assert_resumes(lambda: FlowTrainer(TINY, samples, tmp_path), tmp_path / "checkpoint.safetensors")


def test_another_recipe_is_not_continued_but_other_sampling_is(tmp_path: Path) -> None:
    samples = FlowSamples(fake_demos(), TINY)
    first = FlowTrainer(TINY, samples, tmp_path)
    first.train_step()
    first.save()
    other = TINY.model_copy(update={"horizon": 5})
    with pytest.raises(BadInput, match="horizon"):
        FlowTrainer(other, FlowSamples(fake_demos(), other), tmp_path).resume(tmp_path / "checkpoint.safetensors")
    again = TINY.model_copy(update={"euler_steps": 7, "executed": 1, "noise_scale": 0.5})
    second = FlowTrainer(again, FlowSamples(fake_demos(), again), tmp_path)
    second.resume(tmp_path / "checkpoint.safetensors")
    exported = load_flow(second.export(tmp_path / "policy", "test"))
    assert exported.config.sampling.model_dump() == {"euler_steps": 7, "executed": 1, "noise_scale": 0.5}


def test_a_blind_policy_learns_and_its_chunks_are_near_the_labels(tmp_path: Path) -> None:
    """The actions are a function of proprioception: what can be learned is learned."""
    config = TINY.model_copy(
        update={"blind": True, "steps": 250, "batch_size": 32, "learning_rate": 4e-3, "horizon": 1, "executed": 1}
    )
    trainer = FlowTrainer(config, FlowSamples(fake_demos(n_episodes=40), config), tmp_path)
    before = trainer.holdout()
    losses = [trainer.train_step()["velocity"] for _ in range(config.steps)]
    after = trainer.holdout()
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    assert after["motion_rms"] < 0.75 * before["motion_rms"]
    assert after["gripper_error"] < 0.2
    policy = load_flow(trainer.export(tmp_path / "policy", "test"))
    assert policy.config.cameras == ()


def test_a_finished_run_can_be_played_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlowSamples, "load", lambda _paths, config, base=None: FlowSamples(fake_demos(), config, base))
    policy = load_flow(run([], tmp_path / "one", TINY, command="test"))
    engine = ChunkEngine(policy, sampling=policy.config.sampling)
    for seen in synthetic_observations(4, size_px=128):
        assert np.isfinite(engine.act(seen).values).all()
    with pytest.raises(BadInput, match="already holds a run; add --resume"):
        run([], tmp_path / "one", TINY)
    second = load_flow(run([], tmp_path / "two", TINY, origin=str(tmp_path / "one")))
    assert second.codec == policy.codec
    assert second.config == policy.config
    third, found = [], FlowTrainer.begin_as  # a policy by itself: its weights are the first, its hash the origin
    monkeypatch.setattr(FlowTrainer, "begin_as", lambda self, *args: (found(self, *args), third.append(self))[0])
    none = TINY.model_copy(update={"steps": 0})
    again = load_flow(run([], tmp_path / "policy-alone", none, origin=str(tmp_path / "two" / "policy")))
    assert third[0].origin == describe_weights(tmp_path / "two" / "policy")["sha256"]
    for name, p in again.model.named_parameters():
        torch.testing.assert_close(p, dict(second.model.named_parameters())[name], rtol=0, atol=0)
    with pytest.raises(UnknownName, match="policy"):
        run([], tmp_path / "three", TINY, origin=str(tmp_path / "nothing"))
    with pytest.raises(BadInput, match="seeing policy; the recipe asks for the other kind"):
        run([], tmp_path / "four", TINY.model_copy(update={"blind": True}), origin=str(tmp_path / "one"))


def test_a_token_policys_eyes_are_a_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {name: getattr(TINY, name) for name in ("hidden_size", "n_layers", "n_heads", "intermediate_size")}
    config = TrainConfig(threads=1, holdout_every=4, **shape)
    donor = Trainer(config, Samples(fake_demos(), config), tmp_path / "donor")
    (tmp_path / "donor").mkdir()
    theirs = load_policy(donor.export(tmp_path / "donor" / "policy", "test"))
    trainer = FlowTrainer(TINY, FlowSamples(fake_demos(), TINY), tmp_path)
    n = borrow(trainer.model, str(tmp_path / "donor" / "policy"), trainer.samples.tokenizer)
    ours, given = trainer.model.state_dict(), theirs.model.state_dict()
    for name in ("vision_backbone.stem.0.weight", "projector.fc1.weight", "camera_embedding"):
        assert torch.equal(ours[name], given[name])
    for mine, its in (("layers.0.mlp.up_proj", "layers.0.mlp.up_proj"), ("layers.1.self_attn.k_proj",) * 2):
        assert torch.equal(ours[f"language_model.{mine}.weight"], given[f"language_model.model.{its}.weight"])
    words = ours["language_model.embed_tokens.weight"]
    assert torch.equal(words, given["language_model.model.embed_tokens.weight"][: len(words)])
    assert n == sum(name.split(".")[0] in ("vision_backbone", "projector", "camera_embedding", "language_model")
                    for name in ours)  # fmt: skip
    monkeypatch.setattr(FlowSamples, "load", lambda _paths, config, base=None: FlowSamples(fake_demos(), config, base))
    made = run([], tmp_path / "run", TINY, eyes=str(tmp_path / "donor" / "policy"))
    assert theirs.policy_hash in (made / "manifest.json").read_text()
    other = FlowTrainer(TINY, FlowSamples(fake_demos(), TINY), tmp_path).model
    del other.vision_backbone
    with pytest.raises(BadInput, match="no vision tower of this recipe's shape"):
        borrow(other, str(tmp_path / "donor" / "policy"), trainer.samples.tokenizer)
    flows.stored_policy(tmp_path / "flow")
    with pytest.raises(BadArtifact, match="holds a flow-matching policy"):
        borrow(trainer.model, str(tmp_path / "flow"), trainer.samples.tokenizer)


def test_recipes_name_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text('{"horizn": 3}')
    with pytest.raises(BadInput, match=r"horizn.*Known keys: .*horizon"):
        load_flow_recipe(file)
    for text, problem in (
        ('{"horizon": 4}', "4 actions cannot have 8 executed"),
        ('{"euler_steps": 0}', "euler_steps"),
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=problem):
            load_flow_recipe(file)
    assert load_flow_recipe(None, steps=7).steps == 7
