"""An OpenVLA network as a target policy: ``encode``, ``prefill``, ``extend``, one forward each."""

import copy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from heisd.codec import ActionCodec
from heisd.errors import BadInput
from heisd.policies import proprio
from heisd.policies.cache import KVCache
from heisd.policies.images import ImageStack
from heisd.policies.openvla import OpenVLA
from heisd.policies.runtime import DecoderRuntime
from heisd.policies.seeing import packed_tower
from heisd.policies.tokenizer import PromptTokenizer
from heisd.types import FloatArray, Observation, Proprioception, Scores, TokenTree

CLOSE_EPS = 32
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class OpenVLAContext:
    """One encoded observation."""

    instruction: str
    prefix: Tensor  # (P, d) embeddings: BOS, patches, proprioception, text
    patches: Tensor | None  # (cameras * tokens, d) projected patches; None for a blind policy
    prefilled: "_Prefilled | None" = None  # the policy's note of whose prefill its cache holds

    @property
    def states(self) -> Tensor | None:
        """(n, d) hidden states of all positions committed so far; valid until the next call.

        None before this context's prefill, after another one's, and unless :meth:`OpenVLAPolicy.require_states` was
        called.
        """
        cache = None if self.prefilled is None else self.prefilled.cache
        return None if cache is None else cache.known_states()

    @property
    def vision_key(self) -> FloatArray:
        """(d,) float32 mean of the projected patches; empty for a blind policy."""
        if self.patches is None:
            return np.empty(0, dtype=np.float32)
        return np.asarray(self.patches.float().mean(dim=0).numpy(force=True))


@dataclass(slots=True)
class _Prefilled:
    """Whose prefill a cache holds. Belongs to a context, is written by its policy."""

    cache: KVCache | None = None


