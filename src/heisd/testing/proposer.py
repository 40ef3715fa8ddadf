"""Does a proposer keep its contract? See :func:`check_proposer`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from heisd.acceleration import PROPOSER_CALLS
from heisd.accept import exact
from heisd.codec import ActionCodec
from heisd.errors import BrokenContract
from heisd.policies.protocol import Context
from heisd.propose.base import History, Proposer, check_draft
from heisd.testing.synthetic import synthetic_episode
from heisd.types import Draft, Scores, Verdict
from heisd.verify import merge


def check_proposer(
    proposer: Proposer,
    codec: ActionCodec,
    *,
    contexts: Sequence[Context] | None = None,
    n_steps: int = 12,
    seed: int = 0,
) -> None:
    """Run a proposer through two equal episodes and through damaged histories.

    Checked: the three methods exist and do not raise; every draft is one that can be merged (shapes, types, ids in
    the action vocabulary, finite scores) and continues the settled tokens; after ``reset`` the same inputs give the
    same drafts; the arguments are not changed; an empty history, NaN, infinities and foreign ids are survived.

    Args:
        proposer: what to check. It is reset.
        codec: of the policy that the proposer guesses for.
        contexts: real contexts, one a step (a retrieval proposer needs keys of its store's size); None: random ones.
        n_steps: control steps of an episode, when ``contexts`` is None.
        seed: of the synthetic motion.

    Raises:
        BrokenContract: names the clause that is broken and what was found.
    """
    who = f"proposer {type(proposer).__name__}"
    for method in PROPOSER_CALLS:
        if not callable(getattr(proposer, method, None)):
            raise BrokenContract(who, f"it has the methods {', '.join(PROPOSER_CALLS)}", f"no {method}")
    episode: list[tuple[Context, History]] = []
    episode.extend(synthetic_episode(codec, n_steps=n_steps if contexts is None else len(contexts), seed=seed))
    if contexts is not None:
        episode = [(context, history) for context, (_, history) in zip(contexts, episode, strict=True)]
    first = _run_episode(proposer, who, codec, episode)
    if first != _run_episode(proposer, who, codec, episode):
        raise BrokenContract(who, "after reset the same inputs give the same drafts", "different drafts")
    for context, history in episode[-1:]:
        for damaged in _damaged(history):
            _call(who, "reset", proposer.reset)
            _propose(proposer, who, codec, context, damaged)


def _run_episode(
    proposer: Proposer, who: str, codec: ActionCodec, episode: Sequence[tuple[Context, History]]
) -> list[Draft | None]:
    _call(who, "reset", proposer.reset)
    drafts: list[Draft | None] = []
    for context, history in episode:
        action = codec.tokens_of_bins(np.full(codec.length, 100)).tolist()
        for n_settled in sorted({0, codec.length // 2, codec.length - 1}):
            draft = _propose(proposer, who, codec, context, history.with_settled(tuple(action[:n_settled])))
            drafts.append(draft)
            if draft is not None:
                _call(who, "observe", proposer.observe, _verdict_on(draft, codec, n_settled))
    return drafts


def _propose(proposer: Proposer, who: str, codec: ActionCodec, context: Context, history: History) -> Draft | None:
    """One call on writable copies, so that a proposer that writes is found out and spoils nothing."""
    given = replace(history, actions=history.actions.copy(), tokens=history.tokens.copy())
    key = np.array(context.vision_key)
    draft = _call(who, "propose", proposer.propose, context, given)
    same = [
        np.array_equal(given.actions, history.actions, equal_nan=True),
        np.array_equal(given.tokens, history.tokens),
        np.array_equal(np.asarray(context.vision_key), key, equal_nan=True),
    ]
    if not all(same):
        names = ("history.actions", "history.tokens", "context.vision_key")
        changed = [name for name, is_same in zip(names, same, strict=True) if not is_same]
        raise BrokenContract(who, "propose changes neither argument", f"another {', '.join(changed)}")
    return None if draft is None else check_draft(draft, codec, len(history.settled))


def _call(who: str, method: str, function: Callable[..., object], *args: object) -> object:
    try:
        return function(*args)
    except Exception as error:  # whatever it is, the author wants to be told by name
        raise BrokenContract(who, f"{method} never raises", f"{type(error).__name__}: {error}") from error


def _verdict_on(draft: Draft, codec: ActionCodec, n_settled: int) -> Verdict:
    """A target that agrees with the first token and with little else."""
    drafts = merge([draft], position=n_settled, length=codec.length, max_nodes=64)
    behind = np.full(len(drafts.tree.tokens), codec.first_token)
    return exact(drafts, Scores(draft.chains[0][0], behind, 1.0), codec)


def _damaged(history: History) -> Iterator[History]:
    yield History.empty(history.actions.shape[1])
    for value in (np.nan, np.inf, -np.inf):
        actions = history.actions.copy()
        actions[-1, 0] = value
        yield replace(history, actions=actions)
    tokens = history.tokens.copy()
    tokens[-1] = -1
    yield replace(history, tokens=tokens)
