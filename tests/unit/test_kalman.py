"""The filters against textbook matrices, and what they must predict whatever their noise is."""

import draft_trees as dt
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from heisd.codec import GRIPPER, ActionCodec
from heisd.errors import BadInput
from heisd.propose.base import History
from heisd.propose.kalman import ConstantVelocity, KalmanNoise, TokenRandomWalk, fit_noise
from heisd.testing import SyntheticContext
from heisd.types import Draft

CODEC = dt.CODEC
CONTEXT = SyntheticContext(np.zeros(4, np.float32))
F, H = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
G = np.array([[0.5], [1.0]])
fast = settings(deadline=None, max_examples=60)
VARIANCE = st.floats(-4, 4).map(lambda power: 10.0**power)


def history_of(actions: np.ndarray) -> History:
    return History(actions, CODEC.encode(actions))


def textbook(measured: np.ndarray, q: float, r: float) -> tuple[float, list[float], list[float]]:
    """Prediction of the next value, innovations and their variances of one degree of freedom, all in matrices."""
    x = np.array([[measured[1]], [measured[1] - measured[0]]])
    # Two-point differencing: the velocity's error is e1 - e0 - w0 / 2.
    P = np.array([[r, r], [r, 2 * r + q / 4]])
    innovations, variances = [], []
    for z in measured[2:]:
        x, P = F @ x, F @ P @ F.T + q * G @ G.T
        S = H @ P @ H.T + r
        K = scipy.linalg.solve(S, H @ P).T
        innovations.append(float((z - H @ x)[0, 0]))
        variances.append(float(S[0, 0]))
        x = x + K * innovations[-1]
        P = (np.eye(2) - K @ H) @ P @ (np.eye(2) - K @ H).T + r * K @ K.T  # Joseph form
    return float((F @ x)[0, 0]), innovations, variances


def tokens_of(values: list[float], last: np.ndarray) -> tuple[int, ...]:
    action = np.array(values)
    action[GRIPPER] = last[GRIPPER]
    return tuple(CODEC.encode(action).tolist())


@fast
@given(st.integers(0, 999), st.integers(2, 14), VARIANCE, VARIANCE)
def test_the_prediction_is_the_textbook_filters(seed: int, n: int, q: float, r: float) -> None:
    rng = np.random.default_rng(seed)
    actions = np.cumsum(rng.normal(0, 0.05, (n, 7)), axis=0)
    actions[:, GRIPPER] = rng.choice([-1.0, 1.0], n)
    noise = KalmanNoise((q,) * 7, (r,) * 7)
    draft = ConstantVelocity(CODEC, noise=noise).propose(CONTEXT, history_of(actions))
    assert draft is not None
    expected = tokens_of([textbook(actions[-10:, i], q, r)[0] for i in range(7)], actions[-1])
    assert max(abs(a - b) for a, b in zip(draft.chains[0], expected, strict=True)) <= 1  # a bin's edge may be hit
    differing = sum(a != b for a, b in zip(draft.chains[0], expected, strict=True))
    assert differing <= 1


@fast
@given(st.integers(0, 999), st.integers(2, 10), VARIANCE, VARIANCE)
def test_constant_velocity_is_predicted_exactly(seed: int, n: int, q: float, r: float) -> None:
    """In bins' centres, so that rounding cannot hide an error of half a bin."""
    rng = np.random.default_rng(seed)
    first, step = rng.integers(100, 150, 7), rng.integers(-8, 9, 7)
    first[GRIPPER], step[GRIPPER] = 0, 0
    bins = first + np.arange(n + 1)[:, None] * step
    actions = CODEC.decode(CODEC.tokens_of_bins(bins))
    noise = KalmanNoise((q,) * 7, (r,) * 7)
    history = History(actions[:-1], CODEC.tokens_of_bins(bins[:-1]))
    draft = ConstantVelocity(CODEC, noise=noise).propose(CONTEXT, history)
    assert draft is not None
    assert draft.chains[0] == tuple(CODEC.tokens_of_bins(bins[-1]).tolist())


