"""``heisd train draft-head``: distil FLASH's draft head from a flow-matching policy's zero-noise chunks.

Loss: smooth L1 over all numbers of an action; the first m actions weigh 0.9^i and those behind them 0.1, normalised,
with m drawn anew for every step (FLASH's sampled prefixes: a draft is worth what its leading actions are). Half of the
samples show pictures of some frames earlier with the state of now, unlike FLASH's: a skip may then go without a look.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from heisd.bench.weights import require_policy
from heisd.codec import GRIPPER
from heisd.policies.bundle import find_policy
from heisd.policies.config import ConvTowerConfig
from heisd.policies.drafter_bundle import save_drafter
from heisd.policies.flow.bundle import load_flow
from heisd.policies.flow.draft_head import DraftHead, DraftHeadConfig
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import FLOW_FORMAT
from heisd.sim.demos import Demos, load_demos
from heisd.train.cloning import open_run
from heisd.train.config import DraftHeadRecipe
from heisd.train.draft_head_data import Lesson, split, teach
from heisd.train.loop import Loop, Progress, fit
from heisd.types import IntArray

log = logging.getLogger(__name__)

MAX_HOLDOUT_FRAMES = 1_024
OLDER = ("", "_1_round", "_2_rounds")  # how much older the pictures are that the scalars of a hold-out go by
NEAR = 0.15  # FLASH's tolerance: share of executable actions that are within it of the teacher


class DraftHeadTrainer(Loop[DraftHeadRecipe]):
    """One run."""

    def __init__(
        self, recipe: DraftHeadRecipe, lesson: Lesson, policy: FlowPolicy, out: Path, fingerprint: str
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.head = DraftHead(DraftHeadConfig.of(policy.config))
        self.head.begin_as(policy.model)
        super().__init__(recipe, self.head, out, f"{fingerprint} {policy.policy_hash}")
        self.lesson, self._executed = lesson, policy.config.sampling.executed
        self._train, self._measure = split(lesson, recipe)

    def next_loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of this step's batch."""
        size = min(self.config.batch_size, len(self._train))
        epoch, position = divmod(self.step, len(self._train) // size)
        order = np.random.default_rng([self.config.seed, 1, epoch]).permutation(self._train)
        index = np.sort(order[position * size : (position + 1) * size])
        m = int(rng.integers(1, min(self.config.max_prefix, self.head.config.horizon) + 1))
        is_older = rng.random(len(index)) < self.config.older_share
        loss, scalars = self.loss(index, m, is_older * rng.integers(1, self.config.max_age_steps + 1, len(index)))
        return loss, scalars

    def loss(self, index: IntArray, m: int, age_steps: IntArray) -> tuple[Tensor, dict[str, float]]:
        """Of these frames, with the first ``m`` actions weighing most, by pictures ``age_steps`` (B,) older."""
        embeddings, is_visible, state, wanted = self.lesson.rows(index, age_steps)
        made = self.head(embeddings, is_visible, state)
        weights = prefix_weights(wanted.shape[1], m, self.config.decay, self.config.tail_weight)
        per_action = F.smooth_l1_loss(made, wanted, reduction="none").mean(-1)
        total = (per_action * weights).sum(-1).mean()
        gap = (made - wanted)[..., :GRIPPER].detach().square().mean(-1).sqrt()[:, : self._executed]
        near = (gap <= NEAR).float()
        return total, {
            "loss": total.item(),
            "motion_rms": gap.mean().item(),
            "near": near.mean().item(),
            "leading": near.cumprod(1).sum(1).mean().item(),  # actions before the first that is too far
        }

    @torch.no_grad()
    def holdout(self) -> dict[str, float]:
        """Mean scalars of the moving average on held-out episodes; executable actions weigh as while training.

        Those behind ``_1_round`` and ``_2_rounds`` are by pictures so many rounds of executed actions older.
        """
        with self.averaged_weights():
            found = [self._measured(age * self._executed) for age in range(len(OLDER))]
        return {f"{key}{behind}": value for behind, row in zip(OLDER, found, strict=True) for key, value in row.items()}

    def _measured(self, age_steps: int) -> dict[str, float]:
        frames = self._measure[:: max(1, len(self._measure) // MAX_HOLDOUT_FRAMES)]
        batches = [frames[i : i + self.config.batch_size] for i in range(0, len(frames), self.config.batch_size)]
        rows = [(len(b), self.loss(b, self._executed, np.full(len(b), age_steps))[1]) for b in batches]
        total = sum(n for n, _ in rows)
        return {key: sum(n * row[key] for n, row in rows) / total for key in rows[0][1]} if rows else {}


def prefix_weights(horizon: int, m: int, decay: float, tail: float) -> Tensor:
    """(H,) weights that sum to one: ``decay**i`` for the first ``m`` actions, ``tail`` behind them."""
    i = torch.arange(horizon)
    weights = torch.where(i < m, decay ** i.float(), torch.tensor(tail))
    return weights / weights.sum()


def run(
    data: list[Path], weights: str, out: Path, recipe: DraftHeadRecipe, *, command: str = "", resume: bool = False
) -> dict[str, Any]:
    """Ask the teacher, train (or continue) and write the bundle ``out/drafter``; returns what it scores.

    Raises BadInput when ``out`` holds another run or the policy is blind or decodes tokens, UnknownName or BadArtifact
    for bad weights, DatasetError and LeakError for the data.
    """
    torch.set_num_threads(recipe.threads)
    directory = find_policy(weights)
    instead = f"train a drafter: heisd train drafter --weights {directory} --rollouts DIR --out DIR"
    require_policy(directory, FLOW_FORMAT, "a draft head", instead)
    policy = load_flow(directory)
    return distil(load_demos(data, _picture_size_px(policy)), policy, directory, out, recipe, command, resume=resume)


def distil(
    demos: Demos, policy: FlowPolicy, directory: Path, out: Path, recipe: DraftHeadRecipe, command: str, *, resume: bool
) -> dict[str, Any]:
    """The same with everything loaded."""
    file = open_run(out, resume=resume)
    lesson = teach(demos, policy, recipe, out)
    trainer = DraftHeadTrainer(recipe, lesson, policy, out, demos.fingerprint)
    trainer.go_on(file)
    fit(trainer, Progress(recipe))
    scores = {"step": trainer.step, "held_out": trainer.holdout()}
    data = {"fingerprint": demos.fingerprint, "n_frames": len(lesson), "recipe": recipe.model_dump(mode="json")}
    with trainer.averaged_weights():
        save_drafter(
            out / "drafter",
            trainer.head,
            policy=describe_weights(directory),
            command=command,
            seed=recipe.seed,
            data=data,
            scores=scores,
        )
    return {"drafter": str(out / "drafter"), "scores": scores}


def _picture_size_px(policy: FlowPolicy) -> int:
    return ConvTowerConfig().image_size if policy.config.vision is None else policy.config.vision.image_size
