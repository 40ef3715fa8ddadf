"""FLASH's draft head (arXiv 2605.13778): one transformer block that guesses a policy's zero-noise chunk.

Input: the prefix embeddings of the present picture (the encoder's output, before the language model), the state as one
token, and H learned queries. Queries see prefix, state and each other; what prefix and state would see is not needed,
because one block's answers are read at the queries alone. The block has the language model's shape and may begin as its
first layer. Shapes: B batch, P prefix positions, H horizon, A action numbers, d width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heisd.policies import proprio
from heisd.policies.config import DecoderConfig, Frozen
from heisd.policies.decoder import Layer, rotary_table
from heisd.policies.flow.config import FlowConfig
from heisd.policies.flow.network import FlowNetwork
from heisd.policies.flow.policy import FlowContext, FlowPolicy
from heisd.policies.packed import PackedLayers, Rows, fold, pack_keys_values, rotation_table
from heisd.types import FloatArray


class DraftHeadConfig(Frozen):
    """Shape of a draft head; everything follows from its policy."""

    decoder: DecoderConfig  # of which one layer's shape is used
    n_features: int  # of the state
    horizon: int
    action_size: int

    @classmethod
    def of(cls, policy: FlowConfig) -> "DraftHeadConfig":
        """The shape that fits a policy."""
        return cls(
            decoder=policy.decoder.model_copy(update={"n_layers": 1}),
            n_features=proprio.n_features(policy.proprio),
            horizon=policy.horizon,
            action_size=policy.action_size,
        )


class DraftHead(nn.Module):
    """The form that is trained and stored."""

    def __init__(self, config: DraftHeadConfig) -> None:
        super().__init__()
        self.config = config
        d = config.decoder.hidden_size
        self.state_proj = nn.Linear(config.n_features, d)
        self.queries = nn.Parameter(torch.randn(config.horizon, d) * 0.5)
        self.layer = Layer(config.decoder.layer_shape)
        self.norm = nn.RMSNorm(d, eps=config.decoder.rms_eps)
        self.out = nn.Linear(d, config.action_size)

    @torch.no_grad()
    def begin_as(self, network: FlowNetwork) -> None:
        """Take over the first layer of a policy's language model (FLASH); left alone where that has but one layer."""
        first = network.language_model.layers[0]
        if isinstance(first, Layer):
            self.layer.load_state_dict(first.state_dict())

    def forward(self, embeddings: Tensor, is_visible: Tensor, state: Tensor) -> Tensor:
        """Normalised chunks (B, H, A).

        Args: ``embeddings`` (B, P, d) padded on the right; ``is_visible`` (B, P) True where a position exists;
        ``state`` (B, n_features).
        """
        B, P, _ = embeddings.shape
        H, device = self.config.horizon, embeddings.device
        cos, sin = (table.to(device) for table in rotary_table(self.config.decoder, P + 1 + H))
        n_prefix = is_visible.sum(1)[:, None]
        context = torch.cat([embeddings, self.state_proj(state)[:, None]], 1)
        places = torch.cat([torch.arange(P, device=device).expand(B, -1), n_prefix], 1)
        _, keys, values = self.layer.project(context, cos[places][:, None], sin[places][:, None])
        places = n_prefix + 1 + torch.arange(H, device=device)
        x = self.queries.expand(B, -1, -1)
        q, k, v = self.layer.project(x, cos[places][:, None], sin[places][:, None])
        seen = torch.cat([is_visible, torch.ones(B, 1 + H, dtype=torch.bool, device=device)], 1)
        x = self.layer.finish(x, q, torch.cat([keys, k], 2), torch.cat([values, v], 2), seen[:, None, None])
        return self.out(self.norm(x))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Weights:
    keys_values: Tensor  # (d, 2G head_dim)
    state: Tensor  # (n_features, d)
    state_bias: Tensor  # (d,)
    queries: Tensor  # (H, d)
    out: Tensor  # (d, A)
    out_bias: Tensor  # (A,)


class DraftHeadRuntime(PackedLayers):
    """A draft head beside its policy, at batch one: packed weights, static keys and values."""

    def __init__(self, head: DraftHead, policy: FlowPolicy) -> None:
        self.config, self.policy_hash = head.config, policy.policy_hash
        dtype, shape = policy.dtype, head.config.decoder.layer_shape
        rotations = rotation_table(head.config.decoder, policy.max_prefix + 1 + head.config.horizon)
        super().__init__([head.layer], shape, rotations, policy.device, dtype)
        self._data = self.new_data(1)
        self._read: Tensor | None = None  # the embeddings whose keys and values ``_data`` holds
        with torch.no_grad():
            self._weights = _Weights(
                pack_keys_values(head.layer.self_attn, head.layer.input_layernorm, shape, dtype),
                head.state_proj.weight.t().contiguous().to(dtype),
                head.state_proj.bias.detach().to(dtype),
                head.queries.detach().to(dtype),
                fold(head.out.weight, head.norm.weight).to(dtype),
                head.out.bias.detach().to(dtype),
            )
        self.draft = torch.inference_mode()(self._draft)

    def _draft(self, context: FlowContext) -> FloatArray:
        """A normalised chunk (H, A), float32. Embeddings that were read last, unlike the state, are not read again."""
        w, n = self._weights, len(context.embeddings)
        unread = torch.addmm(w.state_bias, context.state[None], w.state)
        begin = n if context.embeddings is self._read else 0
        if not begin:
            unread = torch.cat([context.embeddings, unread])
        self._read = context.embeddings
        projected = self.normed_product(unread, w.keys_values).view(len(unread), -1, self.shape.head_dim)
        self.store(projected, 0, Rows(self._rotations[begin : n + 1], None, begin), self._data[0])
        rows = Rows(self._rotations[n + 1 : n + 1 + len(w.queries)], None, n + 1)
        x = self.stream(w.queries, rows, self._data, len(w.queries))
        chunk: FloatArray = (self.normed_product(x, w.out) + w.out_bias).float().numpy(force=True)
        return chunk
