"""What a draft head learns from: prefix embeddings, states, and the policy's own chunks from zero noise.

The teacher runs once over the frames; what it said lies in one file, so that a resumed run does not ask it again.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from heisd.errors import BadInput
from heisd.files import write_atomic
from heisd.policies import proprio
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.flow.schedule import euler_times, integrate
from heisd.policies.images import ImageStack
from heisd.sim.demos import Demos
from heisd.sim.splits import require_train
from heisd.train.config import DraftHeadRecipe
from heisd.train.targets import holdout_mask
from heisd.types import IntArray

log = logging.getLogger(__name__)

FILE = "teacher.safetensors"
_BATCH = 64  # frames per pass of the teacher
_LOG_EVERY = 20  # passes
_NAMES = ("embeddings", "n_prefix", "state", "chunk", "episode", "frame")


@dataclass(frozen=True, slots=True)
class Lesson:
    """N frames and the teacher's chunks."""

    embeddings: Tensor  # (N, P, d) float16, padded on the right
    n_prefix: Tensor  # (N,) true positions
    state: Tensor  # (N, n_features)
    chunk: Tensor  # (N, H, A) normalised, from zero noise
    episode: Tensor  # (N,)
    frame: Tensor  # (N,) number among all frames of the demonstrations, rising

    def __len__(self) -> int:
        return len(self.chunk)

    def rows(self, index: IntArray, age_steps: IntArray | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings (B, P, d), which of their positions exist (B, P), states and chunks of these frames.

        Embeddings are those of the last frame of the same episode that is at least ``age_steps`` (B,) control steps
        older, or of its first one; None: the frame's own.
        """
        i = torch.from_numpy(index)
        seen = i if age_steps is None else self._older(i, torch.from_numpy(age_steps))
        n_prefix = self.n_prefix[seen]
        P = int(n_prefix.max())
        is_visible = torch.arange(P) < n_prefix[:, None]
        return self.embeddings[seen, :P].float(), is_visible, self.state[i], self.chunk[i]

    def _older(self, i: Tensor, age_steps: Tensor) -> Tensor:
        older = torch.searchsorted(self.frame, self.frame[i] - age_steps, right=True) - 1
        return torch.maximum(older, torch.searchsorted(self.episode, self.episode[i]))


def chosen_frames(demos: Demos, max_frames: int) -> IntArray:
    """At most ``max_frames`` frames, evenly spread; LeakError for demonstrations outside the train split."""
    for origin in demos.provenance:
        require_train(origin.start)
    n = len(demos)
    return np.unique(np.linspace(0, n - 1, min(max_frames, n)).round().astype(np.int64))


def teach(demos: Demos, policy: FlowPolicy, recipe: DraftHeadRecipe, out: Path) -> Lesson:
    """The lesson in ``out``, made if it is not there or is another policy's, data's or recipe's.

    Raises BadInput for a blind policy, LeakError for demonstrations outside the train split, BadArtifact for a full
    disk.
    """
    if not policy.config.cameras:
        raise BadInput("a draft head looks at the present picture; a blind policy has none")
    identity = _identity(demos, policy, recipe)
    path = out / FILE
    if _identity_in(path) == identity:
        found = load_file(path)
        return Lesson(**{name: found[name] for name in _NAMES})
    lesson = ask_teacher(demos, policy, chosen_frames(demos, recipe.max_frames), recipe.teacher_steps)
    tensors = {name: getattr(lesson, name).contiguous() for name in _NAMES}
    write_atomic(path, safetensors_bytes(tensors, metadata={"identity": identity}))
    return lesson


@torch.inference_mode()
def ask_teacher(demos: Demos, policy: FlowPolicy, frames: IntArray, n_steps: int) -> Lesson:
    """Prefix embeddings, states and zero-noise chunks of ``frames``, many at a time, in the network's training form."""
    ids = [policy.tokenizer.encode(text) for text in demos.instructions]
    n_patches = policy.max_prefix - policy.config.max_text_tokens
    P = n_patches + max(map(len, ids))
    scales, width = policy.config.proprio, policy.config.decoder.hidden_size
    state = torch.from_numpy(proprio.features(demos.proprio[frames], scales))
    embeddings = torch.zeros(len(frames), P, width, dtype=torch.float16)
    n_prefix = torch.tensor([n_patches + len(ids[e]) for e in demos.episode[frames]])
    chunks = torch.empty(len(frames), policy.horizon, policy.config.action_size)
    for number, begin in enumerate(range(0, len(frames), _BATCH)):
        rows = slice(begin, begin + _BATCH)
        x, is_visible = _prefixes(demos, policy, frames[rows], ids)
        embeddings[rows, : x.shape[1]] = x.half()
        chunks[rows] = _zero_noise_chunks(policy, x, is_visible, state[rows], n_steps)
        if number % _LOG_EVERY == 0:
            log.info("teacher: %d of %d frames", begin, len(frames))
    return Lesson(
        embeddings, n_prefix, state, chunks, torch.from_numpy(demos.episode[frames]), torch.from_numpy(frames)
    )


def _prefixes(demos: Demos, policy: FlowPolicy, frames: IntArray, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    stack = ImageStack(policy.config)
    pictures = [stack(dict(zip(demos.cameras, demos.images[i], strict=True))) for i in frames]
    prompts = [ids[e] for e in demos.episode[frames]]
    padded = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.int64)
    for row, tokens in zip(padded, prompts, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return policy.model.prefix(torch.stack(pictures), padded, torch.tensor([len(p) for p in prompts]))


def _zero_noise_chunks(
    policy: FlowPolicy, embeddings: Tensor, is_visible: Tensor, state: Tensor, n_steps: int
) -> Tensor:
    model, times = policy.model, euler_times(n_steps)
    condition = model.condition(model.prefix_keys_values(embeddings, is_visible), is_visible, state)
    start = torch.zeros(len(embeddings), 1, policy.horizon, policy.config.action_size)

    def velocity(x: Tensor, i: int) -> Tensor:
        return model.velocity(condition, x, torch.full(x.shape[:2], times[i]))

    return integrate(velocity, start, n_steps)[:, 0]


def split(lesson: Lesson, recipe: DraftHeadRecipe) -> tuple[IntArray, IntArray]:
    """Frames that train and frames that measure, by episode. Raises BadInput when none is left to train on."""
    measures = holdout_mask(lesson.episode.numpy(), recipe.holdout_every)
    train = np.flatnonzero(~measures)
    if not len(train):
        raise BadInput(f"{len(lesson)} frames leave nothing to learn from; give more demonstrations (--data)")
    return train, np.flatnonzero(measures)


def _identity(demos: Demos, policy: FlowPolicy, recipe: DraftHeadRecipe) -> str:
    parts = (_NAMES, demos.fingerprint, policy.policy_hash, recipe.teacher_steps, recipe.max_frames)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _identity_in(path: Path) -> str | None:
    """Whose lesson a file is; None for no file or one that is torn."""
    try:
        with safe_open(path, framework="pt") as file:
            identity: str | None = (file.metadata() or {}).get("identity")
            return identity
    except (SafetensorError, OSError):
        return None
