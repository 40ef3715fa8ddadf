"""Acceptance rules: which draft tokens are kept. Pure functions of one signature, so presets only choose and bind.

    rule(drafts: DraftTree, scores: Scores, codec: ActionCodec) -> Verdict

What every rule shares:

* A draft token is compared with the target's token **conditioned on the draft's own tokens before it**, as the tree
  gives it. Behind a relaxed token that is not the token plain decoding would have had: the target has seen the relaxed
  action so far and answers to it.
* Every chain is judged under its own prefix. The chain with most kept tokens wins; of those the one closest to the
  target (sum of bins), then the heaviest, then the smallest tokens, so that the order of candidates never matters.
* Behind the kept tokens the target's own token is added while the action has room: it costs nothing.
* The gripper token is kept only when it is the target's. Nothing is lost by that: it is the last token, and the
  forward that rejects it has already told the target's.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from heisd.codec import GRIPPER, ActionCodec
from heisd.errors import BadInput
from heisd.types import Scores, StopReason, TokenOrigin, Verdict
from heisd.verify import DraftChain, DraftTree

SPEC_VLA_TOLERANCE_BINS = 9  # Spec-VLA's choice on LIBERO Goal, Object and Spatial; 5 on Long
KERV_TOLERANCE_BINS = (5, 15)  # KERV's r_min and r_max
BLOCKS = ((0, 3), (3, 6), (6, 7))  # position, rotation, gripper: first token, one past the last


@dataclass(frozen=True, slots=True)
class BlockBounds:
    """How far a block of three tokens (position or rotation) may be from the target's. Both bounds are inclusive."""

    max_sum_bins: int
    max_token_bins: int
    # True keeps the leading tokens of a failing block that equal the target's: the action is the same as if they
    # were decoded, at fewer forwards. The published rule drops the block as a whole.
    keeps_equal_tokens: bool = True

    def __post_init__(self) -> None:
        if min(self.max_sum_bins, self.max_token_bins) < 0:
            raise BadInput(f"bounds are 0 bins or more; got {self.max_sum_bins} and {self.max_token_bins}")

    def allow(self, deviation_bins: Sequence[int]) -> bool:
        """Whether a block that is not the target's may be kept at this distance; a bound of 0 bins keeps none."""
        if not (self.max_sum_bins and self.max_token_bins):
            return False  # also where two ids decode to one value: a bound of 0 means the exact rule
        return sum(deviation_bins) <= self.max_sum_bins and max(deviation_bins) <= self.max_token_bins


HEISD_PAPER = BlockBounds(30, 15, keeps_equal_tokens=False)  # sum <= 30, each <= 15
HEISD_CODE = BlockBounds(44, 24, keeps_equal_tokens=False)  # released code: sum < 45, max < 25


class Rule(Protocol):
    """What the engine calls; rules with parameters are bound with ``functools.partial``."""

    def __call__(self, drafts: DraftTree, scores: Scores, codec: ActionCodec) -> Verdict:
        """Decide what is kept of ``drafts``."""
        ...


def exact(drafts: DraftTree, scores: Scores, codec: ActionCodec) -> Verdict:
    """Keep the longest chain of tokens equal to the target's: the action is greedy decoding's, token for token.

    The same as :func:`relaxed` with tolerance 0. This rule has to be quick: it follows the target's tokens, with the
    chains that agree so far, in place of judging every chain by itself.
    """
    _require_length(drafts, codec)
    behind, own = drafts.behind(scores), drafts.first_target(scores)
    kept: list[DraftChain] = []
    agreeing = [chain for chain in drafts.chains if chain.tokens and chain.tokens[0] == own]
    n = 0
    while agreeing:
        kept, n = agreeing, n + 1
        if drafts.position + n == drafts.length:
            break
        own = behind[kept[0].path[n - 1]]  # the same node for all of them
        agreeing = [chain for chain in kept if len(chain.tokens) > n and chain.tokens[n] == own]
    if not kept:
        why = StopReason.MISMATCH if any(chain.tokens for chain in drafts.chains) else StopReason.NO_DRAFT
        return Verdict((own,), (TokenOrigin.DECODED,), (0,), drafts.committed(()), 0, why, "")
    best = min(kept, key=lambda chain: (-chain.weight, chain.tokens, chain.source))
    tokens, origins = best.tokens[:n], (TokenOrigin.ACCEPTED,) * n
    if drafts.position + n < drafts.length:
        tokens, origins = (*tokens, own), (*origins, TokenOrigin.DECODED)
    why = _reason(drafts, best, n, StopReason.MISMATCH)
    return Verdict(tokens, origins, (0,) * len(tokens), drafts.committed(best.path[:n]), n, why, best.source)


