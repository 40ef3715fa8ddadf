"""Behaviour cloning, whatever kind of policy learns: validation in the closed loop, export, a run from start to end."""

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.bench.weights import require_policy
from heisd.config import EvalConfig
from heisd.errors import BadInput
from heisd.policies.bundle import find_policy
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import sha256_of
from heisd.policies.target import OpenVLAPolicy
from heisd.sim.splits import Split
from heisd.train import checkpoint
from heisd.train.config import CloningConfig
from heisd.train.data import Frames
from heisd.train.loop import Loop, Progress, fit

log = logging.getLogger(__name__)

EVENT_SCALE_M = 0.1  # unit of the auxiliary target
CHECKPOINT = "checkpoint.safetensors"
RecipeT = TypeVar("RecipeT", bound=CloningConfig)
PolicyT = TypeVar("PolicyT", OpenVLAPolicy, FlowPolicy)


class EventHead(nn.Module):
    """Auxiliary head, training only: from what a policy made of an observation to the next gripper event's place."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, 3)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) -> (B, 3) offset in units of EVENT_SCALE_M."""
        return self.out(hidden)  # type: ignore[no-any-return]

    def loss(self, hidden: Tensor, offset_m: Tensor) -> tuple[Tensor, float]:
        """Smooth L1 distance to (B, 3) offsets [m], and the mean absolute error in centimetres."""
        gap = self(hidden) - offset_m / EVENT_SCALE_M
        return F.smooth_l1_loss(gap, torch.zeros_like(gap)), 100 * EVENT_SCALE_M * gap.detach().abs().mean().item()


class CloningTrainer(Loop[RecipeT], Generic[RecipeT]):
    """One run: policy, auxiliary head, moving average, optimiser, and the frames they learn from."""

    method: ClassVar[str]  # of the presets: what validation plays

    def __init__(self, config: RecipeT, samples: Frames[RecipeT], model: nn.Module, width: int, out: Path) -> None:
        """``width`` of the state that the auxiliary head reads."""
        self.frames = samples
        self.event_head = EventHead(width)
        super().__init__(config, nn.ModuleDict({"policy": model, "event": self.event_head}), out, samples.fingerprint)

    def begin_with(self, path: Path) -> None:
        """Start from the averaged weights of another run's checkpoint; its optimiser is not continued."""
        checkpoint.load_average(path, self.learner)
        self.begin_here(sha256_of(path))

    def begin_as(self, model: nn.Module, origin: str) -> None:
        """Start from the weights of a policy of this shape; the auxiliary head, which no policy has, starts afresh."""
        self.learner.get_submodule("policy").load_state_dict(model.state_dict())
        self.begin_here(origin)

    def begin_here(self, origin: str) -> None:
        """Take the present weights, which have come from ``origin``, as the first."""
        self.ema = {name: p.detach().clone() for name, p in self.learner.named_parameters()}
        self.origin = origin

    @abstractmethod
    def export(self, directory: Path, command: str, validation: dict[str, Any] | None = None) -> Path:
        """Write the moving average as a bundle, with how it was made; returns its directory."""

    def story(self) -> dict[str, Any]:
        """``data`` of the manifest."""
        demos = self.frames.demos
        data: dict[str, Any] = {"origin": self.origin} if self.origin else {}
        data |= {"fingerprint": demos.fingerprint, "n_episodes": len(demos.instructions), "n_frames": len(demos)}
        return data | {"recipe": self.config.model_dump(mode="json")}

    def scores(self, validation: dict[str, Any] | None) -> dict[str, Any]:
        """``scores`` of the manifest."""
        return {"step": self.step, "held_out_demonstrations": self.holdout(), "validation": validation or {}}


@dataclass(frozen=True, slots=True)
class Origin(Generic[PolicyT]):
    """What ``--from`` names: a finished run, or a policy by name or directory."""

    base: PolicyT
    sha256: str  # of its weights
    checkpoint: Path | None  # of the run; None: the policy's weights are what there is


def open_origin(
    name: str | None, load: Callable[[Path], PolicyT], format_name: str, instead: str, *, is_blind: bool
) -> Origin[PolicyT] | None:
    """Load the run or policy called ``name``, of ``format_name``; None where none is named.

    Raises BadInput for another kind of policy (``instead`` says what to do with it), or one that sees where the recipe
    is blind or the reverse; UnknownName or BadArtifact where there is none.
    """
    if name is None:
        return None
    run = Path(name)
    is_run = (run / "policy").exists()
    directory = find_policy(run / "policy" if is_run else name)
    require_policy(directory, format_name, "--from", instead)
    base = load(directory)
    if is_blind is bool(base.config.cameras):
        found = "seeing" if is_blind else "blind"
        raise BadInput(f"{name} holds a {found} policy; the recipe asks for the other kind")
    return Origin(base, describe_weights(directory)["sha256"], run / CHECKPOINT if is_run else None)


def open_run(out: Path, *, resume: bool) -> Path:
    """The checkpoint's place in ``out``, which is made; BadInput when a run is there and is not to be resumed."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / CHECKPOINT
    if file.exists() and not resume:
        raise BadInput(f"{out} already holds a run; add --resume to continue it, or choose another --out")
    return file


def run_to_end(
    make: Callable[[], CloningTrainer[Any]],
    out: Path,
    *,
    origin: Origin[Any] | None,
    resume: bool,
    command: str,
) -> Path:
    """Make the trainer, train (or continue), validate and export to ``out/policy``; returns that directory.

    ``origin`` is what the first weights are taken from. Raises BadInput when ``out`` holds another run, BadArtifact
    when ``origin`` has no weights that fit.
    """
    file = open_run(out, resume=resume)
    trainer = make()
    if origin is not None and origin.checkpoint is not None:
        trainer.begin_with(origin.checkpoint)
    elif origin is not None:
        trainer.begin_as(origin.base.model, origin.sha256)
    trainer.go_on(file)
    progress = Progress(trainer.config)
    fit(trainer, progress, lambda: progress.validation(trainer.step, validate(trainer, command)))
    scores = validate(trainer, command)
    progress.validation(trainer.step, scores)
    return trainer.export(out / "policy", command, scores)


def validate(trainer: CloningTrainer[Any], command: str) -> dict[str, dict[str, Any]]:
    """Closed-loop success of the moving average on the validation split, by suite; resumes like any evaluation."""
    from heisd.bench.evaluate import evaluate
    from heisd.bench.libero_world import libero_setting

    n, method = trainer.config.validate_episodes, trainer.method
    home = trainer.out / "validation" / f"step{trainer.step:06d}"
    policy = trainer.export(home / "policy", command) if n else home
    scores = {}
    for suite in trainer.frames.suites if n else ():
        config = EvalConfig(
            suite=suite, methods=(method,), split=Split.VALIDATION, episodes=n, weights=str(policy), workers=2
        )  # fmt: skip
        block = evaluate(config, home / suite, libero_setting(config))["methods"][method]
        scores[suite] = {key: block[key] for key in ("pc_success", "wilson95", "n_episodes")}
    return scores
