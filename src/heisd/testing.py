"""For people who extend heisd: does my part keep its contract?

from heisd.testing import check_proposer
check_proposer(MyProposer(codec), codec)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heisd.accept import exact
from heisd.codec import GRIPPER, ActionCodec
from heisd.errors import BrokenContract
from heisd.policies.protocol import Context
from heisd.propose.base import History, Proposer, check_draft
from heisd.types import Action, Draft, FloatArray, Proprioception, Scores, TokenOrigin, Verdict
from heisd.verify import merge

_METHODS = ("reset", "propose", "observe")


@dataclass(frozen=True, slots=True)
class SyntheticContext:
    """A context without a policy behind it."""

    vision_key: FloatArray  # (K,) float32
    instruction: str = "pick up the milk and place it in the basket"


def synthetic_episode(
    codec: ActionCodec, *, n_steps: int = 12, seed: int = 0, key_size: int = 32
) -> list[tuple[SyntheticContext, History]]:
    """What a proposer sees at each step of a smooth random motion: step ``i`` has ``i`` past actions.

    The action changes by about a bin a step, the gripper closes half-way. The same seed gives the same episode.
    """
    rng = np.random.default_rng(seed)
    low, high = np.asarray(codec.q01), np.asarray(codec.q99)
    history, steps = History.empty(codec.length), []
    level = rng.uniform(0.3, 0.7, codec.length)
    for i in range(n_steps):
        history = history.observed(_proprioception(rng))
        steps.append((SyntheticContext(rng.normal(size=key_size).astype(np.float32)), history))
        level = np.clip(level + rng.normal(0.0, 1.0 / 255.0, codec.length), 0.0, 1.0)
        values = low + (high - low) * level
        if codec.length > GRIPPER:
            values[GRIPPER] = -1.0 if 2 * i < n_steps else 1.0
        tokens = codec.encode(values)
        history = history.acted(Action(codec.decode(tokens), tokens, (TokenOrigin.DECODED,) * codec.length))
    return steps


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
    for method in _METHODS:
        if not callable(getattr(proposer, method, None)):
            raise BrokenContract(who, f"it has the methods {', '.join(_METHODS)}", f"no {method}")
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


def _proprioception(rng: np.random.Generator) -> Proprioception:
    quat = rng.normal(size=4)
    return Proprioception(
        eef_pos_m=rng.normal([0.0, 0.0, 1.0], 0.2),
        eef_quat_xyzw=quat / np.linalg.norm(quat),
        gripper_qpos_m=np.array([1.0, -1.0]) * rng.uniform(0.0, 0.04),
        gripper_qvel_m_s=rng.normal(0.0, 0.05, 2),
        joint_pos_rad=rng.normal(size=7),
        joint_vel_rad_s=rng.normal(size=7),
    )