def relaxed(
    drafts: DraftTree,
    scores: Scores,
    codec: ActionCodec,
    *,
    tolerance_bins: int | Sequence[int] = SPEC_VLA_TOLERANCE_BINS,
) -> Verdict:
    """Keep the longest chain of tokens within a tolerance of the target's (Spec-VLA, relaxed acceptance).

    ``tolerance_bins`` is one number for every dimension but the gripper, or one number per dimension with 0 for
    the gripper (Spec-VLA itself relaxes the gripper too; this rule never does). Ids that decode to the same value
    are 0 bins apart. Tolerance 0 is :func:`exact`. Raises BadInput for another number of tolerances, a negative
    one, or a tolerant gripper.
    """
    tolerances = _tolerances(tolerance_bins, codec.length)

    def keep(chain: _Compared) -> tuple[int, StopReason]:
        allowed = tolerances[drafts.position :]
        within = (
            equal or 0 < most >= deviation
            for equal, deviation, most in zip(chain.equal, chain.deviation_bins, allowed, strict=False)
        )
        n = _n_leading(within)
        return n, StopReason.GRIPPER if drafts.position + n == GRIPPER else StopReason.OVER_TOLERANCE

    return _decide(drafts, scores, codec, keep)


def sequence(drafts: DraftTree, scores: Scores, codec: ActionCodec, *, bounds: BlockBounds = HEISD_PAPER) -> Verdict:
    """Keep whole blocks: position, then rotation within ``bounds``, then an equal gripper (HeiSD, sequence-wise).

    Candidates recombine across blocks when the tree holds the combinations (:func:`heisd.verify.recombine`), so
    that each rotation is judged behind the position it would follow. A block that the draft does not complete is
    kept as far as its tokens equal the target's. A draft that starts inside a block is bounded by its own tokens:
    what precedes it there is the target's. Raises BadInput unless an action has seven tokens.
    """
    if codec.length != BLOCKS[-1][1]:
        raise BadInput(f"the sequence rule knows actions of {BLOCKS[-1][1]} tokens; this codec has {codec.length}")
    return _decide(drafts, scores, codec, lambda chain: _keep_blocks(chain, drafts.position, bounds))


def unchecked(drafts: DraftTree, scores: Scores, codec: ActionCodec) -> Verdict:
    """Keep the heaviest chain whatever the target says (KERV: the filter completes the action).

    Its tokens are COMPENSATED. The gripper is the target's own, as the forward behind the chain tells it: filling it
    too, as the published code does, repeats the old command at a grasp or a release.
    """
    verdict = _decide(drafts, scores, codec, lambda chain: (len(chain.chain.path), StopReason.DRAFT_ENDED))
    origins = [
        TokenOrigin.DECODED if origin is TokenOrigin.DECODED else TokenOrigin.COMPENSATED for origin in verdict.origins
    ]
    return replace(verdict, origins=tuple(origins))


def adaptive(
    drafts: DraftTree,
    scores: Scores,
    codec: ActionCodec,
    *,
    variability: float,
    high_variability: float,
    tolerance_range_bins: tuple[int, int] = KERV_TOLERANCE_BINS,
) -> Verdict:
    """:func:`relaxed` with a tolerance that shrinks as the motion varies more (KERV, threshold adjustment)."""
    r_bins = kinematic_tolerance_bins(variability, high_variability, tolerance_range_bins)
    return relaxed(drafts, scores, codec, tolerance_bins=r_bins)


def kinematic_tolerance_bins(
    variability: float, high_variability: float, tolerance_range_bins: tuple[int, int] = KERV_TOLERANCE_BINS
) -> int:
    """KERV's r: linear from r_max at variability 0 to r_min at ``high_variability`` and above, rounded down.

    The paper gives the range and the direction but not the formula; the line is this project's reading.
    Variability that is NaN gives r_min. Raises BadInput when ``high_variability`` is not a positive number or the
    range is not ``0 <= r_min <= r_max``.
    """
    low, high = tolerance_range_bins
    if not 0 <= low <= high:
        raise BadInput(f"a tolerance range is r_min <= r_max, both 0 or more; got {tolerance_range_bins}")
    if not 0 < high_variability < math.inf:
        raise BadInput(f"high_variability must be a positive number; got {high_variability}")
    if math.isnan(variability):
        return low
    share = min(max(variability / high_variability, 0.0), 1.0)
    return math.floor(high - (high - low) * share)


def scheduled_tolerance_bins(step: int, *, horizon: int = 300, start_bins: int = 15, end_bins: int = 3) -> int:
    """The released KERV code's r: a cubic exponential of the control step, from 15 down to 3, rounded down.

    ``r(t) = end + (start - end) exp(-(t / tau)^3)`` with ``tau`` such that the exponential is 1e-30 at ``horizon``.
    Raises BadInput for a negative step or a horizon below 1.
    """
    if step < 0 or horizon < 1:
        raise BadInput(f"step must be 0 or more and horizon 1 or more; got {step} and {horizon}")
    decay = math.exp(math.log(1e-30) * (step / horizon) ** 3)
    return math.floor(end_bins + (start_bins - end_bins) * decay)


@dataclass(frozen=True, slots=True)
class _Compared:
    """A chain beside the target's tokens along it."""

    chain: DraftChain
    targets: tuple[int, ...]  # one per node of the path, and the one before them
    deviation_bins: tuple[int, ...]  # (L,)

    @property
    def equal(self) -> tuple[bool, ...]:
        return tuple(ours == theirs for ours, theirs in zip(self.chain.tokens, self.targets, strict=False))


