"""What a store can be built from: demonstrations, or the policy's own solved episodes.

Demonstrations give clean labels, which a policy learned from but seldom repeats to the bin; the policy's own episodes
(:mod:`heisd.train.rollouts`) give the tokens it chose itself in the states it got into.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from heisd.bench.motion import Onlooker
from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.index.record import bins_of_action_tokens
from heisd.index.writer import EpisodeOrigin
from heisd.kinematics.gripper import Phase
from heisd.policies.config import SeeingConfig
from heisd.policies.images import ImageStack
from heisd.policies.seeing import SeeingNetwork
from heisd.policies.target import OpenVLAPolicy
from heisd.sim.dataset import unflatten_proprio
from heisd.sim.demos import Demos
from heisd.sim.splits import EpisodeStart
from heisd.train.rollouts import MANIFEST, Rollout, load, read_manifest
from heisd.types import FloatArray, IntArray

Progress = Callable[[int, int], None]  # frames done, frames in all
_PHASES = {phase: number for number, phase in enumerate(Phase)}  # as the experts number theirs


@dataclass(frozen=True, slots=True)
class Frames:
    """N control steps as a store remembers them, sorted by episode and step."""

    keys: FloatArray  # (N, D) float32 vision keys, not projected yet
    proprio: FloatArray  # (N, 25)
    episode: IntArray  # (N,) numbers of the source's episodes
    frame: IntArray  # (N,) control step within the episode
    phase: IntArray  # (N,) 0-255
    bins: IntArray  # (N, 7) 0-255


@dataclass(frozen=True, slots=True)
class EpisodeInfo:
    """An episode that could be remembered."""

    instruction: str
    start: EpisodeStart
    attempt: int
    n_frames: int

    @property
    def origin(self) -> EpisodeOrigin:
        """What the store notes of it."""
        return EpisodeOrigin(self.start.key, str(self.start.split), self.attempt)


class Encoding(Protocol):
    """The part of a policy, of either kind, whose keys and actions a store holds."""

    @property
    def config(self) -> SeeingConfig: ...

    @property
    def model(self) -> SeeingNetwork: ...

    @property
    def codec(self) -> ActionCodec: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def policy_hash(self) -> str: ...


class Source(Protocol):
    """Episodes of one policy's world."""

    @property
    def episodes(self) -> Sequence[EpisodeInfo]: ...

    @property
    def note(self) -> dict[str, Any]: ...

    def frames(self, episodes: IntArray, batch_size: int, progress: Progress | None) -> Frames:
        """The control steps of these episodes (increasing numbers), their pictures encoded by the policy."""
        ...


class Demonstrations:
    """Scripted experts' episodes; actions are the clean labels: exactly the tokens the policy was trained on."""

    def __init__(self, demos: Demos, policy: Encoding) -> None:
        """Raises BadInput for a policy without eyes, for no demonstration, and for some of unknown origin."""
        picture_size_px(policy)
        if not len(demos):
            raise BadInput("there are no demonstrations to build a store from; make some: heisd collect")
        if len(demos.provenance) != len(demos.instructions):
            raise BadInput(
                f"{len(demos.instructions)} episodes but {len(demos.provenance)} origins: demonstrations of unknown "
                "origin might be evaluation episodes; read them with load_demos"
            )
        self._demos, self._policy = demos, policy
        lengths = np.bincount(demos.episode, minlength=len(demos.instructions)).tolist()
        self.episodes = [
            EpisodeInfo(text, origin.start, origin.attempt, n_frames)
            for text, origin, n_frames in zip(demos.instructions, demos.provenance, lengths, strict=True)
        ]
        self.note = {"source": "demonstrations", "fingerprint": demos.fingerprint}

    def frames(self, episodes: IntArray, batch_size: int, progress: Progress | None) -> Frames:
        """Runs the vision tower over every chosen frame."""
        demos = self._demos
        chosen = np.flatnonzero(np.isin(demos.episode, episodes))
        kept, number = np.unique(demos.episode[chosen], return_inverse=True)
        first = np.searchsorted(demos.episode, kept)  # episodes are contiguous and sorted in Demos
        return Frames(
            vision_keys(self._policy, demos, chosen, batch_size, progress),
            demos.proprio[chosen],
            demos.episode[chosen],
            chosen - first[number],
            demos.phase[chosen],
            self._policy.codec.encode_bins(demos.actions[chosen]),
        )


