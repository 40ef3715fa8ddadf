"""The proposer contract: history, persistence, registry, and what a draft must be."""

import subprocess
import sys
from dataclasses import replace

import draft_trees as dt
import numpy as np
import pytest

from heisd.errors import BadInput, BrokenContract, UnknownName
from heisd.propose.base import HISTORY_STEPS, History, check_draft
from heisd.propose.registry import PROPOSERS, create
from heisd.testing import SyntheticContext, check_proposer, synthetic_episode
from heisd.types import Action, Draft, TokenOrigin

CONTEXT = SyntheticContext(np.zeros(4, np.float32))
CODEC = dt.CODEC
# Those that need nothing but a codec; what reads an artifact has tests of its own.
FREE_STANDING = ("kalman", "kalman_code", "persistence")
every_proposer = pytest.mark.parametrize("name", FREE_STANDING)


def history_of(tokens: np.ndarray) -> History:
    """A past that executed these (n, 7) tokens."""
    history = History.empty(CODEC.length)
    for row in np.asarray(tokens, dtype=np.int64):
        history = history.acted(Action(CODEC.decode(row), row, (TokenOrigin.DECODED,) * 7))
    return history


def last_history() -> History:
    return synthetic_episode(CODEC)[-1][1]


@every_proposer
def test_every_registered_proposer_keeps_the_contract(name: str) -> None:
    check_proposer(create(name, CODEC), CODEC)


@every_proposer
def test_a_drafts_source_is_the_registry_name_and_its_score_the_option(name: str) -> None:
    draft = create(name, CODEC, score=-1.5).propose(CONTEXT, last_history())
    assert draft is not None
    assert (draft.source, draft.scores) == (name, (-1.5,))


@every_proposer
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(-1, 0), (-1, 6), (-2, 3)])
def test_a_broken_history_gives_no_draft(name: str, value: float, place: tuple[int, int]) -> None:
    history = last_history()
    actions = history.actions.copy()
    actions[place] = value
    draft = create(name, CODEC).propose(CONTEXT, replace(history, actions=actions))
    assert draft is None or (name == "persistence" and place[0] == -2)  # which reads the last action only


@every_proposer
def test_foreign_ids_and_an_empty_past_give_no_draft(name: str) -> None:
    proposer, history = create(name, CODEC), last_history()
    assert proposer.propose(CONTEXT, History.empty(7)) is None
    for token in (-1, CODEC.first_token - 1, CODEC.vocab_size):
        tokens = history.tokens.copy()
        tokens[-1, 2] = token
        assert proposer.propose(CONTEXT, replace(history, tokens=tokens)) is None


@every_proposer
def test_a_draft_continues_the_settled_tokens_and_a_complete_action_gets_none(name: str) -> None:
    proposer, history = create(name, CODEC), last_history()
    whole = proposer.propose(CONTEXT, history)
    assert whole is not None
    for n in range(1, 7):
        rest = proposer.propose(CONTEXT, history.with_settled((CODEC.first_token,) * n))
        assert rest is not None
        assert rest.chains == (whole.chains[0][n:],)
    assert proposer.propose(CONTEXT, history.with_settled((CODEC.first_token,) * 7)) is None


def test_persistence_repeats_the_last_tokens(rng: np.random.Generator) -> None:
    tokens = rng.integers(CODEC.first_token, CODEC.vocab_size, (5, 7))
    draft = create("persistence", CODEC).propose(CONTEXT, history_of(tokens))
    assert draft == Draft((tuple(tokens[-1].tolist()),), "persistence", (0.0,))


def test_history_remembers_a_bounded_past_and_is_read_only(rng: np.random.Generator) -> None:
    tokens = rng.integers(CODEC.first_token, CODEC.vocab_size, (HISTORY_STEPS + 9, 7))
    history = history_of(tokens)
    np.testing.assert_array_equal(history.tokens, tokens[9:])
    np.testing.assert_array_equal(history.actions, CODEC.decode(tokens[9:]))
    with pytest.raises(ValueError, match="read-only"):
        history.actions[0, 0] = 1.0


