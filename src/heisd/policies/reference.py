"""The same decoder as transformers runs it: the reference that tests and benchmarks hold this project to."""

from typing import Any

import torch
from torch import Tensor

from heisd.policies.decoder import LlamaDecoder


def as_transformers(decoder: LlamaDecoder) -> Any:
    """A ``transformers.LlamaForCausalLM`` with this decoder's weights, ready for ``generate``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = decoder.config
    shape: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
    }
    no_special_tokens: dict[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    llama: Any = LlamaForCausalLM(LlamaConfig(**shape, **no_special_tokens))
    llama.load_state_dict(decoder.state_dict())
    return llama.to(decoder.lm_head.weight.dtype).eval()


@torch.inference_mode()
def generate_rows(llama: Any, prefixes: Tensor, n_tokens: int) -> Tensor:
    """Greedy ``transformers.generate`` behind (B, P, d) prefix embeddings, none of them padded: (B, n_tokens)."""
    mask = torch.ones(prefixes.shape[:2], dtype=torch.long, device=prefixes.device)
    tokens: Tensor = llama.generate(
        inputs_embeds=prefixes,
        attention_mask=mask,
        max_new_tokens=n_tokens,
        min_new_tokens=n_tokens,
        do_sample=False,
    )
    return tokens


def generate(llama: Any, prefix: Tensor, n_tokens: int) -> list[int]:
    """The same behind one prefix (P, d)."""
    return [int(token) for token in generate_rows(llama, prefix[None], n_tokens)[0]]
