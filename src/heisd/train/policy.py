"""Behaviour cloning of the bundled policy: teacher-forced action tokens, soft bins, hard greedy tokens at run time."""

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.config import EvalConfig
from heisd.errors import BadInput
from heisd.policies.bundle import load_policy, save_policy
from heisd.policies.manifest import sha256_of
from heisd.policies.openvla import OpenVLA
from heisd.sim.splits import Split
from heisd.train import checkpoint
from heisd.train.augment import bin_smoothing
from heisd.train.config import TrainConfig
from heisd.train.data import Batch, Samples
from heisd.train.loop import Loop, Progress, fit, schedule

__all__ = ["Progress", "Trainer", "export", "fit", "run", "schedule", "validate"]

log = logging.getLogger(__name__)

EVENT_SCALE_M = 0.1  # unit of the auxiliary target


class EventHead(nn.Module):
    """Auxiliary head, training only: from the last prompt position to the place of the next gripper event."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, 3)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) -> (B, 3) offset in units of EVENT_SCALE_M."""
        return self.out(hidden)  # type: ignore[no-any-return]


class Trainer(Loop[TrainConfig]):
    """One run: model, moving average, optimiser and the samples they learn from."""

    def __init__(self, config: TrainConfig, samples: Samples, out: Path) -> None:
        self.samples = samples
        torch.manual_seed(config.seed)
        self.model = samples.build_model()
        self.event_head = EventHead(config.hidden_size)
        learner = nn.ModuleDict({"policy": self.model, "event": self.event_head})
        super().__init__(config, learner, out, samples.fingerprint)
        self.soft = bin_smoothing(config.soft_bin_sigma)
        self.head_kernel = bin_smoothing(config.head_smoothing_bins)

    def begin_with(self, path: Path) -> None:
        """Start from the averaged weights of another run's checkpoint; its optimiser is not continued."""
        checkpoint.load_average(path, self.learner)
        self.ema = {name: p.detach().clone() for name, p in self.learner.named_parameters()}
        self.origin = sha256_of(path)

    def next_loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of this step's batch."""
        return self.loss(self.samples.train_batch(self.step, rng))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy on six dimensions, hard on the gripper, plus the auxiliary event loss."""
        hidden = self.model.action_hidden(batch.images, batch.input_ids, batch.n_text, batch.proprio, batch.fed_tokens)
        # The first state has read the prompt and no action token yet.
        event_gap = self.event_head(hidden[:, 0]) - batch.event_offset_m / EVENT_SCALE_M
        log_p = F.log_softmax(F.linear(hidden, self.head_rows(self.model)), dim=-1)
        motion = -(self.soft[batch.bins[:, :6]] * log_p[:, :6]).sum(-1).mean()
        gripper = F.nll_loss(log_p[:, 6], batch.bins[:, 6])
        event = F.smooth_l1_loss(event_gap, torch.zeros_like(event_gap))
        total = (6 * motion + gripper) / 7 + self.config.aux_weight * event
        greedy = log_p.argmax(-1)
        gap = (greedy - batch.bins).abs().float()
        return total, {
            "loss": total.item(),
            "bin_gap": gap[:, :6].mean().item(),
            "gripper_error": (gap[:, 6] > 64).float().mean().item(),
            "event_cm": 100 * EVENT_SCALE_M * event_gap.detach().abs().mean().item(),
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


def run(
    data: list[Path],
    out: Path,
    config: TrainConfig,
    *,
    command: str = "",
    resume: bool = False,
    origin: Path | None = None,
) -> Path:
    """Train (or continue) and write the bundle ``out/policy``; returns its directory.

    ``origin`` is the directory of a finished run whose weights this one starts with.

    Raises BadInput when ``out`` holds another run or ``origin`` another kind of policy, UnknownName or BadArtifact when
    ``origin`` holds none, DatasetError and LeakError for the data.
    """
    torch.set_num_threads(config.threads)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "checkpoint.safetensors"
    if file.exists() and not resume:
        raise BadInput(f"{out} already holds a run; add --resume to continue it, or choose another --out")
    base = None if origin is None else load_policy(origin / "policy")
    if base is not None and config.blind is bool(base.config.cameras):
        raise BadInput(
            f"{origin} holds a {'seeing' if config.blind else 'blind'} policy; the recipe asks for the other kind"
        )
    trainer = Trainer(config, Samples.load(data, config, base), out)
    if origin is not None:
        trainer.begin_with(origin / "checkpoint.safetensors")
    if file.exists():
        trainer.resume(file)
        log.info("continuing at step %d of %d", trainer.step, config.steps)
    progress = Progress(config)
    fit(trainer, progress, lambda: progress.validation(trainer.step, validate(trainer, command)))
    scores = validate(trainer, command)
    progress.validation(trainer.step, scores)
    return export(trainer, out / "policy", command, scores)


def validate(trainer: Trainer, command: str) -> dict[str, dict[str, Any]]:
    """Closed-loop success of the moving average on the validation split, by suite; resumes like any evaluation."""
    from heisd.bench.evaluate import evaluate
    from heisd.bench.libero_world import libero_setting

    n = trainer.config.validate_episodes
    home = trainer.out / "validation" / f"step{trainer.step:06d}"
    policy = export(trainer, home / "policy", command) if n else home
    scores = {}
    for suite in trainer.samples.suites if n else ():
        config = EvalConfig(
            suite=suite, methods=("ar",), split=Split.VALIDATION, episodes=n, weights=str(policy), workers=2
        )  # fmt: skip
        block = evaluate(config, home / suite, libero_setting(config))["methods"]["ar"]
        scores[suite] = {key: block[key] for key in ("pc_success", "wilson95", "n_episodes")}
    return scores


def export(trainer: Trainer, directory: Path, command: str, validation: dict[str, Any] | None = None) -> Path:
    """Write the moving average as a bundle, with how it was made."""
    demos = trainer.samples.demos
    data: dict[str, Any] = {"origin": trainer.origin} if trainer.origin else {}
    data |= {"fingerprint": demos.fingerprint, "n_episodes": len(demos.instructions), "n_frames": len(demos)}
    scores = {"step": trainer.step, "held_out_demonstrations": trainer.holdout(), "validation": validation or {}}
    return save_policy(
        directory,
        trainer.averaged_model(),
        trainer.samples.tokenizer,
        trainer.samples.codec,
        store_dtype="float16",  # half the bytes in the repository; computed with in float32
        command=command,
        seed=trainer.config.seed,
        data=data | {"recipe": trainer.config.model_dump(mode="json")},
        scores=scores,
    )
