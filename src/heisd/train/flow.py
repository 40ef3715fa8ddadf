"""Flow matching on chunks of actions (pi0, section IV): regress the velocity between noise and the expert's actions."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from heisd.bench.weights import require_policy
from heisd.codec import GRIPPER
from heisd.policies.bundle import find_policy
from heisd.policies.flow.bundle import load_flow, save_flow
from heisd.policies.flow.network import Condition, FlowNetwork
from heisd.policies.flow.schedule import euler_times, integrate, noised
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import FLOW_FORMAT, FORMAT
from heisd.train.borrow import borrow
from heisd.train.cloning import CloningTrainer, open_origin, run_to_end
from heisd.train.config import FlowRecipe
from heisd.train.flow_data import FlowBatch, FlowSamples

SAMPLING_KEYS = ("euler_steps", "executed", "noise_scale")


class FlowTrainer(CloningTrainer[FlowRecipe]):
    """One run: network, moving average, optimiser and the samples they learn from."""

    method = "full"

    def __init__(self, config: FlowRecipe, samples: FlowSamples, out: Path) -> None:
        self.samples = samples
        torch.manual_seed(config.seed)
        self.model = samples.build_model()
        super().__init__(config, samples, self.model, config.expert_hidden_size, out)

    def identity(self) -> dict[str, object]:
        """Sampling is no part of it: a finished run may be exported again with other steps."""
        return {name: value for name, value in super().identity().items() if name not in SAMPLING_KEYS}

    def next_loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of this step's batch."""
        batch = self.samples.train_batch(self.step, rng)
        return self.loss(batch, self.condition(batch))

    def condition(self, batch: FlowBatch) -> Condition:
        """Prefix and state of every frame, read once for all its draws."""
        embeddings, is_visible = self.model.prefix(batch.images, batch.input_ids, batch.n_text)
        keys_values = self.model.prefix_keys_values(embeddings, is_visible)
        return self.model.condition(keys_values, is_visible, batch.proprio)

    def loss(self, batch: FlowBatch, condition: Condition) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the velocity over all numbers of the chunk, plus the auxiliary event loss."""
        actions = batch.actions[:, None]
        x = noised(actions, batch.noise, batch.t[..., None, None])
        velocity = F.mse_loss(self.model.velocity(condition, x, batch.t), batch.noise - actions)
        event, event_cm = self.event_head.loss(condition.state, batch.event_offset_m)
        total = velocity + self.config.aux_weight * event
        return total, {"loss": total.item(), "velocity": velocity.item(), "event_cm": event_cm}

    @torch.no_grad()
    def holdout(self) -> dict[str, float]:
        """Mean scalars of the moving average on held-out training episodes (never trained on), and of its chunks."""
        rows = []
        with self.averaged_weights():
            for batch in self.samples.holdout_batches():
                condition = self.condition(batch)
                rows.append(self.loss(batch, condition)[1] | self.chunk_errors(batch, condition))
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}

    def chunk_errors(self, batch: FlowBatch, condition: Condition) -> dict[str, float]:
        """Of chunks made from zero noise, over the actions that would be executed.

        ``motion_rms`` is in normalised units, as the tolerances of drafts are; ``gripper_error`` a share of actions.
        """
        n_steps, n = self.config.euler_steps, self.config.executed
        times = euler_times(n_steps)

        def velocity(x: Tensor, i: int) -> Tensor:
            return self.model.velocity(condition, x, torch.full(x.shape[:2], times[i]))

        made = integrate(velocity, torch.zeros_like(batch.actions[:, None]), n_steps)[:, 0, :n]
        wanted = batch.actions[:, :n]
        gap = made[..., :GRIPPER] - wanted[..., :GRIPPER]
        differs = (made[..., GRIPPER] >= 0) != (wanted[..., GRIPPER] >= 0)
        return {
            "motion_rms": gap.square().mean(-1).sqrt().mean().item(),
            "gripper_error": differs.float().mean().item(),
        }

    def export(self, directory: Path, command: str, validation: dict[str, Any] | None = None) -> Path:
        """Write the moving average as a bundle, with how it was made."""
        with self.averaged_weights():
            model: FlowNetwork = copy.deepcopy(self.model)
        return save_flow(
            directory,
            model,
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
    config: FlowRecipe,
    *,
    command: str = "",
    resume: bool = False,
    origin: str | None = None,
    eyes: str | None = None,
) -> Path:
    """Train (or continue) and write the bundle ``out/policy``; returns its directory.

    Args: ``origin`` directory of a finished flow run, or name or directory of a flow policy, whose weights this one
    starts with; ``eyes`` name or directory of a token policy whose towers, projector and prefix layers a new run starts
    with.

    Raises BadInput when ``out`` holds another run, when both are given or when nothing of ``eyes`` fits, UnknownName or
    BadArtifact when there is no such policy, DatasetError and LeakError for the data.
    """
    if eyes is not None:
        require_policy(find_policy(eyes), FORMAT, "--eyes", "go on with it: --from RUN, the directory of its run")
    instead = "begin with its towers: --eyes POLICY"
    found = open_origin(origin, load_flow, FLOW_FORMAT, instead, is_blind=config.blind)
    base = None if found is None else found.base
    torch.set_num_threads(config.threads)

    def make() -> FlowTrainer:
        trainer = FlowTrainer(config, FlowSamples.load(data, config, base), out)
        if eyes is not None:
            borrow(trainer.model, eyes, trainer.samples.tokenizer)
            trainer.begin_here(describe_weights(find_policy(eyes))["sha256"])
        return trainer

    return run_to_end(make, out, origin=found, resume=resume, command=command)
