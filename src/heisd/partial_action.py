"""One action while its tokens are being settled, and what that took."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from heisd.codec import ActionCodec
from heisd.route.base import Outcome, Reason, Route
from heisd.types import Action, StepRecord, TokenOrigin, Verdict
from heisd.verify import DraftTree


class PartialAction:
    """The action as far as it is settled, and what that took; once it is whole, a token policy's answer."""

    __slots__ = (
        "codec",
        "drafters",
        "is_redone",
        "kept_by_source",
        "margins",
        "n_forwards",
        "n_rows",
        "origins",
        "positions",
        "route",
        "tokens",
        "verdicts",
        "verifications",
    )

    def __init__(self, codec: ActionCodec, route: Route) -> None:
        self.codec, self.route = codec, route
        self.tokens: list[int] = []
        self.origins: list[TokenOrigin] = []
        self.margins: list[float] = []  # of the tokens that the target decoded
        self.n_forwards = 0
        self.n_rows: list[int] = []  # guessed tokens in each verification's tree
        self.verdicts: list[Verdict] = []
        self.positions: list[int] = []  # of each verdict's first token
        self.verifications: list[tuple[int, int]] = []  # position of the first guessed token, tokens kept
        self.kept_by_source: Counter[str] = Counter()
        self.is_redone = False
        self.drafters: tuple[str, ...] = ()  # asked for the first check, behind the route's decision

    def may_be_filled(self, route: Route) -> bool:
        """Whether the route lets a proposer complete the action now."""
        return bool(route.completed_by and self.verdicts) and len(self.tokens) >= route.completes_from

    def add(self, tokens: Sequence[int], origins: Sequence[TokenOrigin], margin: float) -> None:
        """One forward settled these tokens; ``margin`` belongs to the last one if the target decoded it."""
        self.tokens += tokens
        self.origins += origins
        self.n_forwards += 1
        if origins[-1] is TokenOrigin.DECODED:
            self.margins.append(margin)

    def verified(self, guesses: DraftTree, verdict: Verdict) -> None:
        """That forward has judged guesses; one that keeps a filter's tokens unchecked verifies nothing (KERV)."""
        self.verdicts.append(verdict)
        self.positions.append(guesses.position)
        if TokenOrigin.COMPENSATED in verdict.origins:
            return
        self.verifications.append((guesses.position, verdict.n_accepted))
        self.n_rows.append(len(guesses.tree.tokens) - (guesses.known is not None))
        self.kept_by_source[verdict.source] += verdict.n_accepted

    def redo(self) -> None:
        """Forget what was settled; what it took still counts: forwards, rows, and checks that kept nothing."""
        self.tokens.clear()
        self.origins.clear()
        self.margins.clear()
        self.verdicts.clear()
        self.positions.clear()
        self.verifications = [(position, 0) for position, _ in self.verifications]
        self.kept_by_source.clear()
        self.is_redone = True

    def skip(self, tokens: Sequence[int]) -> None:
        """The action is ``tokens``, unverified."""
        self.tokens += tokens
        self.origins += [TokenOrigin.SKIPPED] * len(tokens)

    def action(self) -> Action:
        """The tokens, decoded."""
        ids = np.asarray(self.tokens, dtype=np.int64)
        return Action(self.codec.decode(ids), ids, tuple(self.origins))

    def outcome(self) -> Outcome:
        """What came of the route, for the router's memory."""
        tokens, verdicts = tuple(self.tokens), tuple(self.verdicts)
        return Outcome(
            self.route,
            verdicts,
            tuple(self.positions),
            tokens,
            self.n_forwards,
            tuple(self.n_rows),
            n_later_checks=sum(1 for position, _ in self.verifications if position > 0),
            is_redone=self.is_redone,
            drafters=self.drafters,
        )

    def record(
        self, step: int, latency_ms: float, stage_ms: Mapping[str, float], asked: Mapping[str, int]
    ) -> StepRecord:
        """Telemetry of the finished step; ``asked`` tells how often each proposer was."""
        return StepRecord(
            step=step,
            latency_ms=latency_ms,
            stage_ms=stage_ms,
            lm_forwards=self.n_forwards,
            origins={str(origin): n for origin, n in Counter(self.origins).items()},
            margins=tuple(self.margins),
            verifications=tuple(self.verifications),
            n_drafted=sum(self.n_rows),
            kept_by_source=dict(self.kept_by_source),
            route=str(self.route.kind),
            reason=str(Reason.TOO_CLOSE if self.is_redone else self.route.reason),
            score=self.route.score,
            asked=dict(asked),
        )