@dataclass
class OwnEpisodes:
    """The policy's own episodes, those that were solved; actions are the tokens it chose."""

    rollouts: Sequence[Rollout]
    policy: OpenVLAPolicy
    episodes: Sequence[EpisodeInfo] = field(init=False)
    note: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Raises BadInput for a policy without eyes and when no episode was solved."""
        picture_size_px(self.policy)
        n_played = len(self.rollouts)
        self.rollouts = [rollout for rollout in self.rollouts if rollout.is_solved]
        if not self.rollouts:
            raise BadInput(f"none of {n_played} rollouts was solved: there is nothing worth remembering")
        self.episodes = [EpisodeInfo(rollout.instruction, rollout.start, 0, len(rollout)) for rollout in self.rollouts]
        self.note = {"source": "rollouts", "n_played": n_played}

    @classmethod
    def read(cls, directory: Path, policy: OpenVLAPolicy) -> "OwnEpisodes":
        """All episodes of a directory that ``heisd train drafter`` has recorded.

        Raises BadArtifact for a directory or a file of another policy, LeakError outside the train split.
        """
        read_manifest(directory)
        paths = sorted(path for path in directory.glob("*.safetensors"))
        if not paths:
            raise BadInput(f"{directory} has a {MANIFEST} and no episode yet; record some: heisd train drafter")
        return cls([load(path, policy.policy_hash) for path in paths], policy)

    def frames(self, episodes: IntArray, batch_size: int, progress: Progress | None) -> Frames:  # noqa: ARG002
        """Nothing is encoded again: the patches are a part of the recorded prompt."""
        chosen = [self.rollouts[int(number)] for number in episodes]
        lengths = [len(rollout) for rollout in chosen]
        if progress is not None:
            progress(sum(lengths), sum(lengths))
        return Frames(
            np.concatenate([_recorded_keys(rollout, self.policy) for rollout in chosen]),
            np.concatenate([rollout.proprio.numpy() for rollout in chosen]),
            np.repeat(episodes, lengths),
            np.concatenate([np.arange(n) for n in lengths]),
            np.concatenate([_phases(rollout, self.policy) for rollout in chosen]),
            np.concatenate([bins_of_action_tokens(self.policy.codec, r.tokens.numpy()) for r in chosen]),
        )


@torch.inference_mode()
def vision_keys(
    policy: Encoding, demos: Demos, frames: IntArray, batch_size: int, progress: Progress | None = None
) -> FloatArray:
    """(len(frames), D) float32: ``policy.encode(observation).vision_key`` of these frames, many at a time."""
    stack, device = ImageStack(policy.config), policy.device
    keys = []
    for begin in range(0, len(frames), batch_size):
        pictures = [stack(dict(zip(demos.cameras, demos.images[i], strict=True)))
                    for i in frames[begin : begin + batch_size]]  # fmt: skip
        patches = policy.model.patches(torch.stack(pictures).to(device))
        keys.append(patches.float().mean(dim=1).numpy(force=True))
        if progress is not None:
            progress(begin + len(pictures), len(frames))
    return np.concatenate(keys).astype(np.float32)


def picture_size_px(policy: Encoding) -> int:
    """Side of the pictures the policy takes; BadInput for a blind one."""
    if policy.config.vision is None:
        raise BadInput("a blind policy has no vision key, so there is nothing to look up by; choose a seeing one")
    return policy.config.vision.image_size


def _recorded_keys(rollout: Rollout, policy: OpenVLAPolicy) -> FloatArray:
    """(T, D) float32; the prompt begins with BOS and ends with proprioception and text, the patches lie between."""
    patches = rollout.prefix[:, 1 : 1 + policy.n_patches].float()
    return np.asarray(patches.mean(dim=1).numpy())


def _phases(rollout: Rollout, policy: OpenVLAPolicy) -> IntArray:
    """(T,) kind of motion as an onlooker reads it; nobody scripted these episodes."""
    onlooker, phases = Onlooker(), []
    for proprio, tokens in zip(rollout.proprio.numpy(), rollout.tokens.numpy(), strict=True):
        phases.append(_PHASES[onlooker.read(unflatten_proprio(proprio)).phase])
        onlooker.acted(policy.codec.decode(tokens.astype(np.int64)))
    return np.asarray(phases)
