"""The cost model: what an action should take, from what its parts cost and how often each ran.

    ms = V + p P + (F - p) D + R row + C check + L (tree + asking again) + look-ups + drafter + the rest

with V once per action (not where a preset skips without looking), p prefills (none where a step is skipped, two where
rounding made it decode again), F forwards of the language model, R guessed rows in C checks, L of them behind the first
forward. All costs come from :class:`heisd.route.costs.Costs`, none from the run that is predicted; the counts from the
``speculation`` block of a result. The rest is what a plain step takes beside its forwards and, where the route is
judged, what judging takes. Methods that give V, P, D and skips their shares are HeiSD (section 3.7) and this project's
own presets.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from heisd.errors import BadArtifact
from heisd.presets import PRESETS
from heisd.presets.skippers import MEMORY, SKIPPERS
from heisd.route.base import Reason, RouteKind
from heisd.route.costs import Costs
from heisd.types import StepRecord

ALLOWED_ERROR = 0.10  # prediction and measurement agree within this share
DRAFTER = "parallel"
# what a preset needs -> whom it asks
PROPOSERS_OF = {"store": "retrieval", "parallel": "parallel", "eagle": "eagle", "draft_head": "draft_head"}


@dataclass(frozen=True, slots=True)
class Usage:
    """What an average action asked for."""

    skip_share: float  # steps without a forward
    n_forwards: float  # of the language model
    n_rows: float  # guessed tokens in all its forwards
    n_later_checks: float  # forwards behind the first one that checked guesses
    n_checks: float = 0.0  # all forwards that checked guesses
    lookup_share: float = 0.0  # steps in which memory was asked
    drafter_share: float = 0.0  # steps in which the parallel drafter was
    redone_share: float = 0.0  # steps that were decoded again, plainly: a second prefill
    looked_share: float = 1.0  # steps in which the vision towers ran

    @property
    def n_prefills(self) -> float:
        """Forwards that read the prompt."""
        return 1.0 - self.skip_share + self.redone_share

    @classmethod
    def of(cls, speculation: Mapping[str, Any]) -> "Usage":
        """From a result's ``speculation`` block. Raises BadArtifact for one without steps, or of an older result."""
        try:
            n_steps = sum(route["n"] for route in speculation["routes"].values())
            n_skips = sum(route["n"] for name, route in speculation["routes"].items() if name.startswith("skip/"))
            n_redone = sum(
                route["n"] for name, route in speculation["routes"].items() if name.endswith(f"/{Reason.TOO_CLOSE}")
            )
            n_first, n_checks = speculation["acceptance_by_position"][0]["judged"], speculation["n_verifications"]
            asked_share = speculation["asked_share"]
            return cls(
                skip_share=n_skips / n_steps,
                n_forwards=speculation["lm_forwards_per_action"],
                n_rows=speculation["drafted"] / n_steps,
                n_later_checks=(n_checks - n_first) / n_steps,
                n_checks=n_checks / n_steps,
                lookup_share=asked_share.get(MEMORY, 0.0),
                drafter_share=asked_share.get(DRAFTER, 0.0),
                redone_share=n_redone / n_steps,
                looked_share=speculation.get("looked_share", 1.0),
            )
        except (KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise BadArtifact(
                f"not the speculation block of a result with steps ({type(error).__name__}: {error}); run heisd eval "
                "again with this version, or heisd bench"
            ) from None

    @classmethod
    def of_step(cls, record: StepRecord) -> "Usage":
        """Of one control step; the mean over steps is what :meth:`of` gives for all of them."""
        return cls(
            skip_share=float(record.route == RouteKind.SKIP),
            n_forwards=record.lm_forwards,
            n_rows=record.n_drafted,
            n_later_checks=sum(1 for position, _ in record.verifications if position > 0),
            n_checks=len(record.verifications),
            lookup_share=float(MEMORY in record.asked),
            drafter_share=float(DRAFTER in record.asked),
            redone_share=float(record.reason == Reason.TOO_CLOSE),
            looked_share=float(record.looked),
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds of an average action, by what they are spent on."""

    vision_ms: float
    prefill_ms: float
    decode_ms: float  # later forwards, as if of one row
    rows_ms: float  # guessed rows, and what checking costs beside them
    lookup_ms: float
    drafter_ms: float
    overhead_ms: float  # route, accept, act, record

    @property
    def total_ms(self) -> float:
        """Their sum."""
        return float(sum(asdict(self).values()))

    def as_dict(self) -> dict[str, float]:
        """Plain JSON values, the sum among them."""
        return {**asdict(self), "total_ms": self.total_ms}


def predict(costs: Costs, usage: Usage, *, is_judged: bool = False) -> Prediction:
    """What an action takes. ``costs`` as :meth:`Costs.asking` gives them for the method's proposers.

    ``is_judged``: the route looks at pictures and motion, as those of calibrated skips do.
    """
    return Prediction(
        vision_ms=usage.looked_share * costs.vision_ms,
        prefill_ms=usage.n_prefills * costs.prefill_ms,
        decode_ms=(usage.n_forwards - usage.n_prefills) * costs.decode_ms,
        rows_ms=usage.n_rows * costs.row_ms + usage.n_checks * costs.check_ms + usage.n_later_checks * costs.tree_ms,
        lookup_ms=usage.lookup_share * costs.lookup_ms,
        drafter_ms=usage.drafter_share * costs.drafter_ms + usage.n_later_checks * costs.redraft_ms,
        overhead_ms=costs.overhead_ms + is_judged * costs.judge_ms,
    )


def proposers_of(method: str) -> tuple[str, ...]:
    """Proposers whose asking costs something, of a preset; nobody for an unknown name."""
    needs: Collection[str] = PRESETS[method].needs if method in PRESETS else ()
    return tuple(PROPOSERS_OF[what] for what in needs if what in PROPOSERS_OF)


def beside_measured(costs: Costs, method: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """Prediction beside measurement for one method's block of a result (``heisd eval --timing``, ``heisd bench``).

    ``measured_ms`` and ``error`` (predicted / measured - 1) are None for a run without timing; the measured speed-up
    also for the baseline. Raises BadArtifact for a block that is no such thing.
    """
    usage = Usage.of(block.get("speculation") or {})
    measured_ms = (block.get("ms_per_action") or {}).get("mean")
    predicted = predict(costs.asking(proposers_of(method)), usage, is_judged=method in SKIPPERS)
    error = None if not measured_ms else predicted.total_ms / measured_ms - 1.0
    return {
        "usage": asdict(usage),
        "predicted": predicted.as_dict(),
        "measured_ms": measured_ms,
        "error": error,
        "is_within_10_percent": None if error is None else abs(error) <= ALLOWED_ERROR,
        "predicted_speedup": predicted_speedup(costs, predicted),
        "measured_speedup": (block.get("speedup_vs_baseline") or {}).get("ratio"),
    }


def predicted_speedup(costs: Costs, prediction: Prediction, n_tokens: int = 7) -> float:
    """Plain decoding's time by the table over the prediction's."""
    return costs.plain_ms(n_tokens) / prediction.total_ms


def ceiling(costs: Costs, n_tokens: int = 7) -> float:
    """The speed-up of guesses that are always right and cost nothing, without skipping: 1 + (T - 1) D / (V + P)."""
    return 1.0 + (n_tokens - 1) * costs.decode_ms / (costs.vision_ms + costs.prefill_ms)
