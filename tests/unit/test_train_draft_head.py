"""The draft head learns the policy's own zero-noise chunks; the teacher is asked once; resumed runs are unbroken."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("libero", reason="demonstrations come with LIBERO's instructions (extra libero)")

import demo_fakes
from training_fakes import assert_resumes, fake_demos

import tiny_flows as flows
from heisd.errors import BadInput, LeakError
from heisd.policies.config import ConvTowerConfig
from heisd.policies.drafter_bundle import load_draft_head
from heisd.policies.flow.policy import FlowPolicy
from heisd.sim.dataset import unflatten_proprio
from heisd.sim.demos import Demos
from heisd.sim.splits import EpisodeStart
from heisd.train import draft_head_data as data
from heisd.train.config import DraftHeadRecipe, FlowRecipe, TrainConfig
from heisd.train.data import Samples
from heisd.train.draft_head import DraftHeadTrainer, distil, prefix_weights
from heisd.train.flow_data import FlowSamples
from heisd.types import Observation

TINY = DraftHeadRecipe(
    steps=6, batch_size=8, warmup_steps=2, log_every=100, checkpoint_every=3, threads=1, holdout_every=4,
    teacher_steps=3, max_frames=60,
)  # fmt: skip


@pytest.fixture(scope="module")
def demos() -> Demos:
    made = fake_demos()
    small = made.images[:, :, ::4, ::4]
    texts = tuple(("pick up the milk", "pick up the black bowl on the stove")[i % 2] for i in range(8))
    return replace(made, images=np.ascontiguousarray(small), instructions=texts)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> FlowPolicy:
    home = tmp_path_factory.mktemp("policy")
    return flows.stored_policy(home / "policy", vision=ConvTowerConfig(image_size=32, channels=(8, 16, 24), groups=4))


def test_the_teacher_says_what_the_policy_would_do_from_zero_noise(demos: Demos, policy: FlowPolicy) -> None:
    frames = data.chosen_frames(demos, 10)
    assert frames.tolist() == [0, 9, 18, 26, 35, 44, 53, 61, 70, 79]
    lesson = data.ask_teacher(demos, policy, frames, 3)
    for row, i in enumerate(frames.tolist()):
        images = dict(zip(demos.cameras, demos.images[i], strict=True))
        text = demos.instructions[demos.episode[i]]
        context = policy.encode(Observation(images, unflatten_proprio(demos.proprio[i]), text, 0.0))
        chunk = policy.denoise(policy.prefill(context), context, np.zeros((flows.HORIZON, 7), np.float32), 3)
        np.testing.assert_allclose(lesson.chunk[row], chunk, atol=1e-5)
        embeddings, is_visible, state, _ = lesson.rows(np.array([row]))
        assert is_visible.all()
        np.testing.assert_allclose(embeddings[0], context.embeddings, atol=5e-3)
        np.testing.assert_allclose(state[0], context.state, atol=1e-6)


def test_the_teacher_is_asked_once(
    demos: Demos, policy: FlowPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = data.ask_teacher
    monkeypatch.setattr(data, "ask_teacher", lambda *given: asked.append(1) or ask(*given))
    first = data.teach(demos, policy, TINY, tmp_path)
    again = data.teach(demos, policy, TINY, tmp_path)
    assert len(asked) == 1
    for name in ("embeddings", "n_prefix", "state", "chunk", "episode", "frame"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    data.teach(demos, policy, TINY.model_copy(update={"teacher_steps": 2}), tmp_path)
    assert len(asked) == 2
    (tmp_path / data.FILE).write_bytes(b"torn")
    data.teach(demos, policy, TINY, tmp_path)
    assert len(asked) == 3
    older = repr((demos.fingerprint, policy.policy_hash, TINY.teacher_steps, TINY.max_frames))  # without frame numbers
    tensors = {"embeddings": first.embeddings, "chunk": first.chunk}
    save_file(tensors, tmp_path / data.FILE, {"identity": hashlib.sha256(older.encode()).hexdigest()})
    data.teach(demos, policy, TINY, tmp_path)
    assert len(asked) == 4


def test_evaluation_episodes_and_blind_policies_teach_nothing(demos: Demos, policy: FlowPolicy, tmp_path: Path) -> None:
    class Origin:
        start = EpisodeStart("libero_object", 0, 45, None)

    leaking = replace(demos, provenance=(Origin(),) * 8)  # type: ignore[arg-type]
    with pytest.raises(LeakError, match="test split"):
        data.teach(leaking, policy, TINY, tmp_path)
    with pytest.raises(BadInput, match="a blind policy has none"):
        data.teach(demos, flows.policy(is_blind=True), TINY, tmp_path)


def test_leading_actions_weigh_most() -> None:
    weights = prefix_weights(6, 3, 0.9, 0.1)
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights / weights[0], [1.0, 0.9, 0.81, 0.1, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(prefix_weights(4, 9, 1.0, 0.1), [0.25] * 4)


def test_a_resumed_run_equals_an_unbroken_one(demos: Demos, policy: FlowPolicy, tmp_path: Path) -> None:
    lesson = data.teach(demos, policy, TINY, tmp_path)

    def trainer() -> DraftHeadTrainer:
        return DraftHeadTrainer(TINY, lesson, policy, tmp_path, demos.fingerprint)

    assert_resumes(trainer, tmp_path / "checkpoint.safetensors")
    other = DraftHeadTrainer(TINY, lesson, flows.policy(), tmp_path, demos.fingerprint)
    with pytest.raises(BadInput, match="data"):
        other.resume(tmp_path / "checkpoint.safetensors")


def test_it_learns_and_measures_on_episodes_it_never_sees(demos: Demos, policy: FlowPolicy, tmp_path: Path) -> None:
    longer = TINY.model_copy(update={"steps": 150, "learning_rate": 3e-3})
    lesson = data.teach(demos, policy, longer, tmp_path)
    trainer = DraftHeadTrainer(longer, lesson, policy, tmp_path, demos.fingerprint)
    before = trainer.holdout()
    losses = [trainer.train_step()["loss"] for _ in range(longer.steps)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert trainer.holdout()["motion_rms"] < before["motion_rms"]
    train, measure = data.split(lesson, longer)
    assert not set(lesson.episode[train].tolist()) & set(lesson.episode[measure].tolist())
    assert set(lesson.episode[measure].tolist()) == {3, 7}


def test_the_whole_run_writes_a_head_of_this_policy(
    demos: Demos, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("stored") / "policy"
    mine = flows.stored_policy(directory, vision=ConvTowerConfig(image_size=32, channels=(8, 16, 24), groups=4))
    result = distil(demos, mine, directory, tmp_path / "out", TINY, "test", resume=False)
    assert 0.0 <= result["scores"]["held_out"]["leading"] <= mine.config.sampling.executed
    assert load_draft_head(result["drafter"], mine).policy_hash == mine.policy_hash
    with pytest.raises(BadInput, match="--resume"):
        distil(demos, mine, directory, tmp_path / "out", TINY, "test", resume=False)
    assert distil(demos, mine, directory, tmp_path / "out", TINY, "test", resume=True) == result


@pytest.mark.parametrize(
    "load", [lambda p: Samples.load(p, TrainConfig()), lambda p: FlowSamples.load(p, FlowRecipe())]
)
def test_no_policy_learns_from_a_policys_own_episodes(
    load: Callable[[list[Path]], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_fakes, "SPEC", replace(demo_fakes.SPEC, settings={"unaided": True}))
    with pytest.raises(BadInput, match="an expert's: collect without --unaided"):
        load([demo_fakes.make_dataset(tmp_path)])
