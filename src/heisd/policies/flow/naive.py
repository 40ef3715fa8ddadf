"""Full inference as the papers' unoptimised baselines run it: nothing is cached, every Euler step reads the prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heisd.codec import ActionCodec
from heisd.policies.flow.policy import FlowContext, FlowPolicy
from heisd.policies.flow.schedule import endpoint, euler_times, integrate, noised
from heisd.types import FloatArray, Observation


@dataclass(frozen=True, slots=True)
class NaiveFlow:
    """The training form of a policy's network, asked again from the prefix on at every step.

    Gives the same chunks as the policy up to rounding (a test holds the two together).
    """

    policy: FlowPolicy

    @property
    def codec(self) -> ActionCodec:
        """The policy's."""
        return self.policy.codec

    @property
    def horizon(self) -> int:
        """The policy's."""
        return self.policy.horizon

    @property
    def max_chunks(self) -> int:
        """The policy's."""
        return self.policy.max_chunks

    def encode(self, observation: Observation) -> FlowContext:
        """The policy's."""
        return self.policy.encode(observation)

    def prefill(self, context: FlowContext) -> FlowContext:
        """Nothing is computed beforehand."""
        return context

    @torch.inference_mode()
    def denoise(self, prefix: FlowContext, context: FlowContext, noise: FloatArray, n_steps: int) -> FloatArray:
        """A chunk (H, A) from ``noise`` (H, A)."""
        start = self._tensor(noise)[None, None]
        times = euler_times(n_steps)

        def velocity(x: Tensor, i: int) -> Tensor:
            return self._velocity(prefix, context, x, torch.full((1, 1), times[i], device=x.device))

        return np.asarray(integrate(velocity, start, n_steps)[0, 0].float().numpy(force=True))

    @torch.inference_mode()
    def endpoints(
        self, prefix: FlowContext, context: FlowContext, drafts: FloatArray, noise: FloatArray, levels: Sequence[float]
    ) -> FloatArray:
        """As the policy's, (C, K, H, A)."""
        t = torch.tensor(levels, device=self.policy.device)
        x = noised(self._tensor(drafts)[:, None], self._tensor(noise), t[:, None, None])  # (C, K, H, A)
        flat, of_each = x.flatten(0, 1)[None], t.repeat(len(drafts))[None]
        v = self._velocity(prefix, context, flat, of_each)[0].view(x.shape)
        return np.asarray(endpoint(x, v, t[:, None, None]).float().numpy(force=True))

    def _velocity(self, prefix: FlowContext, context: FlowContext, x: Tensor, t: Tensor) -> Tensor:
        """Everything from the prefix on; ``x`` (1, M, H, A) at levels ``t`` (1, M)."""
        model, embeddings = self.policy.model, prefix.embeddings[None]
        is_visible = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        condition = model.condition(model.prefix_keys_values(embeddings, is_visible), is_visible, context.state[None])
        return model.velocity(condition, x, t)

    def _tensor(self, values: FloatArray) -> Tensor:
        return torch.from_numpy(values).to(self.policy.device, self.policy.dtype)
