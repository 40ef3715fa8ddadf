"""Exact speculation equals plain greedy decoding, token for token.

Over more than a thousand control steps of a tiny policy and of each bundled one with every registered proposer that
needs nothing beside the policy; over 504 with the bundled parallel drafter and store, over 60 with the bundled EAGLE
drafter, whose trees are wide. Ten thousand recorded steps: ``benchmarks/results/check_exact-SUITE.json``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

import tiny_policies as tiny
from heisd.bench.check_exact import MAX_NODES, NEEDS, Subject, combinations, compare, is_first_of_episode
from heisd.engine import Engine
from heisd.policies.bundle import find_policy, list_bundled, load_policy
from heisd.policies.target import OpenVLAPolicy
from heisd.presets.assets import Assets
from heisd.propose import registry
from heisd.propose.base import Proposer
from heisd.telemetry import MemorySink
from heisd.types import ImageArray, Observation

FREE = tuple(sorted(set(registry.PROPOSERS) - set(NEEDS)))  # need neither a store nor weights
BUNDLED = ("parallel", "retrieval", "parallel+persistence+retrieval")
BUNDLED_WIDE = ("eagle", "eagle+persistence")
EPISODE_STEPS = 40


def sealed() -> OpenVLAPolicy:
    model = tiny.network(0)
    model.seal_head()
    return OpenVLAPolicy(model, tiny.tokenizer(), tiny.codec(model.config.action_vocab_size))


def walk(
    n_steps: int, size_px: int, seed: int = 0, instructions: Sequence[str] = tiny.INSTRUCTIONS
) -> Iterator[Observation]:
    """Episodes in which the picture changes a little, or not at all: guesses are right, half right and wrong."""
    rng = np.random.default_rng(seed)
    seen = tiny.observation(rng, size_px=size_px)
    for i in range(n_steps):
        step = i % EPISODE_STEPS
        if step == 0:
            seen = tiny.observation(rng, instructions[i // EPISODE_STEPS % len(instructions)], size_px=size_px)
        elif rng.random() < 0.5:
            seen = replace(seen, images={name: changed(picture, rng) for name, picture in seen.images.items()})
        seen = replace(seen, time_s=step / 20)
        yield seen


def changed(picture: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Another patch in one place."""
    side = len(picture) // 8
    row, column = rng.integers(0, len(picture) - side, 2)
    copy = picture.copy()
    copy[row : row + side, column : column + side] = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return copy


def check(
    target: OpenVLAPolicy,
    names: Sequence[str],
    n_steps: int,
    size_px: int,
    *,
    create: Callable[[str], Proposer] | None = None,
    instructions: Sequence[str] = tiny.INSTRUCTIONS,
) -> dict[str, dict[str, int]]:
    subjects = {}
    for name in names:
        sink = MemorySink()
        proposers = {part: create(part) if create else registry.create(part, target.codec) for part in name.split("+")}
        subjects[name] = Subject(Engine(target, proposers=proposers, max_nodes=MAX_NODES, sink=sink), sink)
    seen = list(walk(n_steps, size_px, instructions=instructions))
    marked = [(now, is_first_of_episode(before, now)) for before, now in zip([None, *seen], seen, strict=False)]
    assert sum(is_first for _, is_first in marked) == -(-n_steps // EPISODE_STEPS)
    compare(Engine(target), subjects, marked, n_steps=n_steps)
    return {name: subject.finish() for name, subject in subjects.items()}


def assert_exact(counts: dict[str, dict[str, int]], n_steps: int) -> None:
    for name, row in counts.items():
        assert (row["differing_tokens"], row["faults"]) == (0, 0), name
        assert (row["n_steps"], row["n_tokens"]) == (n_steps, 7 * n_steps)
        # Something was kept and something refused: the equality is not an empty one.
        assert 0 < row["kept_tokens"] < 7 * n_steps
        assert n_steps < row["lm_forwards"] < 7 * n_steps


def test_a_thousand_steps_of_a_tiny_policy_alone_and_together() -> None:
    assert_exact(check(sealed(), [*FREE, "+".join(FREE)], 1000, tiny.SIZE_PX), 1000)


def test_every_pair_too() -> None:
    pairs = [name for name in combinations(FREE) if name.count("+") == 1]
    assert len(pairs) == len(FREE) * (len(FREE) - 1) // 2
    assert_exact(check(sealed(), pairs, 100, tiny.SIZE_PX), 100)


def test_plain_decoding_here_is_the_slow_obvious_one() -> None:
    target = sealed()
    engine = Engine(target)
    for seen in walk(30, tiny.SIZE_PX):
        assert engine.act(seen).tokens.tolist() == tiny.greedy(target, seen)


@pytest.mark.parametrize("name", list_bundled())
def test_a_thousand_steps_of_the_bundled_policies(name: str) -> None:
    """A thousand steps in all, shared out among the proposers that need nothing beside the policy."""
    target = load_policy(name)
    n_steps = -(-1005 // len(FREE))
    counts = check(target, FREE, n_steps, target.config.vision.image_size if target.config.vision else tiny.SIZE_PX)
    assert_exact(counts, n_steps)
    assert sum(row["n_steps"] for row in counts.values()) >= 1000


@pytest.mark.parametrize("n_steps", [168, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_bundled_drafter_and_store_alone_and_together(n_steps: int) -> None:
    """Each alone and both with persistence, as ``heisd bench --check-exact`` combines them."""
    assert_exact(check_bundled(BUNDLED, n_steps), n_steps)


@pytest.mark.parametrize("n_steps", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_the_bundled_eagle_drafter_alone_and_with_persistence(n_steps: int) -> None:
    assert_exact(check_bundled(BUNDLED_WIDE, n_steps), n_steps)


def check_bundled(names: Sequence[str], n_steps: int) -> dict[str, dict[str, int]]:
    """The bundled policy with what lies beside it, on the sentences that its store knows."""
    target = load_policy("libero")
    assets = Assets(target, find_policy("libero"), "libero_object")
    assert target.config.vision is not None
    return check(
        target, names, n_steps, target.config.vision.image_size,
        create=assets.proposer, instructions=assets.store().index.instructions,
    )  # fmt: skip


def test_whatever_needs_something_beside_the_policy_is_among_those_checked() -> None:
    checked = {part for name in (*BUNDLED, *BUNDLED_WIDE) for part in name.split("+")}
    assert checked >= set(NEEDS)
    assert set(NEEDS) <= set(registry.PROPOSERS)
