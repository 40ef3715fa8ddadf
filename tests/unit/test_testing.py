"""The contract checker finds deliberately broken proposers and names what they broke."""

from collections.abc import Sequence

import draft_trees as dt
import numpy as np
import pytest

from heisd.errors import BrokenContract
from heisd.policies.protocol import Context
from heisd.propose.base import History, Stateless
from heisd.propose.persistence import Persistence
from heisd.testing import SyntheticContext, check_proposer, synthetic_episode
from heisd.types import Draft, Verdict

CODEC = dt.CODEC


class Good(Persistence):
    """The base of what is broken below."""

    def __init__(self) -> None:
        super().__init__(CODEC)


class NoObserve:
    def reset(self) -> None: ...
    def propose(self, context: Context, history: History) -> Draft | None: ...


class Raises(Good):
    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        raise ZeroDivisionError("oops")


class RaisesOnEmptyHistory(Stateless):
    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        return dt.one(history.tokens[-1, len(history.settled) :].tolist())


class RaisesOnNaN(Good):
    def propose(self, context: Context, history: History) -> Draft | None:
        if np.isnan(history.actions).any():
            raise ValueError("NaN")
        return super().propose(context, history)


class RaisesInObserve(Good):
    def observe(self, verdict: Verdict) -> None:
        raise KeyError(verdict.source)


class RaisesInReset(Good):
    def reset(self) -> None:
        raise RuntimeError("no")


class NotADraft(Good):
    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        return history.tokens  # type: ignore[return-value]


class IgnoresSettled(Good):
    def propose(self, context: Context, history: History) -> Draft | None:
        return super().propose(context, history.with_settled(()))


class ForeignIds(Good):
    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        return dt.one((CODEC.vocab_size,))


class ForwardsForeignIds(Good):
    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        return dt.one(tuple(history.tokens[-1, -1:].tolist())) if len(history.tokens) else None


class Remembers(Good):
    """Survives reset with a memory of earlier calls."""

    calls = 0

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        self.calls += 1
        return dt.one((CODEC.first_token + self.calls % 256,))


class LearnsForever(Good):
    """Forgets nothing of what observe told it."""

    kept = 0

    def propose(self, context: Context, history: History) -> Draft | None:  # noqa: ARG002
        return dt.one((CODEC.first_token + self.kept % 256,))

    def observe(self, verdict: Verdict) -> None:
        self.kept += verdict.n_accepted


class WritesHistory(Good):
    def propose(self, context: Context, history: History) -> Draft | None:
        history.actions[...] = 0.0
        return super().propose(context, history)


class WritesTokens(Good):
    def propose(self, context: Context, history: History) -> Draft | None:
        history.tokens[-1:] += 1
        return super().propose(context, history)


class WritesKey(Good):
    def propose(self, context: Context, history: History) -> Draft | None:
        context.vision_key[0] += 1.0
        return super().propose(context, history)


@pytest.mark.parametrize(
    ("proposer", "message"),
    [
        (NoObserve, "NoObserve breaks its contract: it has the methods reset, propose, observe; found no observe"),
        (Raises, "Raises breaks its contract: propose never raises; found ZeroDivisionError: oops"),
        (RaisesOnEmptyHistory, "propose never raises; found IndexError"),
        (RaisesOnNaN, "propose never raises; found ValueError: NaN"),
        (RaisesInObserve, "observe never raises; found KeyError"),
        (RaisesInReset, "reset never raises; found RuntimeError: no"),
        (NotADraft, "propose returns a Draft or None; found ndarray"),
        (IgnoresSettled, "a chain is a tuple of 1 to 4 tokens here"),
        (ForeignIds, r"tokens are action ids, 744 to 999; found \(1000,\)"),
        (ForwardsForeignIds, "tokens are action ids"),
        (Remembers, "after reset the same inputs give the same drafts"),
        (LearnsForever, "after reset the same inputs give the same drafts"),
        (WritesHistory, r"propose changes neither argument; found another history\.actions"),
        (WritesTokens, r"propose changes neither argument; found another history\.tokens"),
        (WritesKey, r"propose changes neither argument; found another context\.vision_key"),
    ],
)
def test_a_broken_clause_is_named(proposer: type[Good], message: str) -> None:
    with pytest.raises(BrokenContract, match=message):
        check_proposer(proposer(), CODEC)


def test_a_sound_proposer_passes_with_synthetic_and_with_its_own_contexts() -> None:
    check_proposer(Good(), CODEC)

    class NeedsFourKeys(Good):
        def propose(self, context: Context, history: History) -> Draft | None:
            assert context.vision_key.shape == (4,)
            return super().propose(context, history)

    contexts: Sequence[Context] = [SyntheticContext(np.full(4, i, np.float32)) for i in range(5)]
    check_proposer(NeedsFourKeys(), CODEC, contexts=contexts)
    with pytest.raises(BrokenContract, match="AssertionError"):
        check_proposer(NeedsFourKeys(), CODEC)


def test_a_synthetic_episode_repeats_and_moves_smoothly() -> None:
    first, again = synthetic_episode(CODEC, seed=3), synthetic_episode(CODEC, seed=3)
    other = synthetic_episode(CODEC, seed=4)
    np.testing.assert_array_equal(first[-1][1].tokens, again[-1][1].tokens)
    assert not np.array_equal(first[-1][1].tokens, other[-1][1].tokens)
    steps = np.abs(np.diff(first[-1][1].tokens[:, :6], axis=0))
    assert 0 < steps.max() <= 6
    assert len(set(first[-1][1].tokens[:, 6].tolist())) == 2