_Keep = Callable[[_Compared], tuple[int, StopReason]]  # -> kept tokens; why not more


def _decide(drafts: DraftTree, scores: Scores, codec: ActionCodec, keep: _Keep) -> Verdict:
    """Judge every chain by itself, choose the best, add the target's own token."""
    _require_length(drafts, codec)
    compared = [chain for chain in _compare(drafts, scores, codec) if chain.chain.tokens]
    if not compared:
        return _settle(drafts, (drafts.first_target(scores),), None, 0, StopReason.NO_DRAFT)
    judged = [(chain, *keep(chain)) for chain in compared]
    best, n, reason = min(judged, key=_preference)
    return _settle(drafts, best.targets, best, n, _reason(drafts, best.chain, n, reason))


def _require_length(drafts: DraftTree, codec: ActionCodec) -> None:
    if drafts.length != codec.length:
        raise BadInput(f"the tree was merged for {drafts.length} tokens an action; the codec has {codec.length}")


def _reason(drafts: DraftTree, chain: DraftChain, n: int, otherwise: StopReason) -> StopReason:
    """Why no more than ``n`` tokens of a chain were kept."""
    if n < len(chain.tokens):
        return otherwise
    return StopReason.COMPLETE if drafts.position + n == drafts.length else StopReason.DRAFT_ENDED


def _compare(drafts: DraftTree, scores: Scores, codec: ActionCodec) -> list[_Compared]:
    targets = drafts.targets(scores)
    ours = [token for chain in drafts.chains for token in chain.tokens]
    theirs = [t for chain, along in zip(drafts.chains, targets, strict=True) for t in along[: len(chain.tokens)]]
    bins = codec.bins_of_tokens(np.asarray([ours, theirs], dtype=np.int64))
    deviations = iter(np.abs(bins[0] - bins[1]).tolist())
    return [
        _Compared(chain, along, tuple(next(deviations) for _ in chain.tokens))
        for chain, along in zip(drafts.chains, targets, strict=True)
    ]


def _preference(judged: tuple[_Compared, int, StopReason]) -> tuple[int, int, float, tuple[int, ...], str]:
    chain, n, _ = judged
    return -n, sum(chain.deviation_bins[:n]), -chain.chain.weight, chain.chain.tokens, chain.chain.source


def _settle(drafts: DraftTree, targets: Sequence[int], kept: _Compared | None, n: int, reason: StopReason) -> Verdict:
    tokens: list[int] = []
    origins: list[TokenOrigin] = []
    deviations: list[int] = []
    path: tuple[int, ...] = ()
    source = ""
    if kept is not None and n:
        tokens, path, source = list(kept.chain.tokens[:n]), kept.chain.path[:n], kept.chain.source
        origins = [TokenOrigin.ACCEPTED if equal else TokenOrigin.RELAXED for equal in kept.equal[:n]]
        deviations = list(kept.deviation_bins[:n])
    if drafts.position + n < drafts.length:
        tokens.append(targets[n])
        origins.append(TokenOrigin.DECODED)
        deviations.append(0)
    return Verdict(tuple(tokens), tuple(origins), tuple(deviations), drafts.committed(path), n, reason, source)


def _keep_blocks(chain: _Compared, position: int, bounds: BlockBounds) -> tuple[int, StopReason]:
    n, n_tokens = 0, len(chain.chain.tokens)
    for first, end in BLOCKS:
        if position + n >= end or n == n_tokens:
            continue
        stop = end - position  # of this block, counted from the draft's first token
        equal = _n_leading(chain.equal[n:stop])
        is_whole = stop <= n_tokens
        if n + equal < min(stop, n_tokens):
            if first == GRIPPER:
                return n, StopReason.GRIPPER
            if not is_whole:
                return n + equal, StopReason.BLOCK_UNFINISHED
            if not bounds.allow(chain.deviation_bins[n:stop]):
                return n + (equal if bounds.keeps_equal_tokens else 0), StopReason.OVER_BLOCK_BOUNDS
        n = min(stop, n_tokens)
    return n, StopReason.DRAFT_ENDED


def _tolerances(tolerance_bins: int | Sequence[int], length: int) -> tuple[int, ...]:
    if isinstance(tolerance_bins, int):
        values = tuple(0 if i == GRIPPER else tolerance_bins for i in range(length))
    else:
        values = tuple(tolerance_bins)
    if len(values) != length or min(values, default=0) < 0:
        raise BadInput(f"give one tolerance, or {length}, of 0 bins or more; got {tolerance_bins}")
    if length > GRIPPER and values[GRIPPER]:
        raise BadInput(f"the gripper is never relaxed: entry {GRIPPER} must be 0; got {values[GRIPPER]}")
    return values


def _n_leading(passes: Iterable[bool]) -> int:
    """How many pass before the first that does not."""
    n = 0
    for is_kept in passes:
        if not is_kept:
            break
        n += 1
    return n
