"""Action tokens against OpenVLA's published formulas, written out here a second time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from heisd.codec import ActionCodec, gripper_to_environment, gripper_to_model
from heisd.errors import BadInput

V = 32_000
LOW, HIGH = (-0.9, -0.8, -0.7, -0.1, -0.2, -0.3, 0.0), (0.9, 0.7, 0.8, 0.1, 0.3, 0.2, 1.0)
CODEC = ActionCodec.from_stats(V, LOW, HIGH)
ACTIONS = hnp.arrays(np.float64, (5, 7), elements=st.floats(-1.5, 1.5))


def test_ids_and_centres_are_those_of_the_published_tokenizer() -> None:
    assert CODEC.first_token == 31_744
    assert len(CODEC.edges) == 256
    assert len(CODEC.centres) == 255
    published = np.linspace(-1, 1, 256)
    np.testing.assert_array_equal(CODEC.centres, (published[:-1] + published[1:]) / 2)
    every = np.arange(V - 256, V)
    decoded = CODEC.centres[CODEC.bins_of_tokens(every)]
    np.testing.assert_array_equal(decoded, CODEC.centres[np.clip(V - every - 1, 0, 254)])


@settings(deadline=None)
@given(ACTIONS)
def test_encode_is_the_published_formula(actions: np.ndarray) -> None:
    low, high = np.array(LOW), np.array(HIGH)
    scaled = np.clip(2 * (actions - low) / (high - low) - 1, -1, 1)
    scaled[:, 6] = 1 - np.clip((actions[:, 6] + 1) / 2, 0, 1)  # RLDS loader's gripper, never scaled
    expected = V - np.digitize(scaled, np.linspace(-1, 1, 256))
    np.testing.assert_array_equal(CODEC.encode(actions), expected)
    assert ((expected >= 31_744) & (expected <= 31_999)).all()


@settings(deadline=None)
@given(ACTIONS)
def test_round_trip_is_within_half_a_bin(actions: np.ndarray) -> None:
    inside = np.clip(actions, LOW, HIGH)
    inside[:, 6] = np.where(actions[:, 6] > 0, 1.0, -1.0)
    error = np.abs(CODEC.decode(CODEC.encode(inside)) - inside)
    half_bin = (np.array(HIGH) - LOW) / 255 / 2
    assert (error[:, :6] <= half_bin[:6] + 1e-12).all()
    assert (error[:, 6] == 0).all()


@settings(deadline=None)
@given(hnp.arrays(np.int64, (4, 7), elements=st.integers(V - 255, V - 1)))
def test_tokens_of_decoded_tokens_are_the_same_tokens(tokens: np.ndarray) -> None:
    np.testing.assert_array_equal(CODEC.encode(CODEC.decode(tokens))[:, :6], tokens[:, :6])


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_decoding_by_table_is_bit_equal_to_the_formula(shape: tuple[int, ...]) -> None:
    tokens = np.random.default_rng(0).integers(CODEC.first_token - 3, CODEC.vocab_size, shape)
    formula = CODEC.denormalise(CODEC.centres[CODEC.bins_of_tokens(tokens)])
    np.testing.assert_array_equal(CODEC.decode(tokens), formula)


def test_plus_one_has_its_own_id_but_decodes_like_its_neighbour() -> None:
    top = np.array([*HIGH[:6], -1.0])
    np.testing.assert_array_equal(CODEC.encode(top)[:6], [31_744] * 6)
    np.testing.assert_array_equal(CODEC.decode(np.full(7, 31_744)), CODEC.decode(np.full(7, 31_745)))


def test_gripper_tokens_are_those_of_the_published_convention() -> None:
    assert CODEC.encode(np.array([0, 0, 0, 0, 0, 0, -1.0]))[6] == 31_744  # open
    assert CODEC.encode(np.array([0, 0, 0, 0, 0, 0, 1.0]))[6] == 31_872  # closed


def test_gripper_conversions_invert_each_other() -> None:
    commands = np.array([-1.0, 1.0])
    np.testing.assert_array_equal(gripper_to_environment(gripper_to_model(commands)), commands)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_an_undecided_gripper_is_an_error(value: float) -> None:
    with pytest.raises(BadInput, match="neither opens nor closes"):
        gripper_to_environment(np.array([1.0, value]))


def test_text_ids_clip_as_openvla_clips_them() -> None:
    assert CODEC.bins_of_tokens(np.array([0, 31_743, 32_063])).tolist() == [254, 254, 0]


@pytest.mark.parametrize("action", [np.zeros(6), np.array([np.nan] + [0] * 6)])
def test_a_wrong_action_is_refused(action: np.ndarray) -> None:
    with pytest.raises(BadInput, match="7 finite numbers"):
        CODEC.encode(action)


def test_inconsistent_statistics_are_refused() -> None:
    with pytest.raises(BadInput, match="q99 must exceed q01"):
        ActionCodec.from_stats(V, LOW, LOW)
    with pytest.raises(BadInput, match="one entry per action dimension"):
        ActionCodec(V, LOW, HIGH[:6], (True,) * 7)


@settings(deadline=None)
@given(ACTIONS)
def test_a_normalised_chunk_comes_back_with_its_gripper_by_sign(actions: np.ndarray) -> None:
    chunk = CODEC.normalise_chunk(actions)
    np.testing.assert_array_equal(chunk[:, :6], CODEC.normalise(actions)[:, :6])
    np.testing.assert_allclose(
        chunk[:, 6], np.clip(actions[:, 6], -1, 1), atol=1e-12
    )  # -1 opens, as in the environment
    back = CODEC.denormalise_chunk(chunk)
    np.testing.assert_allclose(back[:, :6], np.clip(actions[:, :6], np.array(LOW)[:6], np.array(HIGH)[:6]), atol=1e-9)
    np.testing.assert_array_equal(back[:, 6], np.where(chunk[:, 6] >= 0, 1.0, -1.0))


def test_a_chunk_is_clipped_and_never_holds_nonsense() -> None:
    np.testing.assert_allclose(CODEC.denormalise_chunk(np.full(7, 5.0)), [*HIGH[:6], 1.0])
    np.testing.assert_allclose(CODEC.denormalise_chunk(np.full((2, 7), -5.0)), [[*LOW[:6], -1.0]] * 2)
    for broken in (np.full(7, np.nan), np.full(7, np.inf), np.zeros(6)):
        with pytest.raises(BadInput, match="7 finite numbers"):
            CODEC.denormalise_chunk(broken)
