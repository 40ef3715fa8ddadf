"""The network for training: teacher forcing, padding, blindness, proprioception, images."""

import numpy as np
import pytest
import torch

import tiny_policies as tiny
from heisd.errors import BadInput
from heisd.policies import proprio
from heisd.policies.config import OpenVLAConfig, ProprioConfig
from heisd.policies.images import openvla_picture
from heisd.types import Observation


def _batch(model_config: OpenVLAConfig, seen: list[Observation], n_pad: int) -> tuple[torch.Tensor, ...]:
    prompts = [tiny.tokenizer().encode(o.instruction) for o in seen]
    n_text = torch.tensor([len(p) for p in prompts])
    ids = torch.full((len(seen), int(n_text.max()) + n_pad), 7)
    for row, p in zip(ids, prompts, strict=True):
        row[: len(p)] = torch.tensor(p)
    stacked = np.stack([np.stack([o.images[c] for c in ("agentview", "wrist")]) for o in seen])
    assert model_config.proprio is not None
    features = proprio.features(np.stack([proprio.flatten(o.proprio) for o in seen]), model_config.proprio)
    return torch.from_numpy(stacked).permute(0, 1, 4, 2, 3), ids, n_text, torch.from_numpy(features)


@pytest.mark.parametrize("is_blind", [False, True])
def test_padded_batches_train_on_what_inference_sees(rng: np.random.Generator, is_blind: bool) -> None:
    """Prompts of different lengths in one padded batch give the logits of each row alone, and of decoding."""
    target = tiny.policy(is_blind=is_blind)
    model, V = target.model, target.codec.vocab_size
    model.seal_head()
    target = type(target)(model, tiny.tokenizer(), target.codec)
    seen = [tiny.observation(rng, instruction) for instruction in tiny.INSTRUCTIONS]
    tokens = torch.tensor([tiny.greedy(target, o) for o in seen])
    with torch.inference_mode():
        images, ids, n_text, features = _batch(model.config, seen, n_pad=3)
        together = model.action_logits(images, ids, n_text, features, tokens)
        for i, n in enumerate(n_text):
            rows = slice(i, i + 1)
            alone = model.action_logits(images[rows], ids[rows, :n], n_text[rows], features[rows], tokens[rows])
            torch.testing.assert_close(together[rows], alone, atol=1e-5, rtol=1e-5)
    assert (V - 1 - together.argmax(-1)).tolist() == tokens.tolist()


def test_bin_logits_are_the_action_rows_of_the_head_in_value_order() -> None:
    model = tiny.network()
    hidden = torch.randn(3, 32)
    whole = model.language_model.lm_head(hidden)
    tokens = tiny.codec(model.config.action_vocab_size).tokens_of_bins(np.arange(256))
    torch.testing.assert_close(model.bin_logits(hidden), whole[:, torch.from_numpy(tokens)])


def test_a_sealed_head_only_ever_chooses_actions() -> None:
    model = tiny.network()
    first = model.config.action_vocab_size - 256
    hidden = 3 * torch.randn(2_000, 32)
    assert (model.language_model.lm_head(hidden).argmax(-1) < first).any()
    before = model.bin_logits(hidden)
    model.seal_head()
    assert (model.language_model.lm_head(hidden).argmax(-1) >= first).all()
    torch.testing.assert_close(model.bin_logits(hidden), before)


def test_gradients_reach_every_part_that_should_learn(rng: np.random.Generator) -> None:
    model = tiny.network()
    seen = [tiny.observation(rng, instruction) for instruction in tiny.INSTRUCTIONS]
    images, ids, n_text, features = _batch(model.config, seen, n_pad=0)
    tokens = torch.randint(model.config.action_vocab_size - 256, model.config.action_vocab_size, (2, 7))
    model.action_logits(images, ids, n_text, features, tokens).logsumexp(-1).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_proprioception_features_do_not_see_the_sign_of_the_quaternion(rng: np.random.Generator) -> None:
    flat = proprio.flatten(tiny.observation(rng).proprio)[None].repeat(2, axis=0)
    flat[1, 3:7] *= -1
    one, other = proprio.features(flat, ProprioConfig(use_joints=True))
    np.testing.assert_array_equal(one, other)
    assert len(one) == proprio.n_features(ProprioConfig(use_joints=True))


def test_flat_proprioception_of_another_width_is_refused() -> None:
    with pytest.raises(BadInput, match="25 numbers"):
        proprio.features(np.zeros(8), ProprioConfig())


def test_unsuitable_pictures_are_refused(rng: np.random.Generator) -> None:
    target, seen = tiny.policy(), tiny.observation(rng)
    small = tiny.observation(rng, size_px=16)
    with pytest.raises(BadInput, match="trained on 32x32"):
        target.encode(small)
    with pytest.raises(BadInput, match="needs camera 'wrist'"):
        target.encode(Observation({"agentview": seen.images["agentview"]}, seen.proprio, seen.instruction, 0.0))
    floats = {camera: picture.astype(np.float32) for camera, picture in seen.images.items()}
    with pytest.raises(BadInput, match="expected uint8"):
        target.encode(Observation(floats, seen.proprio, seen.instruction, 0.0))


def test_a_prompt_that_is_too_long_is_refused(rng: np.random.Generator) -> None:
    seen = tiny.observation(rng, "pick " * 100)
    with pytest.raises(BadInput, match="reads at most 40"):
        tiny.policy().encode(seen)


def test_centre_crop_keeps_the_middle_and_drops_the_rim() -> None:
    picture = np.zeros((100, 100, 3), dtype=np.uint8)
    picture[:2] = 255
    assert openvla_picture(picture, 100, None)[0].min() == 255
    assert openvla_picture(picture, 100, 0.9).max() == 0