def ramp(n: int = 6) -> np.ndarray:
    actions = np.tile(np.linspace(-0.2, 0.2, n)[:, None], (1, 7))
    actions[:, GRIPPER] = -1.0
    return actions


def test_the_gripper_is_copied_never_extrapolated() -> None:
    actions = ramp()
    actions[-1, GRIPPER] = 1.0  # it has just closed: a line through it would close it further
    for proposer in (ConstantVelocity(CODEC), TokenRandomWalk(CODEC)):
        draft = proposer.propose(CONTEXT, history_of(actions))
        assert draft is not None
        assert draft.chains[0][GRIPPER] == CODEC.encode(actions)[-1, GRIPPER]


def test_the_grippers_id_is_copied_even_where_another_decodes_to_the_same_command() -> None:
    history = history_of(ramp())
    history.tokens[:, GRIPPER] = CODEC.tokens_of_bins(np.asarray(100))  # closes, as the usual bin 127 does
    for proposer in (ConstantVelocity(CODEC), TokenRandomWalk(CODEC)):
        draft = proposer.propose(CONTEXT, history)
        assert draft is not None
        assert draft.chains[0][GRIPPER] == history.tokens[-1, GRIPPER]


def test_one_action_has_no_velocity_and_huge_ones_no_prediction() -> None:
    proposer = ConstantVelocity(CODEC)
    assert proposer.propose(CONTEXT, history_of(ramp()[:1])) is None
    huge = History(np.array([[-1.0] * 7, [1.0] * 7]) * 1.7e308, CODEC.encode(ramp()[:2]))
    assert proposer.propose(CONTEXT, huge) is None


def test_a_saturated_action_keeps_its_own_id() -> None:
    """Both highest bins decode to one value; a policy that says the upper one is not answered with the lower."""
    tokens = np.full((4, 7), CODEC.first_token)
    history = History(CODEC.decode(tokens), tokens)
    draft = ConstantVelocity(CODEC).propose(CONTEXT, history)
    assert draft is not None
    assert draft.chains[0] == (CODEC.first_token,) * 7


def test_a_context_longer_than_asked_for_is_ignored() -> None:
    actions = ramp(12)
    actions[:5] = 0.9
    proposer = ConstantVelocity(CODEC, context_steps=4)
    assert proposer.propose(CONTEXT, history_of(actions)) == proposer.propose(CONTEXT, history_of(actions[-4:]))


@pytest.mark.parametrize(("jump_sigma", "is_silent"), [(2.9, False), (3.1, True)])
def test_the_gate_silences_a_filter_that_has_just_been_wrong(jump_sigma: float, is_silent: bool) -> None:
    q, r = 1e-6, 1e-5
    proposer = ConstantVelocity(CODEC, noise=KalmanNoise((q,) * 7, (r,) * 7), gate_sigma=3.0)
    actions = ramp()
    _, _, variances = textbook(actions[:, 2], q, r)
    actions[-1, 2] += jump_sigma * np.sqrt(variances[-1])
    assert (proposer.propose(CONTEXT, history_of(actions)) is None) == is_silent
    assert proposer.propose(CONTEXT, history_of(actions[:2])) is not None


@pytest.mark.parametrize(("q", "r"), [(1e-3, 1e-4), (1e-6, 1e-3), (1e-2, 1e-2)])
def test_fitted_noise_is_that_of_the_motion(q: float, r: float) -> None:
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        w = rng.normal(0, np.sqrt(q), (400, 7))
        velocity = np.cumsum(w, axis=0) - w
        position = np.cumsum(velocity + w / 2, axis=0)
        noise = fit_noise(np.split(position + rng.normal(0, np.sqrt(r), position.shape), 4))
        found.append(np.log([noise.process, noise.measurement]))
    np.testing.assert_allclose(np.mean(found, axis=(0, 2)), np.log([q, r]), atol=0.4)


