"""Inputs without a robot: observations for a policy, contexts and histories for a proposer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heisd.codec import GRIPPER, ActionCodec
from heisd.propose.base import History
from heisd.types import Action, FloatArray, Observation, Proprioception, TokenOrigin

INSTRUCTION = "pick up the milk and place it in the basket"


@dataclass(frozen=True, slots=True)
class SyntheticContext:
    """A context without a policy behind it."""

    vision_key: FloatArray  # (K,) float32
    instruction: str = INSTRUCTION


def synthetic_episode(
    codec: ActionCodec, *, n_steps: int = 12, seed: int = 0, key_size: int = 32
) -> list[tuple[SyntheticContext, History]]:
    """What a proposer sees at each step of a smooth random motion: step ``i`` has ``i`` past actions.

    The action changes by about a bin a step, the gripper closes half-way. The same seed gives the same episode.
    """
    rng = np.random.default_rng(seed)
    low, high = np.asarray(codec.q01), np.asarray(codec.q99)
    history, steps = History.empty(codec.length), []
    level = rng.uniform(0.3, 0.7, codec.length)
    for i in range(n_steps):
        history = history.observed(_proprioception(rng))
        steps.append((SyntheticContext(rng.normal(size=key_size).astype(np.float32)), history))
        level = np.clip(level + rng.normal(0.0, 1.0 / 255.0, codec.length), 0.0, 1.0)
        values = low + (high - low) * level
        if codec.length > GRIPPER:
            values[GRIPPER] = -1.0 if 2 * i < n_steps else 1.0
        tokens = codec.encode(values)
        history = history.acted(Action(codec.decode(tokens), tokens, (TokenOrigin.DECODED,) * codec.length))
    return steps


def synthetic_observations(
    n: int,
    *,
    cameras: Sequence[str] = ("agentview", "wrist"),
    size_px: int = 64,
    instruction: str = INSTRUCTION,
    seed: int = 0,
) -> list[Observation]:
    """``n`` unrelated observations of noise: square pictures and a random state. The same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        images = {camera: rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8) for camera in cameras}
        made.append(Observation(images, _proprioception(rng), instruction, i / 20))
    return made


def _proprioception(rng: np.random.Generator) -> Proprioception:
    quat = rng.normal(size=4)
    return Proprioception(
        eef_pos_m=rng.normal([0.0, 0.0, 1.0], 0.2),
        eef_quat_xyzw=quat / np.linalg.norm(quat),
        gripper_qpos_m=np.array([1.0, -1.0]) * rng.uniform(0.0, 0.04),
        gripper_qvel_m_s=rng.normal(0.0, 0.05, 2),
        joint_pos_rad=rng.normal(size=7),
        joint_vel_rad_s=rng.normal(size=7),
    )