def test_history_holds_the_states_in_which_its_actions_were_chosen_and_the_present_one() -> None:
    for i, (_, history) in enumerate(synthetic_episode(CODEC, n_steps=HISTORY_STEPS + 5)):
        n = min(i, HISTORY_STEPS)
        assert len(history.actions) == len(history.tokens) == n
        assert len(history.proprioception) == n + 1
    assert history.with_settled((1,)).observed(history.proprioception[0]).settled == ()


def test_unknown_names_and_options_are_refused_with_those_that_exist() -> None:
    assert set(FREE_STANDING) < set(PROPOSERS)
    with pytest.raises(UnknownName, match=f"unknown proposer 'kalmann'; known: {', '.join(sorted(PROPOSERS))}"):
        create("kalmann", CODEC)
    with pytest.raises(BadInput, match="unexpected keyword argument 'scores'; its options: score"):
        create("persistence", CODEC, scores=1.0)


GOOD = (CODEC.first_token,) * 7


def broken(**changes: object) -> Draft:
    return replace(Draft((GOOD, GOOD[:3]), "mine", (0.0, -1.0)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("draft", "clause"),
    [
        ("nonsense", "returns a Draft or None"),
        (broken(source=""), "names its source"),
        (broken(source=3), "names its source"),
        (broken(chains=()), "at least one chain"),
        (broken(chains=np.asarray([GOOD])), "at least one chain"),
        (broken(chains=(GOOD, ())), "1 to 7 tokens"),
        (broken(chains=(GOOD, [1])), "1 to 7 tokens"),
        (broken(chains=(GOOD, (*GOOD, GOOD[0]))), "1 to 7 tokens"),
        (broken(chains=(GOOD, (1.0,))), "Python ints"),
        (broken(chains=(GOOD, (True,))), "Python ints"),
        (broken(chains=(GOOD, (np.int64(CODEC.first_token),))), "Python ints"),
        (broken(chains=(GOOD, (CODEC.first_token - 1,))), "744 to 999"),
        (broken(chains=(GOOD, (CODEC.vocab_size,))), "744 to 999"),
        (broken(scores=(0.0,)), "2 finite numbers"),
        (broken(scores=(0.0, float("nan"))), "2 finite numbers"),
        (broken(scores=(0.0, "a")), "2 finite numbers"),
        (broken(scores=None), "2 finite numbers"),
        (broken(scores=(-1.0, 0.0)), "best first"),
        (broken(log_probs=3), "tuple of tuples"),
        (broken(log_probs=((0.0,) * 7, (0.0,) * 2)), "one entry a token"),
        (broken(log_probs=((0.0,) * 7, (0.0, 0.1, 0.0))), "never above 0"),
        (broken(log_probs=((0.0,) * 7, (0.0, float("-inf"), 0.0))), "finite"),
    ],
)
def test_every_clause_of_a_draft_is_checked(draft: object, clause: str) -> None:
    with pytest.raises(BrokenContract, match=clause) as caught:
        check_draft(draft, CODEC, 0)
    assert caught.value.clause


def test_a_sound_draft_passes_and_one_too_long_behind_settled_tokens_does_not() -> None:
    draft = broken(log_probs=((0.0,) * 7, (-1.0,) * 3))
    assert check_draft(draft, CODEC, 0) is draft
    with pytest.raises(BrokenContract, match="1 to 4 tokens"):
        check_draft(draft, CODEC, 3)


def test_a_draft_made_of_an_array_is_sound() -> None:
    draft = Draft.of(np.asarray([GOOD, GOOD], dtype=np.int32), "array", np.asarray([0.5, 0.25], dtype=np.float32))
    assert check_draft(draft, CODEC, 0).scores == (0.5, 0.25)
    assert Draft.of(np.asarray([GOOD]), "array").scores == (0.0,)


def test_proposing_verifying_and_accepting_never_import_torch() -> None:
    names = "verify", "accept", "testing", "propose.base", "propose.registry", "propose.kalman", "propose.persistence"
    code = f"import {', '.join(f'heisd.{name}' for name in names)}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
