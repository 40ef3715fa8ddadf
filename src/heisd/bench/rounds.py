"""What the rounds of a chunk policy did, counted: over the steps of an episode, then over the episodes of a run."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from heisd.types import StepRecord

ACCEPTANCE_DEFINITION = (
    "drafted actions accepted per round that verified a draft, of those that could have been executed; the best of "
    "several candidates; rejections count as 0"
)


class RoundKind(StrEnum):
    """What became of a control step, whatever its route was called."""

    FULL = "full"  # denoised; nothing was verified
    SPECULATE = "speculate"  # a draft was verified, and some of it accepted
    REJECTED = "rejected"  # a draft was verified in vain, then denoised in the same call
    SKIP = "skip"  # a draft was executed unverified
    IN_HAND = "in hand"  # the step took the next action of a chunk


def round_kind(step: StepRecord) -> RoundKind:
    """The kind of one control step of a chunk policy."""
    came = step.round
    if came is None:
        return RoundKind.IN_HAND
    if came.is_rejected:
        return RoundKind.REJECTED
    if came.n_chunks:
        return RoundKind.SPECULATE
    return RoundKind.FULL if came.n_prefills else RoundKind.SKIP


class RoundCounts:
    """Sums that can be added up; ``as_dict`` is what an episode's record holds. Integers only."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()  # kind -> control steps
        self.actions: Counter[str] = Counter()  # kind of round -> actions taken from its chunks
        self.unseen: Counter[str] = Counter()  # kind of round -> those in which the vision towers rested
        self.latency_us: Counter[str] = Counter()  # kind -> microseconds, of timed runs
        self.accepted: Counter[str] = Counter()  # "accepted/judged" -> rounds that verified
        self.ages: Counter[str] = Counter()  # control steps since the prefix read by a verification -> such rounds
        self.stops: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()  # proposer -> actions accepted
        self.passes: Counter[str] = Counter()  # "prefill", "expert", "chunks" -> how many

    def add(self, step: StepRecord, latency_ms: float | None) -> None:
        """Count one control step."""
        kind, came = round_kind(step).value, step.round
        self.steps[kind] += 1
        if latency_ms is not None:
            self.latency_us[kind] += round(1e3 * latency_ms)
        if came is None:
            return
        self.actions[kind] += came.n_actions
        self.unseen[kind] += not step.looked
        self.passes.update(prefill=came.n_prefills, expert=came.n_expert_passes, chunks=came.n_chunks)
        if came.n_chunks:
            self.accepted[f"{came.n_accepted}/{came.n_judged}"] += 1
            self.ages[str(came.prefix_age_steps)] += 1
            self.stops[came.stop] += 1
            self.sources[came.source] += came.n_accepted

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Plain JSON values; empty for a policy that has no rounds."""
        if set(self.steps) <= {RoundKind.IN_HAND.value}:
            return {}
        return {name: dict(counter) for name, counter in vars(self).items()}

    def update(self, part: Mapping[str, Mapping[str, int]]) -> None:
        """Add an :meth:`as_dict`."""
        for name, counter in part.items():
            vars(self)[name].update(counter)

    def block(self) -> dict[str, Any]:
        """The ``rounds`` block of a result."""
        n_steps = self.steps.total()
        n_rounds = n_steps - self.steps[RoundKind.IN_HAND]
        pairs = [(*map(int, key.split("/")), n) for key, n in self.accepted.items()]
        n_verified, n_accepted = sum(n for *_, n in pairs), sum(k * n for k, _, n in pairs)
        n_judged = sum(j * n for _, j, n in pairs)
        return {
            "n": n_rounds,
            "actions_per_round": n_steps / n_rounds,
            "kinds": {kind.value: self._kind(kind, n_steps, n_rounds) for kind in RoundKind if self.steps[kind]},
            "acceptance": {
                "definition": ACCEPTANCE_DEFINITION,
                "mean": n_accepted / n_verified if n_verified else None,
                "share": n_accepted / n_judged if n_judged else None,
                "histogram": _by_number({str(k): sum(n for a, _, n in pairs if a == k) for k, *_ in pairs}),
            },
            "prefills_per_action": self.passes["prefill"] / n_steps,
            "expert_passes_per_action": self.passes["expert"] / n_steps,
            "prefix_age_steps": _by_number(self.ages),
            "stops": dict(self.stops.most_common()),
            "accepted_by_source": {source: n for source, n in self.sources.most_common() if n},
        }

    def _kind(self, kind: RoundKind, n_steps: int, n_rounds: int) -> dict[str, Any]:
        """Of rounds the share of all rounds, of steps in hand that of all steps; ``ms`` None for untimed runs."""
        n, us = self.steps[kind], self.latency_us[kind]
        share = n / (n_steps if kind is RoundKind.IN_HAND else n_rounds)
        ms = us / 1e3 / n if us else None
        return {"n": n, "share": share, "actions": self.actions[kind], "unseen": self.unseen[kind], "ms": ms}


def actions_per_round(done: Mapping[str, Any]) -> float:
    """From a ``speculation`` block; a policy without rounds is asked at every action."""
    return float(done["rounds"]["actions_per_round"]) if "rounds" in done else 1.0


def _by_number(counts: Mapping[str, int]) -> dict[str, int]:
    return {key: counts[key] for key in sorted(counts, key=int)}
