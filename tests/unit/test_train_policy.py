"""The training loop: it learns, and a killed run continues as if nothing had happened."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("libero", reason="the vocabulary is built from LIBERO's instructions (extra libero)")

from training_fakes import assert_resumes, fake_demos

from heisd.errors import BadArtifact, BadInput, UnknownName
from heisd.policies.bundle import load_policy
from heisd.train.augment import bin_smoothing
from heisd.train.config import TrainConfig, load_config
from heisd.train.data import Samples
from heisd.train.loop import schedule
from heisd.train.policy import Trainer, run

TINY = TrainConfig(
    steps=6, batch_size=8, warmup_steps=2, log_every=100, checkpoint_every=3, threads=1, holdout_every=4,
    hidden_size=32, n_layers=2, n_heads=2, intermediate_size=48,
)  # fmt: skip


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.learner.named_parameters()}


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    samples = Samples(fake_demos(), TINY)
    assert_resumes(lambda: Trainer(TINY, samples, tmp_path), tmp_path / "checkpoint.safetensors")


def test_a_run_of_other_data_or_another_recipe_is_not_continued(tmp_path: Path) -> None:
    first = Trainer(TINY, Samples(fake_demos(), TINY), tmp_path)
    first.train_step()
    first.save()
    with pytest.raises(BadInput, match="data"):
        Trainer(TINY, Samples(fake_demos(seed=1), TINY), tmp_path).resume(tmp_path / "checkpoint.safetensors")
    other = TINY.model_copy(update={"learning_rate": 1e-3})
    with pytest.raises(BadInput, match="learning_rate"):
        Trainer(other, Samples(fake_demos(), other), tmp_path).resume(tmp_path / "checkpoint.safetensors")


def test_a_torn_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(TINY, Samples(fake_demos(), TINY), tmp_path)
    trainer.train_step()
    trainer.save()
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadArtifact, match="checkpoint"):
        trainer.resume(file)


def test_blind_training_learns_and_exports_a_policy_that_loads(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"blind": True, "steps": 60, "batch_size": 32, "learning_rate": 3e-3})
    trainer = Trainer(config, Samples(fake_demos(n_episodes=20), config), tmp_path)
    losses = [trainer.train_step()["loss"] for _ in range(config.steps)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
    policy = load_policy(trainer.export(tmp_path / "policy", "test"))
    assert policy.config.cameras == ()


def test_held_out_episodes_are_never_trained_on() -> None:
    samples = Samples(fake_demos(), TINY)
    held_out = set(np.flatnonzero(np.isin(samples.demos.episode, [3, 7])))
    seen: set[int] = set()
    for step in range(20):
        order = samples.train_indices(step)
        seen |= set(order.tolist())
    assert not seen & held_out
    assert len(seen) > 40


def test_schedule_warms_up_and_decays() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100)
    values = [schedule(step, config) for step in range(1000)]
    assert values[0] == pytest.approx(0.01, rel=0.01)
    assert int(np.argmax(values)) == 99
    assert values[-1] == pytest.approx(0.02, abs=0.005)


def test_recipe_errors_name_the_key(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text('{"stepz": 3}')
    with pytest.raises(BadInput, match=r"stepz.*Known keys: .*steps"):
        load_config(file)
    file.write_text("{")
    with pytest.raises(BadInput, match="cannot read"):
        load_config(file)
    assert load_config(None, steps=7).steps == 7


def test_the_exported_head_is_the_smooth_one_that_was_trained(tmp_path: Path) -> None:
    trainer = Trainer(TINY, Samples(fake_demos(), TINY), tmp_path)
    for _ in range(4):
        trainer.train_step()
    model = trainer.averaged_model()
    with trainer.averaged_weights(), torch.no_grad():
        assert torch.equal(model.action_head_rows(), trainer.head_rows(trainer.model))
        assert not torch.equal(model.action_head_rows(), trainer.model.action_head_rows())


def test_smoothing_takes_the_ripples_out_of_a_head() -> None:
    rows = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    assert (bin_smoothing(5.0) @ rows).diff(dim=0).norm() < 0.05 * rows.diff(dim=0).norm()


def test_no_smoothing_leaves_the_head_alone(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"head_smoothing_bins": 0.0})
    trainer = Trainer(config, Samples(fake_demos(), config), tmp_path)
    assert torch.equal(trainer.head_rows(trainer.model), trainer.model.action_head_rows())


def test_a_run_may_begin_with_the_weights_and_scales_of_another(tmp_path: Path) -> None:
    first = Trainer(TINY, Samples(fake_demos(), TINY), tmp_path)
    for _ in range(4):
        first.train_step()
    first.save()
    base = load_policy(first.export(tmp_path / "policy", "test"))
    second = Trainer(TINY, Samples(fake_demos(seed=1), TINY, base), tmp_path)
    second.begin_with(tmp_path / "checkpoint.safetensors")
    assert second.step == 0
    assert second.samples.codec.q01 == first.samples.codec.q01
    assert second.samples.model_config == first.samples.model_config
    for name, value in weights(second).items():
        assert torch.equal(value, first.ema[name]), name
    assert second.identity() != Trainer(TINY, Samples(fake_demos(seed=1), TINY, base), tmp_path).identity()


def test_a_policy_by_itself_gives_the_first_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Samples, "load", lambda _paths, config, base=None: Samples(fake_demos(), config, base))
    plain = TINY.model_copy(update={"head_smoothing_bins": 0.0, "steps": 0, "validate_episodes": 0})
    first = load_policy(run([], tmp_path / "one", plain))
    alone = shutil.copytree(tmp_path / "one" / "policy", tmp_path / "alone")
    second = load_policy(run([], tmp_path / "two", plain.model_copy(update={"seed": 1}), origin=str(alone)))
    assert second.codec == first.codec
    # A head's rows are put together anew for every export and stored as float16: a last digit may differ.
    for name, p in second.model.named_parameters():
        torch.testing.assert_close(p, dict(first.model.named_parameters())[name], rtol=0, atol=2**-16)


def test_a_run_of_another_shape_is_no_origin(tmp_path: Path) -> None:
    first = Trainer(TINY, Samples(fake_demos(), TINY), tmp_path)
    first.train_step()
    first.save()
    wider = TINY.model_copy(update={"hidden_size": 64})
    with pytest.raises(BadArtifact, match="shape"):
        Trainer(wider, Samples(fake_demos(), wider), tmp_path).begin_with(tmp_path / "checkpoint.safetensors")


def test_beginning_with_something_else_ends_in_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="policy"):
        run([], tmp_path / "out", TINY, origin=str(tmp_path / "nothing"))
    first = Trainer(TINY, Samples(fake_demos(), TINY), tmp_path)
    first.train_step()
    first.save()
    first.export(tmp_path / "policy", "test")
    with pytest.raises(BadInput, match=r"seeing policy.*other kind"):
        run([], tmp_path / "out", TINY.model_copy(update={"blind": True}), origin=str(tmp_path))
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    for damage in (lambda: None, file.unlink):
        damage()
        with pytest.raises(BadArtifact, match="checkpoint"):
            Trainer(TINY, Samples(fake_demos(), TINY), tmp_path).begin_with(file)
