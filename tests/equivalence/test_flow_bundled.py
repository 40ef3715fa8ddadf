"""The bundled flow-matching policies: the fast path against the training form, and the contract of a chunk policy."""

from itertools import pairwise

import numpy as np
import pytest

from heisd.engine import ChunkEngine
from heisd.policies.bundle import list_bundled
from heisd.policies.flow.bundle import load_flow
from heisd.policies.flow.naive import NaiveFlow
from heisd.policies.manifest import FLOW_FORMAT
from heisd.testing import check_chunk_policy, synthetic_observations

N_OBSERVATIONS = 60
MAX_BINS = 0.5  # between the two forms' executed numbers: less than what tells one bin from the next


@pytest.mark.parametrize("name", list_bundled(FLOW_FORMAT))
def test_the_fast_path_is_the_training_form(name: str) -> None:
    policy = load_flow(name)
    assert policy.config.vision is not None
    seen = synthetic_observations(N_OBSERVATIONS, size_px=policy.config.vision.image_size)
    sampling = policy.config.sampling
    fast = ChunkEngine(policy, sampling=sampling)
    slow = ChunkEngine(NaiveFlow(load_flow(name)), sampling=sampling)
    bin_sizes = (np.asarray(policy.codec.q99) - np.asarray(policy.codec.q01)) / 255
    apart = [np.abs(fast.act(each).values - slow.act(each).values) / bin_sizes for each in seen]
    assert np.max(apart) < MAX_BINS


@pytest.mark.parametrize("name", list_bundled(FLOW_FORMAT))
def test_the_bundled_policy_keeps_the_contract(name: str) -> None:
    policy = load_flow(name)
    assert policy.config.vision is not None
    seen = synthetic_observations(2, size_px=policy.config.vision.image_size)
    check_chunk_policy(policy, seen)


@pytest.mark.parametrize("name", list_bundled(FLOW_FORMAT))
def test_a_chunk_is_a_motion_and_no_noise(name: str) -> None:
    """Neighbouring actions differ far less than the noise they were made from."""
    policy = load_flow(name)
    assert policy.config.vision is not None
    (seen,) = synthetic_observations(1, size_px=policy.config.vision.image_size)
    context = policy.encode(seen)
    prefix, rng = policy.prefill(context), np.random.default_rng(0)
    noise = rng.standard_normal((policy.horizon, policy.codec.length), dtype=np.float32)
    chunk = policy.denoise(prefix, context, noise, policy.config.sampling.euler_steps)
    steps = np.mean([np.abs(b - a)[:6].mean() for a, b in pairwise(chunk)])
    assert steps < 0.2 * np.mean([np.abs(b - a)[:6].mean() for a, b in pairwise(noise)])
