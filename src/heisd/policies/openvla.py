"""The OpenVLA architecture at any size: towers -> projector -> Llama decoder -> 7 tokens of 256 bins.

One module serves the bundled small policy and OpenVLA-7B; its state dict has the published key names.
Sequence: BOS, patches of each camera in order, [proprioception], text, action tokens.
Shapes: B batch, C cameras, L text ids (BOS first), P prefix positions, d width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heisd.codec import N_BINS
from heisd.policies import proprio
from heisd.policies.config import OpenVLAConfig
from heisd.policies.decoder import LlamaDecoder
from heisd.policies.initialise import initialise
from heisd.policies.seeing import SeeingNetwork


class ProprioProjector(nn.Module):
    """A feature vector -> one token."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_features, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(features)))  # type: ignore[no-any-return]


class OpenVLA(SeeingNetwork):
    """The whole network, for training and for holding weights; :mod:`heisd.policies.target` runs it fast."""

    def __init__(self, config: OpenVLAConfig, *, is_fresh: bool = True) -> None:
        """``is_fresh=False`` skips the initial weights of a policy that is about to be loaded."""
        super().__init__()
        self.config = config
        d = config.decoder.hidden_size
        self.language_model = LlamaDecoder(config.decoder)
        self.open_eyes(config)
        if config.proprio is not None:
            self.proprio_projector = ProprioProjector(proprio.n_features(config.proprio), d)
        if is_fresh:
            initialise(self)

    def prefix(self, images: Tensor, input_ids: Tensor, proprio_features: Tensor | None) -> Tensor:
        """Embeddings of BOS, patches, proprioception and text, (B, P, d).

        Args: ``images`` (B, C, 3, H, W), ignored by a blind policy; ``input_ids`` (B, L), BOS first;
        ``proprio_features`` (B, n_features), ignored without a proprioception token.
        """
        words = self.language_model.embed(input_ids)
        parts = [words[:, :1]]
        if self.config.cameras:
            parts.append(self.patches(images))
        if self.config.proprio is not None:
            assert proprio_features is not None, "this policy has a proprioception token"
            parts.append(self.proprio_projector(proprio_features)[:, None])
        # Under autocast the parts come in different dtypes.
        return torch.cat([part.to(words.dtype) for part in [*parts, words[:, 1:]]], dim=1)

    def action_hidden(
        self, images: Tensor, input_ids: Tensor, n_text: Tensor, proprio_features: Tensor | None, action_tokens: Tensor
    ) -> Tensor:
        """Teacher-forced states that predict each action token, (B, 7, d).

        Every row is left-aligned (its action tokens follow its own text, padding comes last), so causal
        attention alone keeps padding out and the result equals that of the row by itself.

        Args: ``input_ids`` (B, L) padded on the RIGHT with anything; ``n_text`` (B,) true lengths;
        ``action_tokens`` (B, 7) vocabulary ids.
        """
        n_fed = action_tokens.shape[1] - 1  # the last token predicts nothing
        ids = F.pad(input_ids, (0, n_fed))
        where = n_text[:, None] + torch.arange(n_fed, device=ids.device)
        ids = ids.scatter(1, where, action_tokens[:, :-1])
        states = self.language_model.hidden(self.prefix(images, ids, proprio_features))
        n_before_text = states.shape[1] - ids.shape[1]
        rows = n_before_text + n_text[:, None] - 1 + torch.arange(n_fed + 1, device=ids.device)
        return states.gather(1, rows[..., None].expand(-1, -1, states.shape[-1]))

    def bin_logits(self, hidden: Tensor) -> Tensor:
        """(…, d) -> (…, 256) logits in bin order (lowest value first); only the head's action rows are used."""
        return F.linear(hidden, self.action_head_rows().to(hidden.dtype))

    def action_head_rows(self) -> Tensor:
        """(256, d) rows of the head in bin order."""
        end = self.config.action_vocab_size
        return self.language_model.lm_head.weight[end - N_BINS : end].flip(0)

    @torch.no_grad()
    def set_action_head_rows(self, rows: Tensor) -> None:
        """Replace what :meth:`action_head_rows` returns."""
        end = self.config.action_vocab_size
        self.language_model.lm_head.weight[end - N_BINS : end] = rows.flip(0)

    def action_logits(
        self, images: Tensor, input_ids: Tensor, n_text: Tensor, proprio_features: Tensor | None, action_tokens: Tensor
    ) -> Tensor:
        """(B, 7, 256) teacher-forced logits in bin order; see :meth:`action_hidden` for the arguments."""
        return self.bin_logits(self.action_hidden(images, input_ids, n_text, proprio_features, action_tokens))

    @torch.no_grad()
    def seal_head(self) -> None:
        """Make greedy decoding over the whole vocabulary choose action tokens only.

        Training sees the 256 action rows alone. Every other row becomes their mean: its logit is then the mean
        of the action logits, which never exceeds their maximum.
        """
        end = self.config.action_vocab_size
        weight = self.language_model.lm_head.weight
        mean = weight[end - N_BINS : end].mean(dim=0)
        weight[: end - N_BINS] = mean
        weight[end:] = mean
