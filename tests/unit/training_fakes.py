"""Demonstrations for tests of training: actions that can be learned, pictures that say nothing."""

import numpy as np

from heisd.sim.demos import Demos


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
