"""Does ``torch.compile`` pay for the one-token step? Prints its warm-up, both times and the steps to break even.

    python benchmarks/compile_trial.py [--steps 300] [--threads 1]

The compiled step is written the way Inductor likes it: fixed shapes (the whole cache behind a mask), no reading of
numbers back into Python. Needs a C++ compiler, which the package itself does not.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from plain_decoding import random_observation, random_policy
from torch import Tensor
from torch.nn import functional as F

from heisd.policies.decoder import LlamaDecoder, rotary_table, rotate
from heisd.policies.target import OpenVLAPolicy
from heisd.types import TokenTree


def compiled_step(decoder: LlamaDecoder, capacity: int) -> Callable[[Tensor, int, Tensor], Tensor]:
    """(1, d) embedding, position, cache -> (1, vocab) logits, compiled with fixed shapes."""
    config = decoder.config
    cos, sin = rotary_table(config, capacity)
    mask = torch.full((capacity, capacity), float("-inf")).triu(1)
    packed = [
        (
            torch.cat([layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight]),
            torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]),
        )
        for layer in decoder.model.layers
    ]

    def step(x: Tensor, where: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor, cache: Tensor) -> Tensor:
        for i, (layer, (qkv, gate_up)) in enumerate(zip(decoder.model.layers, packed, strict=True)):
            q, k, v = F.linear(layer.input_layernorm(x), qkv).view(3, config.n_heads, 1, config.head_dim)
            q, k = rotate(q, *turn), rotate(k, *turn)
            cache[i].index_copy_(2, where, torch.stack([k, v]))
            mixed = F.scaled_dot_product_attention(q[None], cache[i, 0][None], cache[i, 1][None], attn_mask=seen)
            x = x + layer.self_attn.o_proj(mixed.reshape(1, -1))
            gate, up = F.linear(layer.post_attention_layernorm(x), gate_up).chunk(2, -1)
            x = x + layer.mlp.down_proj(F.silu(gate) * up)
        return decoder.lm_head(decoder.model.norm(x))

    fast = torch.compile(step, dynamic=False)

    def call(x: Tensor, position: int, cache: Tensor) -> Tensor:
        turn = cos[position : position + 1], sin[position : position + 1]
        return fast(x, torch.tensor([position]), turn, mask[position : position + 1], cache)

    return call


def compare(policy: OpenVLAPolicy, n_steps: int) -> dict[str, float]:
    """Interleave the engine's one-token step and the compiled one."""
    context = policy.encode(random_observation(np.random.default_rng(0), policy))
    cache, _ = policy.prefill(context)
    token = cache.next_token
    tree, x = TokenTree.chain(np.array([token])), policy.runtime.embedding[token : token + 1]
    step, data = compiled_step(policy.model.language_model, cache.capacity), cache.data.clone()
    # The engine keeps rotary pairs as neighbours; the compiled step keeps transformers' order of a head's numbers.
    keys = data[:, 0]
    data[:, 0] = torch.cat([keys[..., 0::2], keys[..., 1::2]], dim=-1)
    began = time.perf_counter()
    logits = step(x, cache.length, data)
    warm_up_s = time.perf_counter() - began
    assert int(logits.argmax()) == int(policy.extend(cache, tree).node_next[0])
    calls = {"eager": lambda: policy.extend(cache, tree), "compiled": lambda: step(x, cache.length, data).argmax()}
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(n_steps):
        for name, call in calls.items():
            start = time.process_time_ns()
            call()
            took[name].append((time.process_time_ns() - start) / 1e6)
    medians = {f"{name}_cpu_ms": float(np.median(values)) for name, values in took.items()}
    saved_ms = medians["eager_cpu_ms"] - medians["compiled_cpu_ms"]
    actions = 1e3 * warm_up_s / (6 * saved_ms) if saved_ms > 0 else float("inf")
    return {"warm_up_s": warm_up_s, **medians, "actions_to_break_even": actions}


@torch.inference_mode()
def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(json.dumps(vars(args) | compare(random_policy("float32", 6, 256, 4), args.steps), indent=2))


if __name__ == "__main__":
    main()
