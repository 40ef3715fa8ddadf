"""Ablations: each is a preset but for one part, so that the part's worth can be told (docs/ablations.md).

:data:`heisd.presets.ABLATIONS` names them. A wiring takes its parent's own decisions and replaces what is ablated.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from heisd.accept import SPEC_VLA_TOLERANCE_BINS, BlockBounds, Rule, relaxed, sequence
from heisd.codec import GRIPPER, N_BINS, ActionCodec
from heisd.engine import Engine
from heisd.index.share import share_of
from heisd.kinematics import Reading
from heisd.presets import builder, heisd, kerv, memory, ours, spec_vla
from heisd.presets.assets import Assets
from heisd.route.calibrated import SkipScore
from heisd.route.fixed import Fixed
from heisd.route.heisd import SKIPS_IN_A_ROW, AdaptiveSkip
from heisd.telemetry import Sink
from heisd.types import Scores, StopReason, TokenOrigin, Verdict
from heisd.verify import DraftTree

ALWAYS_SURE = SkipScore((), (), (), (), 60.0)  # probability 1 but for rounding, whatever is known


def boundary(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """HeiSD's hybrid boundary alone: plain decoding on fast motion, the drafter on slow (released code, mode 1)."""
    return heisd.engine(assets, replace(heisd.code_router(assets), n_skips=0, fast_rule=None), sink)


def skip(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """Boundary and verify-skip: two fast steps unverified, the third decoded plainly (released code, mode 2)."""
    return heisd.engine(assets, replace(heisd.code_router(assets), fast_rule=None), sink)


def adaptive(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """The paper's similarity threshold decides a skip, in place of the fixed pattern."""
    decides = AdaptiveSkip(assets.calibration().adaptive_similarity)
    return heisd.engine(assets, replace(heisd.code_router(assets), skip=decides), sink)


def speed(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """A plain speed gate in place of F: is there more to the fused metric than the hand's speed?"""
    return heisd.engine(assets, replace(heisd.code_router(assets), reading=Reading.SPEED), sink)


def bounds(assets: Assets, sink: Sink | None = None, *, max_sum_bins: int, max_token_bins: int) -> Engine[Any, Any]:
    """Other bounds of a block; the released code's are exclusive, these inclusive."""
    router = heisd.code_router(assets)
    limits = BlockBounds(max_sum_bins, max_token_bins, keeps_equal_tokens=False)
    return heisd.engine(assets, replace(router, fast_rule=partial(sequence, bounds=limits)), sink)


def any_gripper(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """Of a guess whose position and rotation pass, the gripper is kept too, whatever it is."""
    router = heisd.code_router(assets)
    assert router.fast_rule is not None, "the released code checks blocks"
    return heisd.engine(assets, replace(router, fast_rule=RelaxedGripper(router.fast_rule, N_BINS)), sink)


def gripper_to_nine(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """As published: the gripper within r = 9 bins is kept like any other token."""
    rule = partial(relaxed, tolerance_bins=SPEC_VLA_TOLERANCE_BINS)
    return spec_vla.drafting(assets, RelaxedGripper(rule, SPEC_VLA_TOLERANCE_BINS), sink)


def narrow(assets: Assets, sink: Sink | None = None, *, of: str, nodes: int) -> Engine[Any, Any]:
    """``of`` with smaller trees than the published fifty nodes: a row costs time here, and next to none on a GPU."""
    engine: Engine[Any, Any] = builder(of)(assets, sink, nodes=nodes)
    return engine


def persistence(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """The last action completes what a verification leaves open: what the Kalman filter has to beat."""
    router = replace(kerv.paper_router(assets), filter="persistence")
    return kerv.engine(assets, router, assets.proposer("persistence"), sink)


def two_to_one(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """``hybrid``'s source and guards with the fixed pattern in place of the calibrated score and number of skips."""
    router = ours.skip_router(assets, "hybrid")
    return ours.skipping(assets, replace(router, score=ALWAYS_SURE, threshold=0.0, n_skips=SKIPS_IN_A_ROW), sink)


def exact_two_pass(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """A plain prefill, then the guesses in a forward of their own: a whole action costs two at least, not one."""
    return ours.guessing(assets, Fixed(later=("parallel",)), sink)


def memory_two_pass(assets: Assets, sink: Sink | None = None) -> Engine[Any, Any]:
    """A plain prefill, then memory's guesses in a forward of their own, as the released HeiSD code does."""
    return memory.checking(assets, Fixed(later=("retrieval",)), sink)


def store_share(assets: Assets, sink: Sink | None = None, *, of: str, percent: int) -> Engine[Any, Any]:
    """The preset ``of`` with a smaller memory; thresholds stay those that were calibrated with the whole."""
    engine: Engine[Any, Any] = builder(of)(assets.with_store(share_of(assets.store(), percent / 100)), sink)
    return engine


@dataclass(frozen=True, slots=True)
class RelaxedGripper:
    """``rule``, but where nothing except the gripper token of the kept guess fails, it is kept within a tolerance.

    Ablations only: elsewhere the gripper is never relaxed, and no forward would be saved by it (the forward that
    judges the six tokens before it has already told the target's own).
    """

    rule: Rule
    tolerance_bins: int  # at most so many from the target's; N_BINS: any

    def __call__(self, drafts: DraftTree, scores: Scores, codec: ActionCodec) -> Verdict:
        """The rule's verdict, or the same with the guess's own gripper token at its end."""
        verdict = self.rule(drafts, scores, codec)
        guess = self._guess(drafts, verdict)
        if guess is None:
            return verdict
        pair = codec.bins_of_tokens(np.asarray([[guess], [verdict.tokens[-1]]], dtype=np.int64))
        deviation = abs(int(pair[0, 0]) - int(pair[1, 0]))
        if deviation > self.tolerance_bins:
            return verdict
        return replace(
            verdict,
            tokens=(*verdict.tokens[:-1], guess),
            origins=(*verdict.origins[:-1], TokenOrigin.RELAXED),
            deviation_bins=(*verdict.deviation_bins[:-1], deviation),
            n_accepted=verdict.n_accepted + 1,
            reason=StopReason.COMPLETE,
        )

    def _guess(self, drafts: DraftTree, verdict: Verdict) -> int | None:
        """The heaviest kept guess's gripper token, where the target's was taken in its place."""
        n = verdict.n_accepted
        if not n or drafts.position + n != GRIPPER:
            return None
        kept = [c for c in drafts.chains if c.source == verdict.source and c.tokens[:n] == verdict.tokens[:n]]
        whole = [chain for chain in kept if len(chain.tokens) > n]
        return max(whole, key=lambda chain: (chain.weight, chain.tokens)).tokens[n] if whole else None
