"""The cost model of chunk policies: what an executed action should take, from shares of rounds and costs of parts.

    E[T] = sum over kinds of rounds (share * cost)        a round
    ms per action = E[T] / E[n] + what a step costs that has its action in hand

with n the actions that a round executes. A full round encodes, prefills and denoises; a speculation encodes, drafts and
verifies; a rejected one does both and encodes once; a skip drafts, and encodes unless it goes by older pictures (FLASH
publishes its stages, shares and latencies per suite: section "results").
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from heisd.bench.cost_model import ALLOWED_ERROR
from heisd.bench.rounds import RoundKind
from heisd.errors import BadArtifact

FULL_STAGES = ("encode", "prefill", "denoise")


@dataclass(frozen=True, slots=True)
class ChunkCosts:
    """Mean milliseconds of one run of each part."""

    encode_ms: float
    prefill_ms: float
    denoise_ms: float
    draft_ms: float = 0.0  # all proposers that are asked in a round
    verify_ms: float = 0.0
    accept_ms: float = 0.0  # of a round that verifies
    overhead_ms: float = 0.0  # of every round: route, act, record
    in_hand_ms: float = 0.0  # of a step that takes the next action of a chunk

    def of(self, kind: RoundKind, looked_share: float = 1.0) -> float:
        """Of one control step of this kind; ``looked_share`` of those steps encode."""
        full_ms, check_ms = self.prefill_ms + self.denoise_ms, self.draft_ms + self.verify_ms + self.accept_ms
        return {
            RoundKind.FULL: self.encode_ms + full_ms + self.overhead_ms,
            RoundKind.SPECULATE: self.encode_ms + check_ms + self.overhead_ms,
            RoundKind.REJECTED: self.encode_ms + check_ms + full_ms + self.overhead_ms,
            RoundKind.SKIP: looked_share * self.encode_ms + self.draft_ms + self.overhead_ms,
            RoundKind.IN_HAND: self.in_hand_ms,
        }[kind]

    @classmethod
    def of_bench(cls, full: Mapping[str, Any], speculative: Mapping[str, Any] | None = None) -> "ChunkCosts":
        """From methods' blocks of ``heisd bench --json``, whose stages count the steps on which they ran.

        ``speculative`` is of a method that drafts. One that verifies asks nobody in its full rounds, so its drafting is
        shared out over its verifications and skips. One that only skips asks before it knows whether it may, so there
        drafting is a part of every round. Raises BadArtifact for blocks without these stages.
        """
        try:
            encode_ms, prefill_ms, denoise_ms = (full["stages"][name]["mean"] for name in FULL_STAGES)
            costs = cls(
                encode_ms, prefill_ms, denoise_ms,
                overhead_ms=_routing_ms(full["stages"]), in_hand_ms=_acting_ms(full["stages"]),
            )  # fmt: skip
            if speculative is None:
                return costs
            stages = speculative["stages"]
            costs = replace(costs, overhead_ms=_routing_ms(stages), in_hand_ms=_acting_ms(stages))
            drafting_ms = stages["propose"]["mean"] * stages["propose"]["n"]
            if "verify" not in stages:
                return replace(costs, overhead_ms=costs.overhead_ms + drafting_ms / stages["encode"]["n"])
            return replace(
                costs,
                draft_ms=drafting_ms / (stages["verify"]["n"] + _n_skips(speculative)),
                verify_ms=stages["verify"]["mean"],
                accept_ms=stages["accept"]["mean"],
            )
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise BadArtifact(
                f"not two blocks of heisd bench --method full,METHOD --json with rounds of both kinds ({error!r})"
            ) from None


def _routing_ms(stages: Mapping[str, Any]) -> float:
    """Of a round, which encodes once."""
    return float(stages["route"]["mean"] * stages["route"]["n"] / stages["encode"]["n"]) + _acting_ms(stages)


def _acting_ms(stages: Mapping[str, Any]) -> float:
    """Of every step, whether its action was in hand or not."""
    return float(stages["act"]["mean"] + stages["record"]["mean"])


def _n_skips(block: Mapping[str, Any]) -> int:
    rounds: Mapping[str, Any] = (block.get("speculation") or {}).get("rounds") or {"kinds": {}}
    return int(rounds["kinds"].get(RoundKind.SKIP.value, {"n": 0})["n"])


@dataclass(frozen=True, slots=True)
class RoundShare:
    """How often a kind of round comes up, and how many actions it yields."""

    share: float  # of all rounds
    actions: float  # executed, per round of this kind
    looked_share: float = 1.0  # of these rounds the vision towers ran in


def expected_round_ms(costs: ChunkCosts, rounds: Mapping[RoundKind, RoundShare]) -> float:
    """E[T], milliseconds of an average round."""
    return sum(found.share * costs.of(kind, found.looked_share) for kind, found in rounds.items())


def expected_action_ms(costs: ChunkCosts, rounds: Mapping[RoundKind, RoundShare]) -> float:
    """Milliseconds of an average executed action: rejections, drafts and steps in hand inside."""
    n_actions = sum(found.share * found.actions for found in rounds.values())
    return (expected_round_ms(costs, rounds) + (n_actions - 1.0) * costs.in_hand_ms) / n_actions


def shares_of(block: Mapping[str, Any]) -> dict[RoundKind, RoundShare]:
    """From the ``rounds`` block of a result. Raises BadArtifact for one that is no such thing.

    A round's actions are those that were executed: an episode may end in the middle of its last chunk, and all kinds
    bear their part of what is lost there.
    """
    try:
        rounds = {RoundKind(name): row for name, row in block["kinds"].items() if name != RoundKind.IN_HAND.value}
        n_taken = sum(row["actions"] for row in rounds.values())
        executed = block["actions_per_round"] * block["n"] / n_taken
        return {
            kind: RoundShare(row["share"], executed * row["actions"] / row["n"], 1.0 - row["unseen"] / row["n"])
            for kind, row in rounds.items()
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadArtifact(f"not the rounds block of a result of a chunk policy ({error!r})") from None


def beside_measured(costs: ChunkCosts, block: Mapping[str, Any]) -> dict[str, Any]:
    """Prediction beside measurement for one method's block of a result (``heisd eval --timing``).

    ``measured_ms`` and ``error`` (predicted / measured - 1) are None for a run without timing. Raises BadArtifact for a
    block of a policy that has no rounds.
    """
    rounds = shares_of((block.get("speculation") or {}).get("rounds") or {})
    predicted_ms = expected_action_ms(costs, rounds)
    measured_ms = (block.get("ms_per_action") or {}).get("mean")
    error = None if not measured_ms else predicted_ms / measured_ms - 1.0
    return {
        "rounds": {kind.value: asdict(found) for kind, found in rounds.items()},
        "predicted_ms": predicted_ms,
        "measured_ms": measured_ms,
        "error": error,
        "is_within_10_percent": None if error is None else abs(error) <= ALLOWED_ERROR,
    }
