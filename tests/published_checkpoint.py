"""Writes a tiny directory in the layout of a published OpenVLA checkpoint, with random weights."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

VOCAB, PADDED = 32_000, 32_064
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 48, 3, 4, 96
TOWERS = ("test_vit2", "test_vit3")  # layer scales; attention pooling: as DINOv2 and SigLIP have
IMAGE_SIZE = 48
Q01, Q99 = [-0.7, -0.8, -0.9, -0.1, -0.2, -0.3, 0.0], [0.9, 0.8, 0.9, 0.2, 0.2, 0.3, 1.0]


def write(directory: Path, *, n_towers: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Create the directory; returns the state dict that was written, by its published names."""
    directory.mkdir(parents=True)
    torch.manual_seed(seed)
    state = _state(n_towers)
    _write_shards(directory, state)
    mask = [True] * 6 + [False]
    stats = {"libero_object_no_noops": {"action": {"q01": Q01, "q99": Q99, "mask": mask}, "num_transitions": 9}}
    fused = n_towers == 2
    config = {
        "model_type": "openvla",
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},
        "arch_specifier": "no-align+fused-gelu-mlp" if fused else "no-align+gelu-mlp",
        "use_fused_vision_backbone": fused,
        "timm_model_ids": list(TOWERS[:n_towers]),
        "timm_override_act_layers": [None] * n_towers,
        "image_sizes": [IMAGE_SIZE] * n_towers,
        "image_resize_strategy": "resize-naive",
        "pad_to_multiple_of": 64,
        "pad_token_id": 32_000,
        "n_action_bins": 256,
        "norm_stats": stats,
        "text_config": {
            "model_type": "llama",
            "vocab_size": PADDED,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "pad_token_id": 32_000,
        },
    }
    means = [[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]][:n_towers]
    stds = [[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]][:n_towers]
    _dump(directory / "config.json", config)
    _dump(directory / "preprocessor_config.json", {"means": means, "stds": stds})
    _dump(directory / "dataset_statistics.json", stats)
    llama_like_tokenizer().save(str(directory / "tokenizer.json"))
    return state


def llama_like_tokenizer() -> Tokenizer:
    """Byte-fallback BPE over single characters, with Llama's word marks and BOS."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {char: 29_900 + i for i, char in enumerate("abcdefghijklmnopqrstuvwxyzIOW?:\n")}
    vocab["▁"] = 29_871
    tokenizer = Tokenizer(BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\0", "isolated")
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    return tokenizer


def _state(n_towers: int) -> dict[str, torch.Tensor]:
    import timm

    state: dict[str, torch.Tensor] = {}
    width = 0
    for attribute, name in zip(("featurizer", "fused_featurizer"), TOWERS[:n_towers], strict=False):
        vit = timm.create_model(name, pretrained=False, num_classes=0, img_size=IMAGE_SIZE)
        width += vit.embed_dim
        for key, value in vit.state_dict().items():
            random = torch.randn_like(value) * (0.3 if value.ndim == 1 else value[0].numel() ** -0.5)
            state[f"vision_backbone.{attribute}.{key.replace('.gamma', '.scale_factor')}"] = random
    inner = 4 * width if n_towers == 2 else HIDDEN
    shapes = [("fc1", inner, width), ("fc2", HIDDEN, inner), ("fc3", HIDDEN, HIDDEN)]
    for name, outputs, inputs in shapes[: 3 if n_towers == 2 else 2]:
        state[f"projector.{name}.weight"] = torch.randn(outputs, inputs) * inputs**-0.5
        state[f"projector.{name}.bias"] = 0.1 * torch.randn(outputs)
    return state | {f"language_model.{key}": value for key, value in _llama_state().items()}


def _llama_state() -> dict[str, torch.Tensor]:
    state = {"model.embed_tokens.weight": torch.randn(PADDED, HIDDEN)}
    state["model.norm.weight"] = 1 + 0.2 * torch.randn(HIDDEN)
    shapes = {f"self_attn.{p}_proj": (HIDDEN, HIDDEN) for p in "qkvo"}
    shapes |= {f"mlp.{p}_proj": (INTERMEDIATE, HIDDEN) for p in ("gate", "up")}
    shapes["mlp.down_proj"] = (HIDDEN, INTERMEDIATE)
    for i in range(LAYERS):
        for name, (outputs, inputs) in shapes.items():
            state[f"model.layers.{i}.{name}.weight"] = torch.randn(outputs, inputs) * inputs**-0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"model.layers.{i}.{name}.weight"] = 1 + 0.2 * torch.randn(HIDDEN)
    head = torch.zeros(PADDED, HIDDEN)
    head[VOCAB - 256 : VOCAB] = torch.randn(256, HIDDEN)  # a fine-tuned checkpoint answers with action ids
    return state | {"lm_head.weight": head}


def _write_shards(directory: Path, state: dict[str, torch.Tensor]) -> None:
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{i:05d}-of-00002.safetensors"
        save_file({name: state[name].contiguous() for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    _dump(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
