"""A plain transformers decoder, wrapped, checked and accelerated:   python examples/foreign_policy.py"""

from types import SimpleNamespace as Context  # any object of your own with instruction, vision_key and what you need

import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import heisd
from heisd.codec import ActionCodec
from heisd.telemetry import MemorySink
from heisd.testing import check_target, synthetic_observations
from heisd.types import Observation, Scores, TokenTree


class Cache:
    def __init__(self) -> None:
        self.rows, self.length = DynamicCache(), 0  # behind: (token, margin) after what is kept, then after every node

    def keep(self, path) -> None:
        kept = torch.tensor([*range(self.length), *(self.length + node for node in path)])
        for layer in self.rows.layers:
            layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
        self.length = len(kept)
        self.next_token, self.margin = self.behind[path[-1] + 1 if path else 0]


class ForeignPolicy:
    """The last 256 ids are actions. Weights are random: this shows how it is done, not how much is gained."""

    def __init__(self, vocab: int = 1000, d: int = 64) -> None:
        torch.manual_seed(0)
        size = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.3}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, hidden_size=d, **size)).eval().requires_grad_(False)
        self.see, self.read = torch.randn(48, d) / 48**0.5, self.model.model.embed_tokens
        self.codec = ActionCodec.from_stats(vocab, q01=[-1] * 6 + [0], q99=[1] * 7)

    def encode(self, observation: Observation) -> Context:
        image = torch.from_numpy(observation.images["agentview"]).float().permute(2, 0, 1)[None] / 255
        key = torch.nn.functional.adaptive_avg_pool2d(image, 4).flatten()
        words = torch.tensor([sum(map(ord, word)) % 700 for word in observation.instruction.split()])
        prefix = torch.cat([key[None] @ self.see, self.read(words)])
        return Context(instruction=observation.instruction, vision_key=key.numpy(), prefix=prefix)

    def prefill(self, context: Context, tree: TokenTree | None = None) -> tuple[Cache, Scores]:
        return (cache := Cache()), self._forward(cache, context.prefix, tree or TokenTree.chain(np.empty(0)))

    def extend(self, cache: Cache, tree: TokenTree) -> Scores:
        return self._forward(cache, torch.empty(0, self.model.config.hidden_size), tree)

    def _forward(self, cache: Cache, prefix: torch.Tensor, tree: TokenTree) -> Scores:
        cache.rows.crop(min(0, cache.length - cache.rows.get_seq_length()))  # what nobody kept
        n, start = len(prefix), cache.length + len(prefix)  # the tree's rows lie behind both
        rows = torch.cat([prefix, self.read(torch.from_numpy(tree.tokens))])
        position = torch.cat([torch.arange(cache.length, start), start + torch.from_numpy(tree.depth)])
        sees = torch.ones(len(rows), start + len(tree.tokens), dtype=torch.bool).tril(cache.length)
        sees[n:, start:] = torch.from_numpy(tree.ancestor_mask())
        inputs = {"inputs_embeds": rows[None], "position_ids": position[None], "attention_mask": sees[None, None]}
        logits = self.model(**inputs, past_key_values=cache.rows).logits[0, :, self.codec.first_token :]
        best, token = logits.topk(2)
        tokens, margins = self.codec.first_token + token[:, 0], best[:, 0] - best[:, 1]
        behind = list(zip(tokens.tolist(), margins.tolist(), strict=True))
        cache.behind = behind[n - 1 :] if n else [(cache.next_token, cache.margin), *behind]
        cache.length, (cache.next_token, cache.margin) = start, cache.behind[0]
        return Scores(cache.next_token, tokens[n:].numpy(), cache.margin)


if __name__ == "__main__":
    policy, sink = ForeignPolicy(), MemorySink()
    check_target(policy, synthetic_observations(2))
    robot, plain = heisd.accelerate(policy, {"rule": "exact"}, sink=sink), heisd.accelerate(policy, {"enabled": False})
    for seen in [seen for seen in synthetic_observations(6) for _ in range(3)]:  # standing still: persistence is right
        assert robot.act(seen).tokens.tolist() == plain.act(seen).tokens.tolist()
    forwards = [record.lm_forwards for record in sink.records]
    print(f"18 equal actions; forwards of the language model: {sum(forwards)} {forwards} instead of {18 * 7}")  # noqa: T201
