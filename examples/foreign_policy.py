"""A plain transformers decoder, wrapped, checked and accelerated:   python examples/foreign_policy.py

The weights are random, so this shows how it is done and that no action changes, not how much is gained.
"""

from types import SimpleNamespace as Context  # any object of your own with instruction, vision_key and what you need

import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import heisd
from heisd.codec import N_BINS, ActionCodec
from heisd.telemetry import MemorySink
from heisd.testing import check_target, synthetic_observations
from heisd.types import Observation, Scores, TokenTree


class Cache:
    def __init__(self) -> None:
        self.rows, self.length, self.behind = DynamicCache(), 0, []  # behind: (token, margin) after every tree node

    def keep(self, path) -> None:
        kept = torch.tensor([*range(self.length), *(self.length + node for node in path)])
        for layer in self.rows.layers:
            layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
        self.length = len(kept)
        self.next_token, self.margin = self.behind[path[-1]] if path else (self.next_token, self.margin)


class ForeignPolicy:
    """The last 256 ids of the vocabulary are actions."""

    def __init__(self, vocab_size: int = 1000, d: int = 64) -> None:
        torch.manual_seed(0)
        shape = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.3}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, hidden_size=d, **shape)).eval()
        self.see, self.read = torch.nn.Linear(48, d), self.model.model.embed_tokens
        self.codec = ActionCodec.from_stats(vocab_size, q01=[-1] * 6 + [0], q99=[1] * 7)

    @torch.inference_mode()
    def encode(self, observation: Observation) -> Context:
        image = torch.from_numpy(observation.images["agentview"]).float().permute(2, 0, 1)[None] / 255
        key = torch.nn.functional.adaptive_avg_pool2d(image, 4).flatten()
        words = torch.tensor([sum(map(ord, word)) % 700 for word in observation.instruction.split()])
        prefix = torch.cat([self.see(key)[None], self.read(words)])
        return Context(instruction=observation.instruction, vision_key=key.numpy(), prefix=prefix)

    def prefill(self, context: Context, tree: TokenTree | None = None) -> tuple[Cache, Scores]:
        return (cache := Cache()), self._forward(cache, context.prefix, tree or TokenTree.chain(np.empty(0)))

    def extend(self, cache: Cache, tree: TokenTree) -> Scores:
        return self._forward(cache, torch.empty(0, self.model.config.hidden_size), tree)

    @torch.inference_mode()
    def _forward(self, cache: Cache, prefix: torch.Tensor, tree: TokenTree) -> Scores:
        cache.rows.crop(min(0, cache.length - cache.rows.get_seq_length()))  # what nobody kept
        n, start = len(prefix), cache.length + len(prefix)  # the tree's rows lie behind both
        rows = torch.cat([prefix, self.read(torch.from_numpy(tree.tokens))])
        position = torch.cat([torch.arange(cache.length, start), start + torch.from_numpy(tree.depth)])
        sees = torch.ones(len(rows), start + len(tree.tokens), dtype=torch.bool).tril(cache.length)
        sees[n:, start:] = torch.from_numpy(tree.ancestor_mask())
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]
        inputs = {"inputs_embeds": rows[None], "position_ids": position[None], "attention_mask": mask}
        logits = self.model(**inputs, past_key_values=cache.rows, use_cache=True).logits[0, :, -N_BINS:]
        best, token = logits.topk(2)
        tokens, margins = self.codec.first_token + token[:, 0], best[:, 0] - best[:, 1]
        behind = list(zip(tokens.tolist(), margins.tolist(), strict=True))
        if n:
            cache.length, (cache.next_token, cache.margin) = start, behind[n - 1]
        cache.behind = behind[n:]
        return Scores(cache.next_token, tokens[n:].numpy(), cache.margin)


if __name__ == "__main__":
    policy, sink = ForeignPolicy(), MemorySink()
    check_target(policy, synthetic_observations(2))
    robot = heisd.accelerate(policy, {"rule": "exact"}, sink=sink)
    plain = heisd.accelerate(policy, {"enabled": False})
    for seen in [seen for seen in synthetic_observations(6) for _ in range(3)]:  # standing still: persistence is right
        assert robot.act(seen).tokens.tolist() == plain.act(seen).tokens.tolist()
    forwards = [record.lm_forwards for record in sink.records]
    print(f"18 equal actions; forwards of the language model: {sum(forwards)} {forwards} instead of {18 * 7}")  # noqa: T201