def test_the_fit_maximises_the_textbook_likelihood(rng: np.random.Generator) -> None:
    episodes = [np.cumsum(rng.normal(0, 0.1, (n, 7)), axis=0) for n in (2, 30, 45)]
    noise = fit_noise(episodes)

    def deviance(q: float, r: float) -> float:
        total = 0.0
        for actions in episodes[1:]:
            _, innovations, variances = textbook(actions[:, 0], q, r)
            total += sum(np.log(s) + e**2 / s for e, s in zip(innovations, variances, strict=True))
        return total

    q, r = noise.process[0], noise.measurement[0]
    best = deviance(q, r)
    assert all(best <= deviance(q * a, r * b) + 1e-9 for a, b in [(1.5, 1), (0.66, 1), (1, 1.5), (1, 0.66), (2, 2)])


def test_a_degree_of_freedom_that_never_moves_can_be_fitted() -> None:
    noise = fit_noise([np.zeros((20, 7))])
    assert min(noise.measurement) > 0
    assert ConstantVelocity(CODEC, noise=noise).propose(CONTEXT, history_of(ramp())) is not None


def reference_random_walk(z: np.ndarray) -> int:
    """KERV's released recursion for one degree of freedom, written out."""
    x, P = float(z[0]), 10.0
    for value in z[1:]:
        P = P + 1.0
        K = P / (P + 1e-3)
        x = x + K * (value - x)
        P = (1 - K) * P
    return int(np.clip(round(x), CODEC.first_token, CODEC.vocab_size - 1))


@fast
@given(st.integers(0, 999), st.integers(1, 30))
def test_the_released_filter_is_its_recursion_and_all_but_persistence(seed: int, n: int) -> None:
    tokens = np.random.default_rng(seed).integers(CODEC.first_token, CODEC.vocab_size, (n, 7))
    draft = TokenRandomWalk(CODEC).propose(CONTEXT, History(CODEC.decode(tokens), tokens))
    assert isinstance(draft, Draft)
    assert draft.chains[0] == tuple(reference_random_walk(tokens[:, i]) for i in range(7))
    np.testing.assert_array_equal(draft.chains[0], tokens[-1])


def test_actions_without_a_gripper_are_filtered_in_every_dimension() -> None:
    codec = ActionCodec.from_stats(dt.VOCAB, [-1.0] * 3, [1.0] * 3)
    actions = ramp()[:, :3]
    for proposer in (ConstantVelocity(codec), TokenRandomWalk(codec)):
        draft = proposer.propose(CONTEXT, History(actions, codec.encode(actions)))
        assert draft is not None
        assert len(draft.chains[0]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_steps": 1}, "context_steps is 2 to 32; got 1"),
        ({"context_steps": 33}, "context_steps is 2 to 32; got 33"),
        ({"gate_sigma": 3.0}, "needs fitted noise"),
        ({"noise": KalmanNoise.unfitted(7), "gate_sigma": 0.0}, "above 0"),
        ({"noise": KalmanNoise.unfitted(6)}, "6 degrees of freedom; an action has 7"),
    ],
)
def test_impossible_filters_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ConstantVelocity(CODEC, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("q", "r"), [((1.0,), (0.0,)), ((-1.0,), (1.0,)), ((np.nan,), (1.0,)), ((1.0, 1.0), (1.0,))])
def test_impossible_noise_is_refused(q: tuple[float, ...], r: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="q >= 0 and r > 0"):
        KalmanNoise(q, r)


@pytest.mark.parametrize("episodes", [[], [np.zeros((2, 7))], [np.full((9, 7), np.nan)]])
def test_noise_is_not_fitted_to_nothing(episodes: list[np.ndarray]) -> None:
    with pytest.raises(BadInput, match="at least 3 finite actions"):
        fit_noise(episodes)
