"""Demonstrations for tests of training: actions that can be learned, pictures that say nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heisd.sim.demos import Demos
from heisd.train.loop import Loop, Progress, fit


def assert_resumes(make: Callable[[], Loop[Any]], checkpoint: Path) -> None:
    """A run that is killed after three steps and goes on ends as one that was never stopped, bit for bit."""
    unbroken, first, second = make(), make(), make()
    fit(unbroken, Progress(unbroken.config))
    for _ in range(3):
        first.train_step()
    first.save()
    second.resume(checkpoint)
    fit(second, Progress(second.config))
    assert second.step == unbroken.step == unbroken.config.steps
    for (name, mine), theirs in zip(unbroken.learner.named_parameters(), second.learner.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert torch.equal(unbroken.ema[name], second.ema[name]), name


def fake_demos(seed: int = 0, n_episodes: int = 8, length: int = 10) -> Demos:
    """Episodes whose action is a function of where the hand is, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    n = n_episodes * length
    proprio = rng.normal(size=(n, 25)).astype(np.float32)
    proprio[:, 3:7] = [1.0, 0.0, 0.0, 0.0]
    actions = np.tanh(proprio[:, [0, 1, 2, 7, 8, 9, 10]]).astype(np.float32)
    actions[:, 6] = np.where(proprio[:, 0] > 0, 1.0, -1.0)
    return Demos(
        images=rng.integers(0, 255, size=(n, 2, 128, 128, 3), dtype=np.uint8),
        cameras=("agentview", "wrist"),
        proprio=proprio,
        actions=actions,
        executed=actions,
        phase=np.zeros(n, dtype=np.int64),
        episode=np.repeat(np.arange(n_episodes), length),
        task=np.zeros(n, dtype=np.int64),
        instructions=("pick up the butter and place it in the basket",) * n_episodes,
        provenance=(),
        fingerprint=f"fake-{seed}",
    )
