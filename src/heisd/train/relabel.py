"""What the target would have done on frames that others drove through: more to learn from than its own episodes.

The past is what was executed there, the labels are the target's own greedy tokens. Closed-loop episodes cost a
simulator; frames of a data set cost one batched forward, and show the target's answers off its own path too.
Files are those of :mod:`heisd.train.rollouts` with one more tensor, ``executed``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from heisd import interrupts
from heisd.bench.weights import resolve_weights
from heisd.files import write_atomic
from heisd.policies.bundle import load_policy
from heisd.policies.identity import describe_weights
from heisd.policies.images import ImageStack
from heisd.policies.proprio import features
from heisd.policies.reference import as_transformers, generate_rows
from heisd.policies.target import OpenVLAPolicy
from heisd.sim.demos import Demos, load_demos
from heisd.sim.splits import EpisodeStart, require_train
from heisd.train.experience import picture_size_px
from heisd.train.rollouts import action_states, claim, is_written
from heisd.types import IntArray

log = logging.getLogger(__name__)

BATCH = 64  # frames whose tokens are decoded together
LOG_EVERY = 50  # episodes


class Labeller:
    """Decodes frames of demonstrations greedily, many at a time."""

    def __init__(self, policy: OpenVLAPolicy) -> None:
        self.policy = policy
        self._llama = as_transformers(policy.model.language_model)
        self._stack = ImageStack(policy.config)

    @torch.inference_mode()
    def prefixes(self, demos: Demos, frames: IntArray) -> Tensor:
        """(N, P, d) prompts of frames of one episode."""
        policy = self.policy
        text = demos.instructions[int(demos.episode[frames[0]])]
        pictures = [self._stack(dict(zip(demos.cameras, demos.images[i], strict=True))) for i in frames]
        felt = None
        if policy.config.proprio is not None:
            felt = torch.from_numpy(features(demos.proprio[frames], policy.config.proprio)).float()
        ids = torch.tensor([policy.tokenizer.encode(text)]).expand(len(frames), -1)
        return policy.model.prefix(torch.stack(pictures), ids, felt)

    def tensors(self, demos: Demos, number: int) -> dict[str, Tensor]:
        """What one episode's file holds; the shapes are those of a rollout."""
        codec, n = self.policy.codec, self.policy.codec.length
        frames = np.flatnonzero(demos.episode == number)
        prefix = torch.cat([self.prefixes(demos, frames[i : i + BATCH]) for i in range(0, len(frames), BATCH)])
        ids = torch.cat([generate_rows(self._llama, rows, n) for rows in torch.split(prefix, BATCH)])
        executed = codec.tokens_of_bins(codec.encode_bins(demos.executed[frames]))
        return {
            "prefix": prefix.half(),
            "proprio": torch.from_numpy(demos.proprio[frames]).float(),
            "tokens": ids.int(),
            "executed": torch.from_numpy(np.asarray(executed)).int(),
            "hidden": action_states(self.policy, prefix, ids).half(),
        }


def label(data: Sequence[Path], weights: str, suite: str, out: Path) -> list[Path]:
    """Label every episode of the data sets that isn't yet; returns their files, in order. Goes on where it stopped.

    Raises BadInput when ``out`` belongs to another policy, DatasetError and BadArtifact for bad inputs, LeakError for
    an episode outside the train split.
    """
    directory = resolve_weights(weights, suite)
    policy = load_policy(directory)
    demos = load_demos(data, picture_size_px(policy))
    claim(out, describe_weights(directory))
    starts = [origin.start for origin in demos.provenance]
    for start in starts:
        require_train(start)
    labeller, paths = Labeller(policy), []
    for number, start in enumerate(starts):
        interrupts.check()
        paths.append(out / f"{demos.fingerprint[:12]}-{number:05d}.safetensors")
        if not is_written(paths[-1], start, policy.policy_hash):
            write_atomic(paths[-1], _file(labeller, demos, number, start))
        if (number + 1) % LOG_EVERY == 0 or number + 1 == len(starts):
            log.info("labelled %d of %d episodes", number + 1, len(starts))
    return paths


def _file(labeller: Labeller, demos: Demos, number: int, start: EpisodeStart) -> bytes:
    meta: dict[str, Any] = {"start": start.key, "policy": labeller.policy.policy_hash, "is_solved": "True"}
    meta["instruction"] = demos.instructions[number]
    tensors = {name: value.contiguous() for name, value in labeller.tensors(demos, number).items()}
    return bytes(safetensors_bytes(tensors, metadata=meta))
