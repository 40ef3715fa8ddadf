"""Behaviour cloning of the bundled token policy: teacher-forced tokens, soft bins, hard greedy tokens at run time."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from heisd.policies.bundle import load_policy, save_policy
from heisd.policies.manifest import FORMAT
from heisd.policies.openvla import OpenVLA
from heisd.train.augment import bin_smoothing
from heisd.train.cloning import CloningTrainer, open_origin, run_to_end
from heisd.train.config import TrainConfig
from heisd.train.data import Batch, Samples


class Trainer(CloningTrainer[TrainConfig]):
    """One run: model, moving average, optimiser and the samples they learn from."""

    method = "ar"

    def __init__(self, config: TrainConfig, samples: Samples, out: Path) -> None:
        self.samples = samples
        torch.manual_seed(config.seed)
        self.model = samples.build_model()
        super().__init__(config, samples, self.model, config.hidden_size, out)
        self.soft = bin_smoothing(config.soft_bin_sigma)
        self.head_kernel = bin_smoothing(config.head_smoothing_bins)

    def next_loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of this step's batch."""
        return self.loss(self.samples.train_batch(self.step, rng))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy on six dimensions, hard on the gripper, plus the auxiliary event loss."""
        hidden = self.model.action_hidden(batch.images, batch.input_ids, batch.n_text, batch.proprio, batch.fed_tokens)
        # The first state has read the prompt and no action token yet.
        event, event_cm = self.event_head.loss(hidden[:, 0], batch.event_offset_m)
        log_p = F.log_softmax(F.linear(hidden, self.head_rows(self.model)), dim=-1)
        motion = -(self.soft[batch.bins[:, :6]] * log_p[:, :6]).sum(-1).mean()
        gripper = F.nll_loss(log_p[:, 6], batch.bins[:, 6])
        total = (6 * motion + gripper) / 7 + self.config.aux_weight * event
        greedy = log_p.argmax(-1)
        gap = (greedy - batch.bins).abs().float()
        return total, {
            "loss": total.item(),
            "bin_gap": gap[:, :6].mean().item(),
            "gripper_error": (gap[:, 6] > 64).float().mean().item(),
            "event_cm": event_cm,
        }

    def head_rows(self, model: OpenVLA) -> Tensor:
        """(256, d) rows of the head in bin order, averaged over neighbouring bins.

        Bins are ordered, a plain head does not know it: its 256 free rows leave ripples on a broad distribution, and
        greedy decoding jumps between their tops and sticks to them. Exported weights have the average baked in.
        """
        return self.head_kernel @ model.action_head_rows()

    def averaged_model(self) -> OpenVLA:
        """A copy of the policy as it is to be run: moving average, smooth head."""
        with self.averaged_weights(), torch.no_grad():
            model = copy.deepcopy(self.model)  # save_policy seals the head in place; training may go on
            model.set_action_head_rows(self.head_rows(model))
        return model

    @torch.no_grad()
    def holdout(self) -> dict[str, float]:
        """Mean scalars of the moving average on held-out training episodes (never trained on)."""
        with self.averaged_weights():
            rows = [self.loss(batch)[1] for batch in self.samples.holdout_batches()]
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}

    def export(self, directory: Path, command: str, validation: dict[str, Any] | None = None) -> Path:
        """Write the moving average as a bundle, with how it was made."""
        return save_policy(
            directory,
            self.averaged_model(),
            self.samples.tokenizer,
            self.samples.codec,
            store_dtype="float16",  # half the bytes in the repository; computed with in float32
            command=command,
            seed=self.config.seed,
            data=self.story(),
            scores=self.scores(validation),
        )


def run(
    data: list[Path],
    out: Path,
    config: TrainConfig,
    *,
    command: str = "",
    resume: bool = False,
    origin: str | None = None,
) -> Path:
    """Train (or continue) and write the bundle ``out/policy``; returns its directory.

    ``origin`` is the directory of a finished run, or the name or directory of a policy, whose weights this one starts
    with (a policy's head has been smoothed once already).

    Raises BadInput when ``out`` holds another run or ``origin`` another kind of policy, UnknownName or BadArtifact when
    ``origin`` holds none, DatasetError and LeakError for the data.
    """
    instead = "go on with it by heisd train flow"
    found = open_origin(origin, load_policy, FORMAT, instead, is_blind=config.blind)
    base = None if found is None else found.base
    torch.set_num_threads(config.threads)

    def make() -> Trainer:
        return Trainer(config, Samples.load(data, config, base), out)

    return run_to_end(make, out, origin=found, resume=resume, command=command)
