"""Behaviour cloning of the bundled policy: teacher-forced action tokens, soft bins, hard greedy tokens at run time.

Every batch is a function of (recipe, step) alone, so a killed run that resumes from its checkpoint trains
exactly as if it had never stopped.
"""

import copy
import logging
import math
import time
from collections import deque
from collections.abc import Callable
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


class Trainer:
    """One run: model, moving average, optimiser and the samples they learn from."""

    def __init__(self, config: TrainConfig, samples: Samples, out: Path) -> None:
        self.config, self.samples, self.out = config, samples, out
        torch.manual_seed(config.seed)
        self.model = samples.build_model()
        self.event_head = EventHead(config.hidden_size)
        self.learner = nn.ModuleDict({"policy": self.model, "event": self.event_head})
        self.ema = {name: p.detach().clone() for name, p in self.learner.named_parameters()}
        self.optimizer = _optimizer(self.learner, config)
        self.soft = bin_smoothing(config.soft_bin_sigma)
        self.head_kernel = bin_smoothing(config.head_smoothing_bins)
        self.step = 0
        self.origin = ""  # hash of the run whose weights this one began with
        self.history: deque[dict[str, float]] = deque(maxlen=20)

    def begin_with(self, path: Path) -> None:
        """Start from the averaged weights of another run's checkpoint; its optimiser is not continued."""
        checkpoint.load_average(path, self.learner)
        self.ema = {name: p.detach().clone() for name, p in self.learner.named_parameters()}
        self.origin = sha256_of(path)

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
        return {**self.config.model_dump(mode="json"), "data": self.samples.fingerprint, "origin": self.origin}

    def save(self) -> None:
        """Write the checkpoint of the present step."""
        meta = {"step": self.step, "identity": self.identity()}
        checkpoint.save(self.out / "checkpoint.safetensors", self.learner, self.ema, self.optimizer, meta)

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the scalars worth logging."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        batch = self.samples.train_batch(self.step, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(self.step, config)
        loss, scalars = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learner.parameters(), config.grad_clip)
        self.optimizer.step()
        self._update_ema()
        self.step += 1
        return scalars

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

    def averaged_weights(self) -> "_Swapped":
        """Context in which the learner carries its moving average."""
        return _Swapped(self.learner, self.ema)

    def _update_ema(self) -> None:
        # The average of the first steps would remember the random start: warm the decay up.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        parameters = [p.detach() for p in self.learner.parameters()]
        torch._foreach_lerp_(list(self.ema.values()), parameters, 1 - decay)


class _Swapped:
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


def schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine to 2 % of the peak learning rate."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


def fit(trainer: Trainer, progress: "Progress", validate: Callable[[], None] | None = None) -> None:
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


def _validates_at(step: int, config: TrainConfig) -> bool:
    """Whether a validation is due on the way (the one at the end is not counted)."""
    return config.validate_every > 0 and step % config.validate_every == 0 and step < config.steps


class Progress:
    """Logs means over ``log_every`` steps with samples per second and the time left."""

    def __init__(self, config: TrainConfig) -> None:
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
