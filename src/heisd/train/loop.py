"""The loop that every training run here shares: batches by step, moving average, checkpoints, progress.

Every batch is a function of (recipe, step) alone, so a killed run that resumes from its checkpoint trains
exactly as if it had never stopped.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from heisd.errors import BadInput
from heisd.train import checkpoint
from heisd.train.config import LoopConfig

log = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=LoopConfig)


class Loop(ABC, Generic[ConfigT]):
    """One run: what learns, its moving average and its optimiser. A kind of training says what the loss is."""

    def __init__(self, config: ConfigT, learner: nn.Module, out: Path, fingerprint: str) -> None:
        """``fingerprint`` identifies the data."""
        self.config, self.learner, self.out, self.fingerprint = config, learner, out, fingerprint
        self.ema = {name: p.detach().clone() for name, p in learner.named_parameters()}
        self.optimizer = _optimizer(learner, config)
        self.step = 0
        self.origin = ""  # hash of the run whose weights this one began with

    @abstractmethod
    def next_loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of this step's batch and the scalars worth logging; all randomness from ``rng``."""

    @abstractmethod
    def holdout(self) -> dict[str, float]:
        """Mean scalars of the moving average on what is never trained on."""

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of the same recipe; BadInput when the recipe or data differ."""
        meta = checkpoint.read_meta(path)
        mine = self.identity()
        if meta["identity"] != mine:
            differing = sorted(k for k in mine if meta["identity"].get(k) != mine[k])
            raise BadInput(f"{path} was trained with another recipe or data (differs in {differing}); use a new --out")
        checkpoint.load(path, self.learner, self.ema, self.optimizer)
        self.step = int(meta["step"])

    def identity(self) -> dict[str, object]:
        """What must be equal for a resume to be the same run."""
        return {**self.config.model_dump(mode="json"), "data": self.fingerprint, "origin": self.origin}

    def save(self) -> None:
        """Write the checkpoint of the present step."""
        meta = {"step": self.step, "identity": self.identity()}
        checkpoint.save(self.out / "checkpoint.safetensors", self.learner, self.ema, self.optimizer, meta)

    def go_on(self, path: Path) -> None:
        """Continue from a checkpoint where there is one; BadInput as :meth:`resume`."""
        if path.exists():
            self.resume(path)
            log.info("continuing at step %d of %d", self.step, self.config.steps)

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the scalars worth logging."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(self.step, config)
        loss, scalars = self.next_loss(rng)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learner.parameters(), config.grad_clip)
        self.optimizer.step()
        self._update_ema()
        self.step += 1
        return scalars

    def averaged_weights(self) -> "Swapped":
        """Context in which the learner carries its moving average."""
        return Swapped(self.learner, self.ema)

    def _update_ema(self) -> None:
        # The average of the first steps would remember the random start: warm the decay up.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        parameters = [p.detach() for p in self.learner.parameters()]
        torch._foreach_lerp_(list(self.ema.values()), parameters, 1 - decay)


class Swapped:
    """Exchange a module's parameters with another set, and back on exit."""

    def __init__(self, module: nn.Module, values: dict[str, Tensor]) -> None:
        self._module, self._values = module, values

    def __enter__(self) -> None:
        self._module.eval()
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()
        self._module.train()

    def _swap(self) -> None:
        for name, p in self._module.named_parameters():
            mine = p.data
            p.data = self._values[name]
            self._values[name] = mine


def schedule(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then cosine to 2 % of the peak learning rate."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


def _optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


def fit(trainer: Loop[Any], progress: "Progress", validate: Callable[[], None] | None = None) -> None:
    """Run to the end of the recipe; Ctrl-C or a kill loses at most ``checkpoint_every`` steps.

    ``validate`` is called every ``validate_every`` steps, after the checkpoint.
    """
    config = trainer.config
    try:
        while trainer.step < config.steps:
            progress.record(trainer.step, config.steps, trainer.train_step())
            if trainer.step % config.checkpoint_every == 0:
                trainer.save()
                progress.holdout(trainer.step, trainer.holdout())
            if validate and _validates_at(trainer.step, config):
                trainer.save()
                validate()
    except KeyboardInterrupt:
        trainer.save()
        raise
    trainer.save()


def _validates_at(step: int, config: LoopConfig) -> bool:
    """Whether a validation is due on the way (the one at the end is not counted)."""
    return config.validate_every > 0 and step % config.validate_every == 0 and step < config.steps


class Progress:
    """Logs means over ``log_every`` steps with samples per second and the time left."""

    def __init__(self, config: LoopConfig) -> None:
        self._config = config
        self._rows: list[dict[str, float]] = []
        self._since = time.monotonic()

    def record(self, step: int, total: int, scalars: dict[str, float]) -> None:
        """Collect one step; log when a window is full."""
        self._rows.append(scalars)
        if len(self._rows) < self._config.log_every:
            return
        rate = len(self._rows) / (time.monotonic() - self._since)
        means = " ".join(f"{key} {np.mean([row[key] for row in self._rows]):.3f}" for key in scalars)
        left_min = (total - step) / rate / 60
        log.info(
            "step %d/%d %s | %.0f samples/s, %.0f min left",
            step + 1,
            total,
            means,
            rate * self._config.batch_size,
            left_min,
        )
        self._rows, self._since = [], time.monotonic()

    def validation(self, step: int, scores: dict[str, dict[str, Any]]) -> None:
        """Log closed-loop success by suite."""
        for suite, score in scores.items():
            low, high = score["wilson95"]
            log.info(
                "step %d validation %s: %.0f %% of %d episodes solved (95 %%: %.0f to %.0f)",
                step, suite, score["pc_success"], score["n_episodes"], low, high,
            )  # fmt: skip
        self._since = time.monotonic()

    def holdout(self, step: int, scalars: dict[str, float]) -> None:
        """Log the held-out scalars."""
        log.info("step %d held out: %s", step, " ".join(f"{k} {v:.3f}" for k, v in scalars.items()))
        self._since = time.monotonic()
