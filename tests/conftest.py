"""Fixtures every test may use."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed: tests that use it repeat exactly."""
    return np.random.default_rng(0)