class OpenVLAPolicy:
    """Runs an :class:`OpenVLA` at batch one. The decoder is packed now: after more training build a new policy.

    ``max_tree_nodes`` bounds the draft trees that fit behind the prompt. One cache is reused by every prefill.
    """

    def __init__(
        self,
        model: OpenVLA,
        tokenizer: PromptTokenizer,
        codec: ActionCodec,
        *,
        dtype: torch.dtype = torch.float32,
        max_tree_nodes: int = 128,
        policy_hash: str = "",
    ) -> None:
        """``policy_hash`` is the identity that drafters are checked against (the bundle's, see policies/manifest)."""
        self.policy_hash = policy_hash
        model = model.eval()
        has_dtype = model.language_model.lm_head.weight.dtype == dtype
        self.model = model if has_dtype else copy.deepcopy(model).to(dtype)
        self.config = model.config
        self.codec = codec
        self.tokenizer = tokenizer
        self.dtype = dtype
        self._images, self._tower = ImageStack(model.config), packed_tower(self.model)
        self._has_proprio = model.config.proprio is not None
        capacity = self._n_before_text() + model.config.max_text_tokens + model.config.action_length + max_tree_nodes
        self.runtime = DecoderRuntime(self.model.language_model, capacity, dtype)
        self._cache = self.runtime.new_cache()
        # Of a logit: the lead below which rounding may decide. How far float32 forwards of one row and of many
        # differ: benchmarks/rounding.py; of other precisions nothing is promised (heisd.presets.EXACT_DTYPE).
        self._closeness = CLOSE_EPS * torch.finfo(dtype).eps if dtype == torch.float32 else 0.0
        self._prefilled: _Prefilled | None = None
        self._keeps_states = False
        self._words = lru_cache(maxsize=256)(self._embed_prompt)
        self._node_forward = torch.inference_mode()(self._score)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.runtime.device

    @property
    def n_patches(self) -> int:
        """Picture positions of a prompt, directly behind BOS; 0 for a blind policy."""
        cameras = self.config.cameras
        return len(cameras) * self.model.vision_backbone.n_tokens if cameras else 0

    @property
    def text_start(self) -> int:
        """Position of the first text token: behind BOS, patches and proprioception."""
        return 1 + self._n_before_text()

    @property
    def max_prefix(self) -> int:
        """Positions of the longest prompt that is read."""
        return self._n_before_text() + self.config.max_text_tokens

    def require_states(self) -> None:
        """From the next observation on, keep hidden states for drafters that read them (``context.states``).

        The last layer is then computed at every position of the prompt, not at its last one alone.
        """
        self._keeps_states = True
        if self._cache.states is None:
            shape = (self.runtime.capacity, self.config.decoder.hidden_size)
            self._cache.states = torch.zeros(shape, device=self.runtime.device, dtype=self.dtype)

    @torch.inference_mode()
    def encode(self, observation: Observation) -> OpenVLAContext:
        """One pass of the towers and the projector; the prompt's embeddings are looked up."""
        patches = None
        if self.config.cameras:
            patches = self.model.patches(self._images(observation.images)[None].to(self.runtime.device), self._tower)[0]
        return self._context(observation, patches)

    @torch.inference_mode()
    def refreshed(self, context: OpenVLAContext, observation: Observation) -> OpenVLAContext:
        """The pictures of ``context`` with all else of ``observation``; no pass of the towers."""
        return self._context(observation, context.patches)

    def _context(self, observation: Observation, patches: Tensor | None) -> OpenVLAContext:
        bos, words = self._words(observation.instruction)
        parts = [bos] if patches is None else [bos, patches]
        if self._has_proprio:
            parts.append(self._embed_proprio(observation.proprio))
        prefilled = _Prefilled() if self._keeps_states else None
        return OpenVLAContext(observation.instruction, torch.cat([*parts, words]), patches, prefilled)

    @torch.inference_mode()
    def prefill(self, context: OpenVLAContext, tree: TokenTree | None = None) -> tuple[KVCache, Scores]:
        """Read the prefix and, in the same forward, score ``tree`` behind it."""
        cache = self._cache
        cache.length = 0
        n_prefix, n_nodes = len(context.prefix), 0 if tree is None else len(tree.tokens)
        cache.room_for(n_prefix + n_nodes)
        x = context.prefix
        if tree is not None and n_nodes:
            x = torch.cat([x, self._embed_tokens(tree)])
            rows = self.runtime.rows(0, n_prefix, tree.depth, tree.ancestor_mask())
        else:
            rows = self.runtime.rows(0, n_prefix)
        states = self._states(0, n_prefix + n_nodes)
        tokens, margins, close = self._greedy(self.runtime.forward(x, rows, cache.data, 1 + n_nodes, states))
        self._note_prefill(context)
        cache.length, cache.next_token, cache.margin = n_prefix, tokens[0], margins[0]
        return cache, self._pend(cache, tree, tokens[1:], margins[1:], close)

    def extend(self, cache: KVCache, tree: TokenTree) -> Scores:
        """Score ``tree`` behind the committed positions; nothing is committed until ``cache.keep(path)``."""
        return self._node_forward(cache, tree)

    def _score(self, cache: KVCache, tree: TokenTree) -> Scores:
        n_nodes = len(tree.tokens)
        cache.room_for(n_nodes)
        if n_nodes == 1:
            token = int(tree.tokens[0])
            x, rows = self.runtime.embedding[token : token + 1], self.runtime.rows(cache.length, 1)
        else:
            x, rows = self._embed_tokens(tree), self.runtime.rows(cache.length, 0, tree.depth, tree.ancestor_mask())
        states = self._states(cache.length, cache.length + n_nodes)
        tokens, margins, close = self._greedy(self.runtime.forward(x, rows, cache.data, n_nodes, states))
        return self._pend(cache, tree, tokens, margins, {row + 1 for row in close})

    def _states(self, first: int, end: int) -> Tensor | None:
        """Where the states of these positions go; None when nobody asked for any."""
        return self._cache.states[first:end] if self._keeps_states and self._cache.states is not None else None

    def _note_prefill(self, context: OpenVLAContext) -> None:
        """The cache is this context's now, and no longer the last one's."""
        if self._prefilled is not None:
            self._prefilled.cache = None
        self._prefilled = context.prefilled
        if self._prefilled is not None:
            self._prefilled.cache = self._cache

    def _greedy(self, logits: Tensor) -> tuple[list[int], list[float], set[int]]:
        """(N, V) -> every row's greedy token, its lead over the runner-up, and the rows whose lead is too small."""
        best, which = logits.topk(2, dim=-1)
        pairs = best.tolist()
        close = {i for i, (first, second) in enumerate(pairs) if first - second < self._closeness * abs(first)}
        return which[:, 0].tolist(), [first - second for first, second in pairs], close

    def _pend(
        self, cache: KVCache, tree: TokenTree | None, tokens: list[int], margins: list[float], close: set[int]
    ) -> Scores:
        """``close``: row 0 stands for the prompt's end, row ``i + 1`` for node ``i``."""
        cache.pending_parents = () if tree is None else tree.parents.tolist()
        cache.pending_next, cache.pending_margins = tokens, margins
        nodes = frozenset(row - 1 for row in close if row) if close else _NONE
        return Scores(cache.next_token, np.asarray(tokens, dtype=np.int64), cache.margin, 0 in close, nodes)

    def _embed_tokens(self, tree: TokenTree) -> Tensor:
        ids = torch.from_numpy(np.asarray(tree.tokens, dtype=np.int64)).to(self.runtime.device)
        return self.runtime.embedding.index_select(0, ids)

    def _embed_proprio(self, state: Proprioception) -> Tensor:
        assert self.config.proprio is not None
        values = proprio.features(proprio.flatten(state), self.config.proprio)
        return self.model.proprio_projector(torch.from_numpy(values).to(self.runtime.device, self.dtype)[None])  # type: ignore[no-any-return]

    def _embed_prompt(self, instruction: str) -> tuple[Tensor, Tensor]:
        ids = self.tokenizer.encode(instruction)
        if len(ids) > self.config.max_text_tokens:
            raise BadInput(
                f"the prompt of {instruction!r} has {len(ids)} tokens; "
                f"this policy reads at most {self.config.max_text_tokens}"
            )
        embedded = self.runtime.embedding[torch.tensor(ids)]
        return embedded[:1], embedded[1:]

    def _n_before_text(self) -> int:
        return self.n_patches + (1 if self._has_proprio else 0)
