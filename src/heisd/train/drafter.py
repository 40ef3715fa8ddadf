"""Distillation of drafters from the target's own outputs: record what is missing, train, measure, write the bundle.

The loop (batches by step, moving average, checkpoints, resuming) is :mod:`heisd.train.loop`; here are the losses.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.bench.weights import require_policy, resolve_weights
from heisd.codec import GRIPPER, N_BINS
from heisd.policies.bundle import load_policy
from heisd.policies.drafter import MISSING, N_EMBEDDED, N_PAST, ParallelConfig, ParallelDrafter
from heisd.policies.drafter_bundle import save_drafter
from heisd.policies.drafter_eagle import EagleDrafter, EagleRuntime
from heisd.policies.drafter_runtime import ParallelRuntime
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import FORMAT
from heisd.policies.target import OpenVLAPolicy
from heisd.propose.eagle import Eagle
from heisd.propose.parallel import ParallelDraft
from heisd.train.augment import bin_smoothing
from heisd.train.cloning import open_run
from heisd.train.config import LoopConfig
from heisd.train.drafter_config import EagleRecipe, ParallelRecipe
from heisd.train.drafter_data import DrafterBatch, DrafterSamples
from heisd.train.drafter_replay import replay
from heisd.train.loop import Loop, Progress, fit
from heisd.train.relabel import label
from heisd.train.rollouts import SUITES, record

log = logging.getLogger(__name__)

TRIE_NODES = (8, 16, 24, 48)  # sizes of the first pass's trie that a report compares
RecipeT = TypeVar("RecipeT", bound=LoopConfig)
Scalars = dict[str, float]


class DrafterLoop(Loop[RecipeT], Generic[RecipeT]):
    """What both kinds share: batches, held-out means, the averaged drafter."""

    def __init__(self, recipe: RecipeT, drafter: nn.Module, samples: DrafterSamples, out: Path) -> None:
        super().__init__(recipe, drafter, out, samples.fingerprint)
        self.samples = samples

    def next_loss(self, rng: np.random.Generator) -> tuple[Tensor, Scalars]:
        """The loss of this step's batch."""
        index = self.samples.train_indices(self.step, self.config.batch_size, self.config.seed)
        return self.loss(self.samples.batch(index), rng)

    @torch.no_grad()
    def holdout(self) -> Scalars:
        """Mean scalars of the moving average on held-out episodes, without dropout or noise."""
        with self.averaged_weights():
            batches = map(self.samples.batch, self.samples.holdout_indices(self.config.batch_size))
            rows = [(len(batch), self.loss(batch, None)[1]) for batch in batches]
        total = sum(n for n, _ in rows)
        return {key: sum(n * row[key] for n, row in rows) / total for key in rows[0][1]} if rows else {}

    def loss(self, batch: DrafterBatch, rng: np.random.Generator | None) -> tuple[Tensor, Scalars]:
        """The loss of a batch and what is worth logging; without a generator nothing is dropped or disturbed."""
        raise NotImplementedError


