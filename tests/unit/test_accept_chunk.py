"""Acceptance of chunks: published rule, velocity-space rule, several noises; the gripper apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from heisd.accept_chunk import EndpointTest, accepted_lengths, first_crossing, motion_distances
from heisd.errors import BadInput
from heisd.types import StopReason

H = 6
CHUNKS = hnp.arrays(np.float64, (2, H, 7), elements=st.floats(-1, 1, width=32))
GAPS = hnp.arrays(np.float64, (2, 3, H, 7), elements=st.floats(-0.5, 0.5, width=32))
OPEN = EndpointTest.uniform((0.4, 0.2, 0.05), 0.15, verify_stop=False, post_cut=False)


def judge(
    rule: EndpointTest, drafts: np.ndarray, endpoints: np.ndarray, n: int = 4, last: float = -1.0
) -> tuple[int, str]:
    found = rule.judge(drafts, ["a", "b", "c"][: len(drafts)], endpoints, n, last)
    return found.n_accepted, found.source


@settings(deadline=None)
@given(CHUNKS, GAPS)
def test_the_rule_is_the_published_loop(drafts: np.ndarray, gaps: np.ndarray) -> None:
    """Written out action by action: distance over six numbers, longest prefix a level, minimum over the levels."""
    endpoints = drafts[:, None] + gaps
    lengths = []
    for c in range(2):
        per_level = []
        for k in range(3):
            n = 0
            while n < 4 and np.linalg.norm(endpoints[c, k, n, :6] - drafts[c, n, :6]) / np.sqrt(6) <= 0.15:
                n += 1
            per_level.append(n)
        lengths.append(min(per_level))
    found = OPEN.judge(drafts, ["a", "b"], endpoints, 4, -1.0)
    assert found.n_accepted == max(lengths)
    assert lengths["ab".index(found.source)] == max(lengths)
    np.testing.assert_array_equal(found.chunk, drafts["ab".index(found.source)])


@settings(deadline=None)
@given(CHUNKS, GAPS, st.floats(0.05, 0.5))
def test_acceptance_grows_with_the_tolerance_and_falls_with_the_levels(
    drafts: np.ndarray, gaps: np.ndarray, tolerance: float
) -> None:
    endpoints = drafts[:, None] + gaps
    tight, wide = (EndpointTest.uniform((0.4, 0.2, 0.05), t, verify_stop=False, post_cut=False)
                   for t in (tolerance, 2 * tolerance))  # fmt: skip
    assert judge(tight, drafts[:1], endpoints[:1])[0] <= judge(wide, drafts[:1], endpoints[:1])[0]
    one = EndpointTest.uniform((0.4,), tolerance, verify_stop=False, post_cut=False)
    assert judge(one, drafts[:1], endpoints[:1, :1])[0] >= judge(tight, drafts[:1], endpoints[:1])[0]


def test_the_endpoints_gap_is_the_level_times_the_velocitys_residual(rng: np.random.Generator) -> None:
    """The identity behind the velocity-space test: endpoint - draft = t ((noise - draft) - v)."""
    draft, noise, v = (rng.standard_normal((H, 7)) for _ in range(3))
    for t in (0.05, 0.4):
        x = t * noise + (1 - t) * draft
        residual = (noise - draft) - v
        gap = motion_distances((x - t * v)[None, None], draft[None])[0, 0]
        np.testing.assert_allclose(gap, t * np.sqrt(np.mean(residual[:, :6] ** 2, axis=1)), atol=1e-12)


def test_in_velocity_space_every_level_is_as_strict_as_the_others(rng: np.random.Generator) -> None:
    """A velocity that is wrong by the same amount at every level is refused by all of them or by none."""
    draft = rng.standard_normal((H, 7))
    residual = np.zeros((H, 7))
    residual[:, :6] = np.linspace(0.5, 1.7, H)[:, None]  # root mean square grows along the chunk
    levels = (0.4, 0.1, 0.05)
    endpoints = np.stack([draft + t * residual for t in levels])[None]
    distances = motion_distances(endpoints, draft[None])
    ours = EndpointTest.in_velocity(levels, 1.0)
    alone = [accepted_lengths(distances[:, k : k + 1], ours.tolerances[k : k + 1])[0] for k in range(3)]
    assert alone == [3, 3, 3]
    theirs = EndpointTest.uniform(levels, 0.15)
    alone = [accepted_lengths(distances[:, k : k + 1], theirs.tolerances[k : k + 1])[0] for k in range(3)]
    assert alone == [0, 5, 6]  # one tolerance for all: the largest level decides, the smallest sees nothing


def test_several_noises_at_one_level() -> None:
    rule = EndpointTest.one_level(0.1, 3, 0.2)
    assert (rule.levels, rule.tolerances, rule.shares_noise) == ((0.1,) * 3, (0.2,) * 3, False)


def test_most_actions_win_then_the_nearest_then_the_first() -> None:
    drafts = np.zeros((3, H, 7))
    drafts[:, :, 6] = -1.0
    endpoints = np.repeat(drafts[:, None], 3, axis=1)
    endpoints[0, :, 2:, 0] += 1.0  # two actions
    endpoints[1, :, :, 1] += 0.1  # all four, a little off
    assert judge(OPEN, drafts, endpoints) == (4, "c")
    endpoints[2, :, :, 1] += 0.1
    assert judge(OPEN, drafts, endpoints) == (4, "b")
    endpoints[1:, :, 1:, 2] += 1.0  # one action each
    assert judge(OPEN, drafts, endpoints) == (2, "a")


def test_the_grippers_distance_does_not_count() -> None:
    drafts = np.zeros((1, H, 7))
    endpoints = np.zeros((1, 3, H, 7))
    endpoints[..., 6] = 5.0
    assert judge(OPEN, drafts, endpoints)[0] == 4


def test_verify_stop_comes_before_post_cut() -> None:
    drafts = np.zeros((1, H, 7))
    drafts[..., 6] = -1.0
    endpoints = np.repeat(drafts[:, None], 2, axis=1)
    rule = EndpointTest.uniform((0.1, 0.05), 0.15)
    assert judge(rule, drafts, endpoints)[0] == 4
    assert judge(rule, drafts, endpoints, last=1.0)[0] == 0  # the last executed action had it closed
    drafts[0, 2:, 6] = 1.0  # the draft closes at the third action, no endpoint does: post-cut
    cut = rule.judge(drafts, ["a"], endpoints, 4, -1.0)
    assert (cut.n_accepted, cut.reason) == (2, StopReason.GRIPPER)
    endpoints[0, 1, 3, 6] = 1.0  # one endpoint closes within the executable four: nothing at all
    stop = rule.judge(drafts, ["a"], endpoints, 4, -1.0)
    assert (stop.n_accepted, stop.reason) == (0, StopReason.GRIPPER)
    endpoints[0, 1, 3, 6] = -1.0
    endpoints[0, 1, 5, 6] = 1.0  # behind what may be executed: nobody minds
    assert judge(rule, drafts, endpoints)[0] == 2
    free = EndpointTest.uniform((0.1, 0.05), 0.15, verify_stop=False, post_cut=False)
    assert judge(free, drafts, endpoints)[0] == 4


def test_a_crossing_is_a_change_of_sign_and_zero_closes() -> None:
    assert first_crossing(np.array([-1.0, -0.1, 0.0, 1.0]), -1.0) == 2
    assert first_crossing(np.array([0.0, 0.5]), 0.0) is None  # an episode begins with 0, which counts as closed
    assert first_crossing(np.array([-0.5]), 0.0) == 0
    assert first_crossing(np.empty(0), -1.0) is None


def test_nan_is_never_accepted() -> None:
    drafts = np.zeros((1, H, 7))
    endpoints = np.zeros((1, 3, H, 7))
    endpoints[0, 1, 1, 0] = np.nan
    assert judge(OPEN, drafts, endpoints)[0] == 1


def test_rules_that_cannot_be_are_refused() -> None:
    for levels in ((), (0.0,), (1.1,), (0.1,) * 9):
        with pytest.raises(BadInput, match="noise levels are 1 to 8 numbers above 0"):
            EndpointTest.uniform(levels, 0.15)
    for tolerances in ((0.1,), (0.1, -0.1), (0.1, np.nan)):
        with pytest.raises(BadInput, match="one tolerance of 0 or more"):
            EndpointTest((0.1, 0.2), tolerances)
