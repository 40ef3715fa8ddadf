"""What speculation did, counted: over the steps of an episode, then over the episodes of a run. Integers only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from heisd.bench.rounds import RoundCounts
from heisd.kinematics import Phase
from heisd.propose.panel import MAX_FAULTS
from heisd.route.base import Reason
from heisd.types import StepRecord, TokenOrigin

ACCEPTANCE_LENGTH_DEFINITION = (
    "proposed tokens kept per verification, without the target's own token; null for a method that verifies nothing"
)
HEISD_LENGTH_DEFINITION = (
    "HeiSD's AL per step, as its released code counts it: 7 for an unverified or a wholly kept action, the tokens "
    "kept by the first verification otherwise, at least 1"
)
FULL_ACTION = 7


class SpeculationCounts:
    """Sums that can be added up; ``as_dict`` and ``from_dict`` are what an episode's record holds."""

    def __init__(self) -> None:
        self.n_steps = self.n_drafted = self.heisd_length = 0
        self.n_unseen = 0  # steps in which no vision tower ran
        self.kept: Counter[str] = Counter()  # "position/kept" -> verifications that began there and kept so many
        self.by_source: Counter[str] = Counter()  # proposer -> tokens kept
        self.routes: Counter[str] = Counter()  # "skip/tolerant motion" -> steps
        self.motion: dict[str, Counter[str]] = {}  # "approach" -> sums of its steps
        self.rounds = RoundCounts()  # of chunk policies
        self.asked: Counter[str] | None = Counter()  # proposer -> steps in which it was; None: an older file lacks it
        self.audits: Counter[str] = Counter()  # proposer whose whole action an audit kept ("" for none) -> audits
        self.faults: dict[str, Counter[str]] = {}  # proposer -> kind -> how often
        self.benched: Counter[str] = Counter()  # proposer -> episodes whose rest it was not heard in; of totals only

    def add(self, step: StepRecord) -> None:
        """Count one control step."""
        self.n_steps += 1
        self.n_drafted += step.n_drafted
        self.heisd_length += _heisd_length(step)
        self.n_unseen += not step.looked
        self.by_source.update(step.kept_by_source)
        if self.asked is not None:
            self.asked.update(step.asked.keys())
        self.routes[f"{step.route}/{step.reason}"] += 1
        self.kept.update(f"{position}/{n}" for position, n in step.verifications)
        if step.reason == Reason.AUDIT:
            self.audits[_audited_source(step)] += 1
        self._add_faults(step.faults)

    def add_motion(self, phase: str, step: StepRecord, latency_ms: float | None, shadow_ms: float | None) -> None:
        """Count the same step under its kind of motion; times only where they were measured (``--timing``)."""
        self.rounds.add(step, latency_ms)
        sums = self.motion.setdefault(phase, Counter())
        sums["steps"] += 1
        sums["lm_forwards"] += step.lm_forwards
        sums["skipped"] += TokenOrigin.SKIPPED in step.origins
        sums["verifications"] += step.n_verifications
        sums["kept"] += step.n_accepted
        if latency_ms is not None:
            sums["latency_us"] += round(1e3 * latency_ms)
        if shadow_ms is not None:
            sums["shadow_us"] += round(1e3 * shadow_ms)

    def _add_faults(self, faults: Mapping[str, Mapping[str, int]]) -> None:
        for proposer, kinds in faults.items():
            self.faults.setdefault(proposer, Counter()).update(kinds)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "n_steps": self.n_steps,
            "n_drafted": self.n_drafted,
            "heisd_length": self.heisd_length,
            "n_unseen": self.n_unseen,
            "kept": dict(self.kept),
            "by_source": dict(self.by_source),
            "routes": dict(self.routes),
            "motion": {phase: dict(sums) for phase, sums in self.motion.items()},
            "audits": dict(self.audits),
            "asked": None if self.asked is None else dict(self.asked),
            "faults": {proposer: dict(kinds) for proposer, kinds in self.faults.items()},
            "rounds": self.rounds.as_dict(),
        }

    @classmethod
    def total(cls, parts: Sequence[Mapping[str, Any]]) -> "SpeculationCounts":
        """The sum of several :meth:`as_dict`, one an episode."""
        counts = cls()
        for part in parts:
            counts.n_steps += part["n_steps"]
            counts.n_drafted += part["n_drafted"]
            counts.heisd_length += part["heisd_length"]
            counts.n_unseen += part.get("n_unseen", 0)  # before there was such a preset, every step looked
            counts.kept.update(part["kept"])
            counts.by_source.update(part["by_source"])
            counts.routes.update(part["routes"])
            for phase, sums in part.get("motion", {}).items():  # older files have none
                counts.motion.setdefault(phase, Counter()).update(sums)
            counts.audits.update(part.get("audits", {}))
            asked = part.get("asked")  # older files have none
            counts.asked = None if asked is None or counts.asked is None else counts.asked + Counter(asked)
            faults = part.get("faults", {})
            counts._add_faults(faults)
            counts.benched.update(name for name, kinds in faults.items() if sum(kinds.values()) >= MAX_FAULTS)
            counts.rounds.update(part.get("rounds", {}))
        return counts

    def block(self, tokens: Mapping[str, int], lm_forwards: int) -> dict[str, Any]:
        """The ``speculation`` block of a result: token origins, acceptance, routes."""
        verifications = {tuple(map(int, key.split("/"))): n for key, n in self.kept.items()}
        n_verifications = sum(verifications.values())
        n_kept = sum(kept * n for (_, kept), n in verifications.items())
        steps = self.n_steps or None
        return {
            "drafted": self.n_drafted,
            **{origin.value: tokens.get(origin, 0) for origin in TokenOrigin},
            "by_source": {source: n for source, n in self.by_source.most_common() if n},
            "lm_forwards_per_action": lm_forwards / steps if steps else None,
            "looked_share": 1 - self.n_unseen / steps if steps else None,
            "n_verifications": n_verifications,
            "acceptance_length": {
                "definition": ACCEPTANCE_LENGTH_DEFINITION,
                "mean": n_kept / n_verifications if n_verifications else None,
            },
            "acceptance_length_heisd": {
                "definition": HEISD_LENGTH_DEFINITION,
                "mean": self.heisd_length / steps if steps else None,
            },
            "acceptance_by_position": _by_position(verifications),
            "routes": {
                route: {"n": n, "share": n / self.n_steps} for route, n in sorted(self.routes.items(), key=_frequent)
            },
            "asked_share": None if self.asked is None else {name: n / self.n_steps for name, n in self.asked.items()},
            "by_motion": self._by_motion(),
            "audits": {"n": self.audits.total(), "kept_by_source": {s: n for s, n in self.audits.items() if s}},
            "faults": {proposer: dict(kinds) for proposer, kinds in self.faults.items()},
            "benched_episodes": dict(self.benched),
            **({"rounds": self.rounds.block()} if self.rounds.as_dict() else {}),
        }

    def _by_motion(self) -> dict[str, dict[str, Any]]:
        """Per kind of motion, in the order of a pick and place: shares, forwards, acceptance, time and its ratio."""
        n_steps = sum(sums["steps"] for sums in self.motion.values())
        return {
            phase.value: _motion_block(self.motion[phase.value], n_steps)
            for phase in Phase
            if phase.value in self.motion
        }


