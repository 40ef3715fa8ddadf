"""Small random flow-matching policies that several tests share."""

from pathlib import Path

import torch

import tiny_policies as tiny
from heisd.codec import ActionCodec
from heisd.policies.config import ConvTowerConfig, DecoderConfig, ProprioConfig
from heisd.policies.drafter_bundle import save_drafter
from heisd.policies.flow.bundle import FLOW_VOCABULARY, load_flow, save_flow
from heisd.policies.flow.config import ExpertConfig, FlowConfig, SamplingConfig
from heisd.policies.flow.draft_head import DraftHead, DraftHeadConfig
from heisd.policies.flow.network import FlowNetwork
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.identity import describe_weights

HORIZON = 6


def config(*, is_blind: bool = False, n_kv_heads: int | None = None, **changes: object) -> FlowConfig:
    decoder = DecoderConfig(
        vocab_size=tiny.tokenizer().n_text_tokens, hidden_size=32, intermediate_size=80, n_layers=3, n_heads=4,
        n_kv_heads=n_kv_heads,
    )  # fmt: skip
    values: dict[str, object] = {
        "cameras": () if is_blind else ("agentview", "wrist"),
        "vision": None if is_blind else ConvTowerConfig(image_size=tiny.SIZE_PX, channels=(8, 16, 24), groups=4),
        "camera_embedding": not is_blind,
        "decoder": decoder,
        "expert": ExpertConfig(hidden_size=24, intermediate_size=40),
        "proprio": ProprioConfig(),
        "horizon": HORIZON,
        "sampling": SamplingConfig(euler_steps=3, executed=4),
    }
    return FlowConfig.model_validate(values | changes)


def network(seed: int = 0, **changes: object) -> FlowNetwork:
    """A random network no part of which is trivial."""
    torch.manual_seed(seed)
    model = FlowNetwork(config(**changes))
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
        elif name.endswith("bias") or name == "camera_embedding":
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def codec() -> ActionCodec:
    return tiny.codec(FLOW_VOCABULARY)


def policy(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> FlowPolicy:
    return FlowPolicy(network(seed, **changes), tiny.tokenizer(), codec(), dtype=dtype)


def stored_policy(directory: Path, seed: int = 0, **changes: object) -> FlowPolicy:
    """A tiny policy that has an identity: it was stored and loaded."""
    return load_flow(save_flow(directory, network(seed, **changes), tiny.tokenizer(), codec()))


def stored_draft_head(policy: Path, **changes: object) -> Path:
    """A random draft head beside a stored policy of the same ``changes``, under its name."""
    torch.manual_seed(0)
    head = DraftHead(DraftHeadConfig.of(config(**changes)))
    return save_drafter(policy.with_name(f"{policy.name}-draft"), head, policy=describe_weights(policy))