class ParallelTrainer(DrafterLoop[ParallelRecipe]):
    """Cross-entropy to the target's greedy tokens."""

    def __init__(self, recipe: ParallelRecipe, samples: DrafterSamples, policy: OpenVLAPolicy, out: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.drafter = ParallelDrafter(parallel_config(recipe, policy))
        super().__init__(recipe, self.drafter, samples, out)
        self._soft = bin_smoothing(recipe.soft_bin_sigma)
        weights = torch.ones(policy.codec.length)
        weights[GRIPPER] = recipe.gripper_weight
        self._weights = weights / weights.mean()

    def loss(self, batch: DrafterBatch, rng: np.random.Generator | None) -> tuple[Tensor, Scalars]:
        """Mean over tokens."""
        past, features = self._inputs(batch, rng)
        logits = self.drafter.logits(self.drafter(batch.prefix, batch.mask, past, features))
        per_token = -(self._labels(batch) * logits.log_softmax(-1)).sum(-1)
        total = (per_token * self._weights).mean()
        hits = (logits.argmax(-1) == batch.bins).float()
        top1, chain = hits[:, :GRIPPER].mean().item(), hits.cumprod(1).sum(1).mean().item()
        return total, {"loss": total.item(), "top1": top1, "chain": chain}

    def _inputs(self, batch: DrafterBatch, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        """Embedded past and features; with a generator, of some samples withheld."""
        past, features = batch.past_bins[:, :N_EMBEDDED], batch.features
        if rng is not None:
            forgets = torch.from_numpy(rng.random(len(batch)) < self.config.past_dropout)
            past = torch.where(forgets[:, None, None], MISSING, past)
            n_past = N_PAST * (batch.bins.shape[1] + 1)  # the first features: past values and whether there are any
            about_past = torch.arange(features.shape[1]) < n_past
            features = torch.where(forgets[:, None] & about_past, 0.0, features)
        return past, features

    def _labels(self, batch: DrafterBatch) -> Tensor:
        """(B, T, 256) distributions; the gripper's is its token alone."""
        labels = self._soft[batch.bins]
        labels[:, GRIPPER] = F.one_hot(batch.bins[:, GRIPPER], N_BINS).float()
        return labels


class EagleTrainer(DrafterLoop[EagleRecipe]):
    """EAGLE's losses at the action's positions: distance to the target's state, cross-entropy to its distribution."""

    def __init__(self, recipe: EagleRecipe, samples: DrafterSamples, policy: OpenVLAPolicy, out: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.drafter = EagleDrafter(policy.config.decoder)
        super().__init__(recipe, self.drafter, samples, out)
        self._target = policy.model.language_model
        self._first = policy.codec.first_token
        self._head = self._target.lm_head.weight.detach()[self._first : self._first + N_BINS].float()

    def loss(self, batch: DrafterBatch, rng: np.random.Generator | None) -> tuple[Tensor, Scalars]:
        """Mean over the positions behind the first six tokens, which predict the other six."""
        embeddings, states, rows = self._sequence(batch)
        read = states[:, :-1]
        if rng is not None:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            uniform = torch.rand(read.shape, generator=generator) - 0.5
            read = read + uniform * self.config.noise * 512 / read.shape[1]
        predicted = self.drafter(embeddings[:, 1:], read).gather(1, rows - 1)
        true = states.gather(1, rows)
        log_probs = F.log_softmax(predicted @ self._head.t(), -1)
        distance = F.smooth_l1_loss(predicted, true)
        entropy = -((true @ self._head.t()).softmax(-1) * log_probs).sum(-1).mean()
        total = self.config.state_weight * distance + self.config.token_weight * entropy
        hits = log_probs.argmax(-1) == (N_BINS - 1 - batch.bins[:, 1:])
        scalars = {"loss": total.item(), "distance": distance.item(), "entropy": entropy.item()}
        return total, scalars | {"next_top1": hits.float().mean().item()}

    @torch.no_grad()
    def _sequence(self, batch: DrafterBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings and the target's states of prompt and tokens, (B, S, D); where the first six tokens sit."""
        n_fed = batch.bins.shape[1] - 1
        tokens = self._target.embed(self._first + N_BINS - 1 - batch.bins[:, :-1])
        rows = batch.mask.sum(1)[:, None] + torch.arange(n_fed)
        rows = rows[..., None].expand(-1, -1, tokens.shape[-1])
        embeddings = F.pad(batch.prefix, (0, 0, 0, n_fed)).scatter(1, rows, tokens.float())
        return embeddings, self._target.hidden(embeddings), rows


def parallel_config(recipe: ParallelRecipe, policy: OpenVLAPolicy) -> ParallelConfig:
    """The shape that fits a recipe and a policy."""
    return ParallelConfig(
        prefix_width=policy.config.decoder.hidden_size,
        max_prefix=policy.max_prefix,
        text_start=policy.text_start,
        has_proprio=policy.config.proprio is not None,
        n_tokens=policy.codec.length,
        width=recipe.width,
        n_heads=recipe.n_heads,
        n_blocks=recipe.n_blocks,
        inner=recipe.inner,
    )


def run(
    recipe: ParallelRecipe | EagleRecipe,
    weights: str,
    rollouts: Path,
    out: Path,
    *,
    episodes: int,
    suites: Sequence[str] = SUITES,
    data: Sequence[Path] = (),
    workers: int = 2,
    command: str = "",
    resume: bool = False,
) -> dict[str, Any]:
    """Record what is missing, train (or continue) and write the bundle ``out/drafter``; returns what it scores.

    ``data`` are demonstrations whose frames the policy labels too; their files go to ``rollouts/labelled``.
    Raises BadInput for a flow-matching policy, when ``out`` holds another run or ``rollouts`` another policy's,
    UnknownName or BadArtifact for bad weights, LeakError for starts outside the train split.
    """
    directory = resolve_weights(weights, suites[0] if suites else "")
    instead = f"train a draft head: heisd train draft-head --data DIR --weights {directory} --out DIR"
    require_policy(directory, FORMAT, "a drafter of tokens", instead)
    file = open_run(out, resume=resume)
    paths = record(weights, rollouts, episodes, suites=suites, workers=workers)
    torch.set_num_threads(recipe.threads)
    policy = load_policy(directory)
    labelled = label(data, weights, suites[0] if suites else "", rollouts / "labelled") if data else []
    samples = DrafterSamples.load(paths, policy, labelled)
    trainer = build_trainer(recipe, samples, policy, out)
    trainer.go_on(file)
    fit(trainer, Progress(recipe))
    scores = measure(trainer, policy)
    learned = {"fingerprint": samples.fingerprint, "n_episodes": len(paths), "n_labelled_episodes": len(labelled)}
    learned |= {"n_steps": len(samples.bins), "suites": list(suites), "recipe": recipe.model_dump(mode="json")}
    with trainer.averaged_weights():
        save_drafter(
            out / "drafter",
            trainer.drafter,
            policy=describe_weights(directory),
            command=command,
            seed=recipe.seed,
            data=learned,
            scores=scores,
        )
    return {"drafter": str(out / "drafter"), "scores": scores}


def build_trainer(
    recipe: ParallelRecipe | EagleRecipe, samples: DrafterSamples, policy: OpenVLAPolicy, out: Path
) -> ParallelTrainer | EagleTrainer:
    """The trainer of a recipe's kind."""
    if isinstance(recipe, ParallelRecipe):
        return ParallelTrainer(recipe, samples, policy, out)
    return EagleTrainer(recipe, samples, policy, out)


def measure(trainer: ParallelTrainer | EagleTrainer, policy: OpenVLAPolicy) -> dict[str, Any]:
    """Figures of the averaged drafter on held-out episodes, in our count: the target's own token is never accepted."""
    scores: dict[str, Any] = {"step": trainer.step, "held_out": trainer.holdout()}
    held_out = trainer.samples.held_out()
    with trainer.averaged_weights():
        if isinstance(trainer, EagleTrainer):
            eagle = Eagle(policy.codec, drafter=EagleRuntime(trainer.drafter, policy))
            shown = replay(eagle, held_out, policy, max_nodes=50, needs_prompt_states=True)
            return scores | {"replay": shown.as_dict()}
        runtime = ParallelRuntime(trainer.drafter)
        scores["agreement"] = agreement(trainer)
    scores["replay"] = replay(ParallelDraft(policy.codec, drafter=runtime), held_out, policy).as_dict()
    scores["accepted_first_by_trie_nodes"] = {}
    for n in TRIE_NODES:
        wide = ParallelDraft(policy.codec, drafter=runtime, min_probability=1e-6, max_nodes=n, max_later_nodes=0)
        found = replay(wide, held_out, policy, max_steps=500)
        scores["accepted_first_by_trie_nodes"][str(n)] = round(found.accepted_first, 4)
    return scores


@torch.no_grad()
def agreement(trainer: ParallelTrainer) -> dict[str, list[float]]:
    """Share of held-out steps whose token is the first guess, or among the first four: one figure a dimension."""
    hits = []
    for index in trainer.samples.holdout_indices(trainer.config.batch_size):
        batch = trainer.samples.batch(index)
        states = trainer.drafter(batch.prefix, batch.mask, batch.past_bins[:, :N_EMBEDDED], batch.features)
        hits.append(trainer.drafter.logits(states).topk(4, -1).indices == batch.bins[..., None])
    found = torch.cat(hits).float()
    mean = {"top1": found[..., 0].mean(0), "top4": found.any(-1).float().mean(0)}
    return {key: value.round(decimals=4).tolist() for key, value in mean.items()}
