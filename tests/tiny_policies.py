"""Small random policies and observations that several tests share."""

import numpy as np
import torch

from heisd.codec import ActionCodec
from heisd.policies.config import ConvTowerConfig, DecoderConfig, OpenVLAConfig, ProprioConfig
from heisd.policies.openvla import OpenVLA
from heisd.policies.target import OpenVLAPolicy
from heisd.policies.tokenizer import WordTokenizer
from heisd.types import Observation, Proprioception

INSTRUCTIONS = ("pick up the milk", "pick up the black bowl on the stove and place it on the plate")
SIZE_PX = 32


def tokenizer() -> WordTokenizer:
    return WordTokenizer.build(INSTRUCTIONS)


def config(*, is_blind: bool = False, **changes: object) -> OpenVLAConfig:
    vocab_size = tokenizer().n_text_tokens + 256
    values: dict[str, object] = {
        "cameras": () if is_blind else ("agentview", "wrist"),
        "vision": None if is_blind else ConvTowerConfig(image_size=SIZE_PX, channels=(8, 16, 24), groups=4),
        "decoder": DecoderConfig(vocab_size=vocab_size, hidden_size=32, intermediate_size=80, n_layers=3, n_heads=4),
        "proprio": ProprioConfig(),
        "camera_embedding": not is_blind,
        "action_vocab_size": vocab_size,
    }
    return OpenVLAConfig.model_validate(values | changes)


def network(seed: int = 0, **changes: object) -> OpenVLA:
    """A random network whose decisions differ between inputs (norm weights and embeddings are not trivial)."""
    torch.manual_seed(seed)
    model = OpenVLA(config(**changes))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    torch.nn.init.normal_(model.language_model.lm_head.weight, std=0.4)
    torch.nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.5)
    return model.eval()


def codec(vocab_size: int) -> ActionCodec:
    return ActionCodec.from_stats(
        vocab_size, [-0.9, -0.8, -0.9, -0.1, -0.2, -0.2, 0.0], [0.9, 0.9, 0.8, 0.1, 0.2, 0.2, 1.0]
    )


def policy(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> OpenVLAPolicy:
    model = network(seed, **changes)
    return OpenVLAPolicy(model, tokenizer(), codec(model.config.action_vocab_size), dtype=dtype)


def observation(rng: np.random.Generator, instruction: str = INSTRUCTIONS[0], size_px: int = SIZE_PX) -> Observation:
    quat = rng.normal(size=4)
    proprio = Proprioception(
        eef_pos_m=rng.normal([0.0, 0.0, 1.0], 0.2),
        eef_quat_xyzw=quat / np.linalg.norm(quat),
        gripper_qpos_m=rng.uniform(-0.04, 0.04, 2),
        gripper_qvel_m_s=rng.normal(0.0, 0.05, 2),
        joint_pos_rad=rng.normal(size=7),
        joint_vel_rad_s=rng.normal(size=7),
    )
    images = {camera: rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8) for camera in ("agentview", "wrist")}
    return Observation(images, proprio, instruction, 0.0)


def greedy(target: OpenVLAPolicy, seen: Observation) -> list[int]:
    """The policy's seven tokens, one training-style forward a token: slow, obvious, without any cache."""
    model = target.model
    prefix = target.encode(seen).prefix[None]
    tokens: list[int] = []
    with torch.inference_mode():
        for _ in range(target.codec.length):
            words = model.language_model.embed(torch.tensor([tokens], dtype=torch.long))
            tokens.append(int(model.language_model(torch.cat([prefix, words], 1))[0, -1].argmax()))
    return tokens
