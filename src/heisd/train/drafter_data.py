"""Recorded rollouts as training samples of drafters. A batch depends on (seed, step) alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heisd.codec import N_BINS, ActionCodec
from heisd.errors import BadArtifact, BadInput
from heisd.policies.drafter import MISSING, N_PAST, motion_features
from heisd.policies.target import OpenVLAPolicy
from heisd.train.rollouts import Rollout, is_held_out, load
from heisd.types import FloatArray, IntArray

MAX_HOLDOUT_STEPS = 512  # measured while training


@dataclass(frozen=True, slots=True)
class DrafterBatch:
    """B control steps."""

    prefix: Tensor  # (B, P, D) float32, padded on the right with zeros
    mask: Tensor  # (B, P) True where a position exists
    past_bins: Tensor  # (B, N_PAST, T) newest first, MISSING where there was none
    features: Tensor  # (B, n_features)
    bins: Tensor  # (B, T) the target's greedy tokens as bins 0-255

    def __len__(self) -> int:
        return len(self.bins)


class DrafterSamples:
    """All control steps of all rollouts; knows which episodes only measure."""

    def __init__(self, rollouts: Sequence[Rollout], is_measuring: Sequence[bool], policy: OpenVLAPolicy) -> None:
        """Raises BadInput when no episode is left to learn from, BadArtifact when a prompt is not the policy's."""
        if not rollouts or all(is_measuring):
            raise BadInput(f"{len(rollouts)} episodes leave nothing to learn from; record more (--episodes)")
        self.rollouts, self.is_measuring = list(rollouts), list(is_measuring)
        lengths = [len(rollout) for rollout in rollouts]
        n_prefix = [rollout.prefix.shape[1] for rollout in rollouts]
        width = policy.config.decoder.hidden_size
        if wrong := [
            r.start.key for r in rollouts if r.prefix.shape[2] != width or r.prefix.shape[1] > policy.max_prefix
        ]:
            raise BadArtifact(f"{wrong[0]} was recorded with prompts of another policy; delete the rollouts")
        self.n_prefix = torch.from_numpy(np.repeat(n_prefix, lengths))
        self.prefix = torch.zeros(sum(lengths), max(n_prefix), width, dtype=torch.float16)
        begin = 0
        for rollout in rollouts:
            self.prefix[begin : begin + len(rollout), : rollout.prefix.shape[1]] = rollout.prefix
            begin += len(rollout)
        bins = [bins_of(rollout, policy.codec) for rollout in rollouts]
        past = [past_of(bins_of(rollout, policy.codec, executed=True)) for rollout in rollouts]
        self.bins, self.past_bins = torch.from_numpy(np.concatenate(bins)), torch.from_numpy(np.concatenate(past))
        self.features = torch.from_numpy(np.concatenate(list(map(_features, rollouts, past))))
        measures = np.repeat(np.asarray(is_measuring), lengths)
        self._train, self._holdout = np.flatnonzero(~measures), np.flatnonzero(measures)

    @classmethod
    def load(cls, paths: Sequence[Path], policy: OpenVLAPolicy, labelled: Sequence[Path] = ()) -> "DrafterSamples":
        """Read recorded episodes, in the order of their plan, and labelled ones, which only teach.

        Raises BadArtifact and LeakError as :func:`rollouts.load`.
        """
        rollouts = [load(path, policy.policy_hash) for path in (*paths, *labelled)]
        return cls(rollouts, [i < len(paths) and is_held_out(i) for i in range(len(rollouts))], policy)

    @property
    def fingerprint(self) -> str:
        """Identity of the data: starts and tokens of every episode, in order."""
        digest = hashlib.sha256()
        for rollout, is_measuring in zip(self.rollouts, self.is_measuring, strict=True):
            digest.update(f"{rollout.start.key} {is_measuring}\n".encode() + rollout.tokens.numpy().tobytes())
        return digest.hexdigest()

    def held_out(self) -> list[Rollout]:
        """Episodes that only measure."""
        return [r for r, is_measuring in zip(self.rollouts, self.is_measuring, strict=True) if is_measuring]

    def train_indices(self, step: int, batch_size: int, seed: int) -> IntArray:
        """Control steps of the ``step``-th batch: the next slice of this epoch's permutation."""
        size = min(batch_size, len(self._train))
        epoch, position = divmod(step, len(self._train) // size)
        order = np.random.default_rng([seed, 1, epoch]).permutation(self._train)
        return np.sort(order[position * size : (position + 1) * size])

    def holdout_indices(self, batch_size: int) -> list[IntArray]:
        """Batches of held-out control steps, evenly spread, at most about ``MAX_HOLDOUT_STEPS`` in all."""
        steps = self._holdout[:: max(1, len(self._holdout) // MAX_HOLDOUT_STEPS)]
        return [steps[begin : begin + batch_size] for begin in range(0, len(steps), batch_size)]

    def batch(self, index: IntArray) -> DrafterBatch:
        """These control steps."""
        i = torch.from_numpy(index)
        n_prefix = self.n_prefix[i]
        P = int(n_prefix.max())
        mask = torch.arange(P) < n_prefix[:, None]
        return DrafterBatch(self.prefix[i, :P].float(), mask, self.past_bins[i], self.features[i], self.bins[i])


def bins_of(rollout: Rollout, codec: ActionCodec, *, executed: bool = False) -> IntArray:
    """(T, 7) bins 0-255 of an episode's greedy (or executed) tokens; BadArtifact for a token that is no action."""
    tokens = rollout.executed if executed and rollout.executed is not None else rollout.tokens
    bins = codec.vocab_size - 1 - tokens.numpy().astype(np.int64)
    if bins.shape[1:] != (codec.length,) or ((bins < 0) | (bins >= N_BINS)).any():
        raise BadArtifact(f"{rollout.start.key} holds tokens that are no actions of this policy; delete its file")
    return bins


def past_of(bins: IntArray) -> IntArray:
    """(T, N_PAST, 7) bins executed before each of (T, 7) steps of an episode, newest first."""
    past = np.full((len(bins), N_PAST, bins.shape[1]), MISSING, dtype=np.int64)
    for ago in range(1, min(N_PAST, len(bins) - 1) + 1):
        past[ago:, ago - 1] = bins[:-ago]
    return past


def _features(rollout: Rollout, past: IntArray) -> FloatArray:
    now = rollout.proprio.numpy()
    return motion_features(past, now, np.concatenate([now[:1], now[:-1]]))
