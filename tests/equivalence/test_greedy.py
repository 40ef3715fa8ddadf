"""Greedy decoding in this engine equals ``transformers.generate``, token for token, on many observations."""

import numpy as np
import pytest

import tiny_policies as tiny
from heisd.engine import Engine
from heisd.policies.bundle import list_bundled, load_policy
from heisd.policies.reference import as_transformers, generate


@pytest.mark.parametrize(
    ("seed", "n_observations"), [(0, 30), *(pytest.param(seed, 100, marks=pytest.mark.slow) for seed in range(1, 7))]
)
def test_equal_to_generate(seed: int, n_observations: int) -> None:
    target = tiny.policy(seed)
    engine, llama = Engine(target), as_transformers(target.model.language_model)
    rng = np.random.default_rng(seed)
    for i in range(n_observations):
        seen = tiny.observation(rng, tiny.INSTRUCTIONS[i % 2])
        tokens = engine.act(seen).tokens.tolist()
        assert tokens == generate(llama, target.encode(seen).prefix, 7)


@pytest.mark.parametrize("name", list_bundled())
def test_bundled_policies_equal_generate(name: str) -> None:
    target = load_policy(name)
    engine, llama = Engine(target), as_transformers(target.model.language_model)
    rng = np.random.default_rng(0)
    vision = target.config.vision
    for _ in range(20):
        seen = tiny.observation(rng, tiny.INSTRUCTIONS[0], size_px=vision.image_size if vision else 32)
        assert engine.act(seen).tokens.tolist() == generate(llama, target.encode(seen).prefix, 7)
