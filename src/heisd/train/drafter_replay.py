"""What a drafter is worth: recorded episodes decoded again, with its guesses checked against the recorded tokens.

The target is not run. Under the exact rule it would say what it said before, so its tokens and the hidden states from
which it chose them are all that a drafter can tell from the real thing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from heisd.codec import ActionCodec
from heisd.policies.target import OpenVLAPolicy
from heisd.propose.base import History, Proposer
from heisd.sim.dataset import unflatten_proprio
from heisd.train.rollouts import Rollout
from heisd.types import Action, FloatArray, TokenOrigin
from heisd.verify import merge

MAX_STEPS = 1_500  # of a replay
_STATES_BATCH = 64


@dataclass(slots=True)
class ReplayContext:
    """A recorded control step as a proposer sees it."""

    instruction: str
    prefix: Tensor  # (P, d)
    known: Tensor  # (n + 7, d) states of the prompt (all of them, or the last) and behind each token but the last
    n_prompt: int  # of them, the prompt's
    states: Tensor | None = None  # those read so far; None before the prefill

    @property
    def vision_key(self) -> FloatArray:
        """Not recorded: empty."""
        return np.empty(0, dtype=np.float32)

    def settle(self, n_settled: int) -> None:
        """The prefill is done and this many tokens of the action are settled, the last of them not yet read."""
        self.states = self.known[: self.n_prompt + n_settled - 1]


@dataclass(frozen=True, slots=True)
class Replay:
    """Means over control steps, unless they say otherwise. The target's own tokens are never counted as accepted."""

    n_steps: int
    accepted_first: float  # tokens accepted by the first forward that checks guesses
    accepted_per_verification: float  # mean over all forwards that check guesses
    forwards_per_action: float  # of the language model; 7 without guesses
    rows_per_action: float  # that guesses added to them
    whole_actions: float  # share settled by a single forward

    def as_dict(self) -> dict[str, float]:
        """Plain values for ``--json``."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


def replay(
    proposer: Proposer,
    rollouts: Sequence[Rollout],
    policy: OpenVLAPolicy,
    *,
    max_nodes: int = 48,
    needs_prompt_states: bool = False,
    max_steps: int = MAX_STEPS,
) -> Replay:
    """Decode recorded episodes with one proposer's guesses under the exact rule, every one as the engine would.

    ``needs_prompt_states`` computes the states of the prompt's positions too, for a drafter that reads them.
    """
    checks: list[tuple[bool, int]] = []  # was the action's first check; tokens accepted
    n_steps = n_forwards = n_rows = n_whole = 0
    for context, history, tokens in _steps(rollouts, policy, needs_prompt_states):
        if n_steps == max_steps:
            break
        found, forwards, rows = _decode(proposer, context, history, tokens, policy.codec, max_nodes)
        checks += [(i == 0, n) for i, n in enumerate(found)]
        n_steps, n_forwards, n_rows, n_whole = (
            n_steps + 1,
            n_forwards + forwards,
            n_rows + rows,
            n_whole + (forwards == 1),
        )
    firsts = [n for is_first, n in checks if is_first]
    n = max(n_steps, 1)
    return Replay(
        n_steps,
        float(np.mean(firsts)) if firsts else 0.0,
        float(np.mean([n for _, n in checks])) if checks else 0.0,
        n_forwards / n,
        n_rows / n,
        n_whole / n,
    )


def _decode(
    proposer: Proposer,
    context: ReplayContext,
    history: History,
    tokens: Sequence[int],
    codec: ActionCodec,
    max_nodes: int,
) -> tuple[list[int], int, int]:
    """Tokens accepted by each check, language-model forwards, rows added; the loop of ``Engine``, its target known."""
    accepted: list[int] = []
    n_settled = forwards = rows = 0
    while n_settled < codec.length:
        if n_settled:
            context.settle(n_settled)
        is_last = n_settled == codec.length - 1
        draft = None if is_last else proposer.propose(context, history.with_settled(tuple(tokens[:n_settled])))
        forwards, kept = forwards + 1, 0
        if draft is not None:
            known = tokens[n_settled - 1] if n_settled else None
            drafts = merge([draft], position=n_settled, length=codec.length, max_nodes=max_nodes, known=known)
            rows += len(drafts.tree.tokens) - (known is not None)
            kept = max(_n_same(chain.tokens, tokens[n_settled:]) for chain in drafts.chains)
            accepted.append(kept)
        n_settled += kept + 1
    return accepted, forwards, rows


def _n_same(guess: Sequence[int], truth: Sequence[int]) -> int:
    for i, (ours, theirs) in enumerate(zip(guess, truth, strict=False)):
        if ours != theirs:
            return i
    return min(len(guess), len(truth))


def _steps(
    rollouts: Sequence[Rollout], policy: OpenVLAPolicy, needs_prompt_states: bool
) -> Iterator[tuple[ReplayContext, History, list[int]]]:
    codec = policy.codec
    for rollout in rollouts:
        history = History.empty(codec.length)
        prompt = _prompt_states(rollout, policy) if needs_prompt_states else rollout.hidden[:, :1]
        for t in range(len(rollout)):
            history = history.observed(unflatten_proprio(rollout.proprio[t].numpy()))
            ids = rollout.tokens[t].numpy().astype(np.int64)
            known = torch.cat([prompt[t], rollout.hidden[t, 1:]]).float()
            yield (
                ReplayContext(rollout.instruction, rollout.prefix[t].float(), known, len(prompt[t])),
                history,
                ids.tolist(),
            )
            history = history.acted(Action(codec.decode(ids), ids, (TokenOrigin.DECODED,) * codec.length))


@torch.inference_mode()
def _prompt_states(rollout: Rollout, policy: OpenVLAPolicy) -> Tensor:
    """(T, P, d) float16."""
    hidden = policy.model.language_model.hidden
    return torch.cat([hidden(rows.float()).half() for rows in rollout.prefix.split(_STATES_BATCH)])  # type: ignore[no-untyped-call]
