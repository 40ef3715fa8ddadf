"""A directory in the published layout (random weights) against transformers, timm and the published formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import published_checkpoint as published
import tiny_policies as tiny
from heisd.engine import Engine
from heisd.errors import BadArtifact, UnknownName
from heisd.policies.bundle import load_policy
from heisd.policies.images import openvla_picture
from heisd.policies.reference import generate
from heisd.policies.target import OpenVLAPolicy
from heisd.types import Observation

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=[1, 2], ids=["one tower", "two towers"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    directory = tmp_path_factory.mktemp("openvla") / "checkpoint"
    return directory, published.write(directory, n_towers=request.param)


@pytest.fixture(scope="module")
def target(checkpoint: tuple[Path, State]) -> OpenVLAPolicy:
    return load_policy(checkpoint[0], unnorm_key="libero_object")


def _observation(rng: np.random.Generator) -> Observation:
    return tiny.observation(rng, "pick up the milk", size_px=96)


def _llama(state: State) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=published.PADDED,
        hidden_size=published.HIDDEN,
        intermediate_size=published.INTERMEDIATE,
        num_hidden_layers=published.LAYERS,
        num_attention_heads=published.HEADS,
    )
    llama = LlamaForCausalLM(config).eval()
    prefix = "language_model."
    llama.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return llama


def _tower(state: State, attribute: str, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """Second-to-last block of a timm ViT, block by block and without any of this project's code."""
    vit = timm.create_model(name, pretrained=False, num_classes=0, img_size=published.IMAGE_SIZE).eval()
    prefix = f"vision_backbone.{attribute}."
    vit.load_state_dict(
        {k.removeprefix(prefix).replace("scale_factor", "gamma"): v for k, v in state.items() if k.startswith(prefix)}
    )
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pixels))))
    for block in vit.blocks[:-1]:
        x = block(x)
    return x[:, vit.num_prefix_tokens :]


def _normalised(pixels: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_towers_and_projector_equal_timm(checkpoint: tuple[Path, State], target: OpenVLAPolicy) -> None:
    directory, state = checkpoint
    seen = _observation(np.random.default_rng(0))
    picture = openvla_picture(seen.images["agentview"], published.IMAGE_SIZE, 0.9)
    pixels = json.loads((directory / "preprocessor_config.json").read_text())
    x = torch.tensor(picture).permute(2, 0, 1)[None] / 255.0
    with torch.inference_mode():
        features = torch.cat(
            [
                _tower(state, attribute, name, _normalised(x, mean, std))
                for attribute, name, mean, std in zip(
                    ("featurizer", "fused_featurizer"), published.TOWERS, pixels["means"], pixels["stds"], strict=False
                )
            ],
            dim=-1,
        )
        for i, layer in enumerate(("fc1", "fc2", "fc3")[: 1 + len(pixels["means"])]):
            features = torch.nn.functional.gelu(features) if i else features
            features = torch.nn.functional.linear(
                features, state[f"projector.{layer}.weight"], state[f"projector.{layer}.bias"]
            )
        torch.testing.assert_close(target.encode(seen).patches, features[0], atol=2e-5, rtol=1e-4)


def test_sequence_order_is_bos_patches_text(checkpoint: tuple[Path, State], target: OpenVLAPolicy) -> None:
    seen = _observation(np.random.default_rng(1))
    ids = target.tokenizer.encode(seen.instruction)
    embedded = checkpoint[1]["language_model.model.embed_tokens.weight"][ids]
    context = target.encode(seen)
    assert context.patches is not None
    torch.testing.assert_close(context.prefix, torch.cat([embedded[:1], context.patches, embedded[1:]]))
    assert ids[0] == 1
    assert ids[-1] == 29_871
    assert ids.count(29_871) == 1 + "In: What action should the robot take to pick up the milk".count(" ") + 1


def test_tokens_equal_transformers_generate_and_decode_by_the_published_formula(
    checkpoint: tuple[Path, State], target: OpenVLAPolicy
) -> None:
    llama = _llama(checkpoint[1])
    rng, engine = np.random.default_rng(2), Engine(target)
    q01, q99 = np.array(published.Q01), np.array(published.Q99)
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    for _ in range(20):
        seen = _observation(rng)
        action = engine.act(seen)
        assert action.tokens.tolist() == generate(llama, target.encode(seen).prefix, 7)
        assert ((action.tokens >= 31_744) & (action.tokens <= 31_999)).all()
        normalised = centres[np.clip(32_000 - action.tokens - 1, 0, 254)]
        expected = 0.5 * (normalised + 1) * (q99 - q01) + q01
        np.testing.assert_allclose(action.values[:6], expected[:6], atol=1e-12)
        assert action.values[6] == -np.sign(2 * normalised[6] - 1)


def test_the_action_changes_when_only_the_image_does(target: OpenVLAPolicy) -> None:
    rng, engine = np.random.default_rng(3), Engine(target)
    first = _observation(rng)
    actions = set()
    for _ in range(10):
        images = _observation(rng).images
        actions.add(tuple(engine.act(Observation(images, first.proprio, first.instruction, 0.0)).tokens))
    assert len(actions) >= 4


def test_bfloat16_stays_close(checkpoint: tuple[Path, State], target: OpenVLAPolicy) -> None:
    half = load_policy(checkpoint[0], "bfloat16", unnorm_key="libero_object")
    seen = _observation(np.random.default_rng(4))
    full = target.encode(seen).prefix
    torch.testing.assert_close(half.encode(seen).prefix.float(), full, atol=0.2, rtol=0.1)


def _copy(checkpoint: tuple[Path, State], tmp_path: Path) -> Path:
    for path in checkpoint[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_damaged_directories_are_refused_by_the_file_at_fault(checkpoint: tuple[Path, State], tmp_path: Path) -> None:
    directory = _copy(checkpoint, tmp_path)
    with pytest.raises(UnknownName, match="libero_object_no_noops"):
        load_policy(directory, unnorm_key="bridge")
    shard = directory / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:5_000])
    with pytest.raises(BadArtifact, match="model-00001-of-00002"):
        load_policy(directory)
    shard.unlink()
    with pytest.raises(BadArtifact, match="model-00001-of-00002"):
        load_policy(directory)


@pytest.mark.parametrize("change", [{"model_type": "llava"}, {"text_config": {}}, {"timm_model_ids": []}])
def test_another_kind_of_model_is_refused(
    checkpoint: tuple[Path, State], tmp_path: Path, change: dict[str, object]
) -> None:
    directory = _copy(checkpoint, tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BadArtifact):
        load_policy(directory)


def test_a_missing_tensor_is_named(checkpoint: tuple[Path, State], tmp_path: Path) -> None:
    directory = _copy(checkpoint, tmp_path)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v.startswith("model-00001")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadArtifact, match="missing"):
        load_policy(directory)
