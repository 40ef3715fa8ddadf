"""Spec-VLA's drafter (arXiv 2507.22424), an EAGLE-2 drafter (arXiv 2406.16858): one decoder layer on hidden states.

Row ``i`` reads the embedding at position ``i + 1`` and the target's state at position ``i``, joined by a linear layer,
and predicts the state at position ``i + 1``; the target's own head turns that into the next token. Behind the last
known state its own predictions take their place. Embedding and head are the target's, frozen, and not stored.

One deviation: the layer keeps its input norm, which EAGLE's first layer goes without. Shapes: B batch, S rows, d width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.codec import N_BINS
from heisd.policies.config import DecoderConfig
from heisd.policies.decoder import Layer, LlamaDecoder, rotary_table
from heisd.policies.empty import empty_weights
from heisd.policies.runtime import DecoderRuntime
from heisd.policies.target import OpenVLAPolicy

_TREE_ROOM = 128  # rows of a tree while it grows


class EagleDrafter(nn.Module):
    """``fc`` (2d -> d) and one decoder layer of the target's shape."""

    def __init__(self, target: DecoderConfig) -> None:
        super().__init__()
        self.config = target.model_copy(update={"n_layers": 1})
        self.fc = nn.Linear(2 * target.hidden_size, target.hidden_size)
        self.layer = Layer(self.config.layer_shape)

    def forward(self, embeddings: Tensor, states: Tensor) -> Tensor:
        """Predicted states, (B, S, d): row ``i`` that of the position whose embedding it reads.

        Args: ``embeddings`` (B, S, d) at positions 1…S; ``states`` (B, S, d) the target's at positions 0…S-1.
        """
        cos, sin = (t.to(embeddings.device) for t in rotary_table(self.config, embeddings.shape[1]))
        return self.layer(self.fc(torch.cat([embeddings, states], -1)), cos, sin)  # type: ignore[no-any-return]


class EagleRuntime:
    """An :class:`EagleDrafter` beside its policy, at batch one with a cache, as :mod:`heisd.policies.runtime` runs.

    Rows are read once: those of the prompt when the first draft is asked for, later ones as their states come.
    """

    def __init__(self, drafter: EagleDrafter, policy: OpenVLAPolicy) -> None:
        self.policy_hash = policy.policy_hash
        model = policy.model.language_model
        with empty_weights():
            shell = LlamaDecoder(drafter.config)
        # The target's embedding, head and last norm around our layer; nothing of the shell's own remains.
        shell.model.embed_tokens, shell.model.norm, shell.lm_head = (
            model.model.embed_tokens,
            model.model.norm,
            model.lm_head,
        )
        shell.model.layers[0] = drafter.layer
        self._runtime = DecoderRuntime(shell, policy.runtime.capacity + _TREE_ROOM, policy.dtype)
        self._cache = self._runtime.new_cache().data
        self._fc = drafter.fc.weight.detach().t().contiguous().to(policy.dtype)
        self._fc_bias = drafter.fc.bias.detach().to(policy.dtype)
        end = policy.codec.vocab_size
        self._head = model.lm_head.weight.detach()[end - N_BINS : end].t().contiguous().to(policy.dtype)
        self.first_token = end - N_BINS
        policy.require_states()
        self.read = torch.inference_mode()(self._read)
        self.grow = torch.inference_mode()(self._grow)

    def _read(self, prefix: Tensor, settled: Sequence[int], states: Tensor, n_read: int) -> tuple[Tensor, Tensor]:
        """Take in what is known; returns the predicted state behind it, (1, d), and its log-probabilities, (1, 256).

        Args: ``prefix`` (P, d); ``settled`` k >= 1 tokens; ``states`` (P + k - 1, d) of the target; ``n_read`` rows of
        the same action that earlier calls have read.
        """
        known = torch.cat([prefix[1:], self._runtime.embedding[torch.tensor(settled)]])
        x = self._joined(known[n_read:], states[n_read : len(known)])
        rows = self._runtime.rows(n_read, len(x))
        return self._scored(self._runtime.stream(x, rows, self._cache, 1))

    def _grow(self, tokens: Tensor, states: Tensor, n_read: int, depth: int, visible: Tensor) -> tuple[Tensor, Tensor]:
        """One level of a tree: its nodes' predicted states (N, d) and the log-probabilities behind them (N, 256).

        Args: ``tokens`` (N,) offsets from ``first_token``; ``states`` (N, d) predicted for their parents; ``n_read``
        rows read by :meth:`read`; ``depth`` of the nodes, 0 behind the root; ``visible`` (N, M + N) which of the M
        nodes of earlier levels, and of these, a node sees.
        """
        x = self._joined(self._runtime.embedding[tokens + self.first_token], states)
        rows = self._runtime.level(n_read, visible.shape[1] - len(x), torch.full((len(x),), depth), visible)
        return self._scored(self._runtime.stream(x, rows, self._cache, len(x)))

    def _joined(self, embeddings: Tensor, states: Tensor) -> Tensor:
        return torch.addmm(self._fc_bias, torch.cat([embeddings, states], -1), self._fc)

    def _scored(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states, F.log_softmax(torch.mm(states, self._head).float(), -1)
