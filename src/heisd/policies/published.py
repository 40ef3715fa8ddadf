"""Published OpenVLA checkpoints (``openvla-7b-finetuned-libero-*``), read without remote code.

Facts relied on: ``config.json`` in the layout of ``PrismaticConfig`` (``timm_model_ids``, ``image_sizes``,
``text_config``, ``pad_to_multiple_of``, ``norm_stats``), ``preprocessor_config.json`` with ``means`` and
``stds``, sharded safetensors with an index, action ids counted back from the vocabulary without its padding
rows, and towers whose layer scales are called ``scale_factor`` (timm calls them ``gamma``).
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from heisd.errors import BadArtifact
from heisd.files import read_json
from heisd.policies.config import DecoderConfig, OpenVLAConfig, VitTowersConfig
from heisd.policies.empty import empty_weights
from heisd.policies.norm_stats import codec_from_stats
from heisd.policies.openvla import OpenVLA
from heisd.policies.target import OpenVLAPolicy
from heisd.policies.tokenizer import PublishedTokenizer

_INDEX = "model.safetensors.index.json"
# LlamaConfig's defaults: published files name only what differs from Llama-2-7B.
_LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "vocab_size": 32_000,
}


def load_published(
    directory: Path, dtype: torch.dtype, *, unnorm_key: str | None = None, max_tree_nodes: int = 128
) -> OpenVLAPolicy:
    """A runnable policy from a published directory. Raises BadArtifact naming the file at fault.

    The centre crop of checkpoints trained with augmentation (all LIBERO fine-tunes) is on.
    """
    raw = read_json(directory / "config.json")
    config = config_from_published(raw, read_json(directory / "preprocessor_config.json"), directory)
    model = _model_with_weights(config, directory, dtype)
    statistics = directory / "dataset_statistics.json"
    stats = read_json(statistics) if statistics.exists() else raw.get("norm_stats", {})
    codec = codec_from_stats(stats, unnorm_key, config.action_vocab_size)
    tokenizer = PublishedTokenizer(directory)
    policy = OpenVLAPolicy(model, tokenizer, codec, dtype=dtype, max_tree_nodes=max_tree_nodes)
    del model.language_model  # the policy runs on packed copies; two sets of 7B weights would not fit
    return policy


def config_from_published(raw: dict[str, Any], pixels: dict[str, Any], directory: Path) -> OpenVLAConfig:
    """Translate ``config.json`` and ``preprocessor_config.json``. BadArtifact for another kind of model.

    The pixel statistics must be the published ones: they were rounded to bfloat16 (0.484375 for 0.485).
    """
    path = directory / "config.json"
    if raw.get("model_type") != "openvla":
        raise BadArtifact(f"{path} describes model_type {raw.get('model_type')!r}; expected 'openvla'")
    try:
        llama = _LLAMA_7B | raw["text_config"]
        names = raw["timm_model_ids"]
        if llama.get("num_key_value_heads", llama["num_attention_heads"]) != llama["num_attention_heads"]:
            raise BadArtifact(f"{path}: grouped-query attention is not supported")
        return OpenVLAConfig(
            cameras=("agentview",),
            vision=VitTowersConfig(
                image_size=raw["image_sizes"][0],
                names=names,
                means=pixels["means"],
                stds=pixels["stds"],
                centre_crop_area=0.9,
            ),
            decoder=DecoderConfig(
                vocab_size=llama["vocab_size"],
                hidden_size=llama["hidden_size"],
                intermediate_size=llama["intermediate_size"],
                n_layers=llama["num_hidden_layers"],
                n_heads=llama["num_attention_heads"],
                rope_theta=(llama.get("rope_parameters") or llama)["rope_theta"],
                rms_eps=llama["rms_norm_eps"],
            ),
            action_vocab_size=llama["vocab_size"] - raw.get("pad_to_multiple_of", 64),
            max_text_tokens=128,
            pad_token_id=raw.get("pad_token_id", 32_000),
        )
    except (KeyError, TypeError, IndexError, ValidationError) as error:
        raise BadArtifact(f"{path} is not the configuration of an OpenVLA checkpoint: {error!r}") from None


def _model_with_weights(config: OpenVLAConfig, directory: Path, dtype: torch.dtype) -> OpenVLA:
    """Build without weights and assign, so that 7B weights are held once and in ``dtype`` only."""
    with empty_weights():
        model = OpenVLA(config, is_fresh=False)
    state = {_renamed(key): value.to(dtype) for key, value in _read_shards(directory).items()}
    try:
        outcome = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise BadArtifact(f"{directory}: weights do not fit config.json: {error}") from None
    if outcome.missing_keys or outcome.unexpected_keys:
        raise BadArtifact(
            f"{directory}: weights do not match config.json; missing {outcome.missing_keys[:5]}, "
            f"unexpected {outcome.unexpected_keys[:5]}"
        )
    return model


def _read_shards(directory: Path) -> dict[str, Tensor]:
    index = directory / _INDEX
    if index.exists():
        shards = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
    else:
        shards = ["model.safetensors"]
    state: dict[str, Tensor] = {}
    for name in shards:
        if Path(name).name != name:
            raise BadArtifact(f"{index} names {name!r}, which is outside the directory")
        try:
            state |= load_file(directory / name)
        except (OSError, SafetensorError) as error:
            raise BadArtifact(f"{directory / name} cannot be read as safetensors: {error}") from None
    return state


def _renamed(key: str) -> str:
    """Published name -> this project's (only layer scales differ)."""
    return key.replace(".scale_factor", ".gamma")