def skip_share(block: Mapping[str, Any]) -> float | None:
    """Share of a method's actions that were executed unverified; an action is skipped whole or not at all."""
    done = block["speculation"]
    n_tokens = sum(done.get(origin, 0) for origin in TokenOrigin)
    return done[TokenOrigin.SKIPPED] / n_tokens if n_tokens else None


def _frequent(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _motion_block(sums: Counter[str], n_steps: int) -> dict[str, Any]:
    steps, latency_us, shadow_us = sums["steps"], sums["latency_us"], sums["shadow_us"]
    return {
        "n": steps,
        "share": steps / n_steps,
        "skipped_share": sums["skipped"] / steps,
        "lm_forwards_per_action": sums["lm_forwards"] / steps,
        "acceptance_length": sums["kept"] / sums["verifications"] if sums["verifications"] else None,
        "ms_per_action": latency_us / 1e3 / steps if latency_us else None,
        "speedup_vs_baseline": shadow_us / latency_us if shadow_us and latency_us else None,
    }


def _by_position(verifications: Mapping[tuple[int, ...], int]) -> list[dict[str, int]]:
    """For every token of the action: how often a guess at it was kept, and how often it was judged.

    The token behind the kept ones counts as judged, also where the guess ended there.
    """
    judged, kept = [0] * FULL_ACTION, [0] * FULL_ACTION
    for (position, n_kept), n in verifications.items():
        for i in range(position, min(position + n_kept + 1, FULL_ACTION)):
            judged[i] += n
        for i in range(position, min(position + n_kept, FULL_ACTION)):
            kept[i] += n
    return [{"judged": j, "kept": k} for j, k in zip(judged, kept, strict=True)]


def _audited_source(step: StepRecord) -> str:
    """The proposer of whose guess an audit kept all, the gripper too; "" when it kept nobody's."""
    if step.round is not None:
        return step.round.vouched_for
    if not step.verifications or step.verifications[0] != (0, FULL_ACTION):
        return ""
    return max(step.kept_by_source, key=lambda source: step.kept_by_source[source])


def _heisd_length(step: StepRecord) -> int:
    if step.origins.get(TokenOrigin.SKIPPED):
        return FULL_ACTION
    if not step.verifications:
        return 1
    position, kept = step.verifications[0]
    return max(1, min(position + kept, FULL_ACTION))
