"""The decoder as it runs: packed layers, its embedding and its head, rows that are chains or trees.

Computes what :class:`heisd.policies.decoder.LlamaDecoder` computes (tests hold the two together). The last layer
finishes only the rows whose next token is asked for. Shapes: N rows, d width, H heads, L visible positions.
"""

import numpy as np
import torch
from torch import Tensor

from heisd.policies.cache import KVCache
from heisd.policies.config import DecoderConfig
from heisd.policies.decoder import LlamaDecoder
from heisd.policies.packed import PackedLayers, Rows, fold, rotation_table
from heisd.types import BoolArray, IntArray


class DecoderRuntime(PackedLayers):
    """Inference form of a decoder."""

    def __init__(self, decoder: LlamaDecoder, capacity: int, dtype: torch.dtype) -> None:
        self.config: DecoderConfig = decoder.config
        rotations = rotation_table(self.config, capacity)
        device = decoder.lm_head.weight.device
        super().__init__(list(decoder.model.layers), self.config.layer_shape, rotations, device, dtype)
        with torch.no_grad():
            self.embedding = decoder.model.embed_tokens.weight.detach().to(dtype)
            self._head = fold(decoder.lm_head.weight, decoder.model.norm.weight).to(dtype)
            self._norm = decoder.model.norm.weight.detach().float() * self.config.hidden_size**0.5
        self._hidden = np.triu(np.full((capacity, capacity), -np.inf, np.float32), 1)
        self._causal = torch.from_numpy(self._hidden).to(self.device, dtype)

    def new_cache(self) -> KVCache:
        """An empty cache of full capacity."""
        return KVCache(self.new_data(self.config.n_layers))

    def rows(self, start: int, n_chain: int, depth: IntArray | None = None, ancestors: BoolArray | None = None) -> Rows:
        """``n_chain`` consecutive rows from cache row ``start``, then the nodes of a tree behind them.

        Args: ``depth`` (T,) of the tree's nodes; ``ancestors`` (T, T) True where a node sees another.
        """
        if depth is None or ancestors is None:
            end = start + n_chain
            mask = None if n_chain == 1 else self._causal[start:end, :end]
            return Rows(self._rotations[start:end], mask, start)
        first_node = start + n_chain
        end = first_node + len(depth)
        # numpy: on a few numbers its operations take a third of torch's time
        positions = first_node + depth
        hidden = np.zeros((end - start, end), np.float32)
        if n_chain:
            positions = np.concatenate([np.arange(start, first_node), positions])
            hidden[:n_chain] = self._hidden[start:first_node, :end]
        np.copyto(hidden[n_chain:, first_node:], -np.inf, where=~ancestors)
        rotation = self._rotations.index_select(0, torch.from_numpy(positions).to(self.device))
        return Rows(rotation, torch.from_numpy(hidden).to(self.device, self.dtype), start)

    def level(self, root: int, n_before: int, depth: Tensor, visible: Tensor) -> Rows:
        """Further nodes of a tree behind ``root`` committed positions, ``n_before`` of whose nodes were read before.

        Args: ``depth`` (N,) of the new nodes; ``visible`` (N, n_before + N) True where one sees a node.
        """
        start = root + n_before
        mask = torch.zeros(len(depth), start + len(depth), device=self.device, dtype=self.dtype)
        mask[:, root:].masked_fill_(~visible, float("-inf"))
        return Rows(self._rotations[root + depth], mask, start)

    def forward(self, x: Tensor, rows: Rows, cache: Tensor, n_wanted: int, states: Tensor | None = None) -> Tensor:
        """(N, d) embeddings -> (n_wanted, vocab) float32 logits behind the last ``n_wanted`` rows.

        Writes the rows' keys and values into ``cache`` (layers, 2, H, capacity, head_dim), and into ``states`` (S, d),
        if given, the hidden states of the last S rows. The logits are computed alike whether states are kept or not.
        """
        n_finished = n_wanted if states is None else max(n_wanted, len(states))
        stream = self.stream(x, rows, cache, n_finished)
        if states is not None:
            states.copy_(self._normed(stream[n_finished - len(states) :]))
        wanted = stream if n_finished == n_wanted else stream[-n_wanted:]
        return self.normed_product(wanted, self._head).float()

    def _normed(self, x: Tensor) -> Tensor:
        """(N, d) stream -> hidden states, as the head sees them."""
        return self.unit(x).mul_(self._norm).to(self.dtype)
