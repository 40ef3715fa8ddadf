"""What ``heisd calibrate`` is to calibrate, on which starts, and where its runs lie."""

from dataclasses import dataclass, field
from pathlib import Path

from heisd.bench.ladder import FIRST
from heisd.config import EvalConfig
from heisd.errors import BadInput
from heisd.presets.skippers import SKIPPERS, Family, family_of
from heisd.sim.splits import Condition, Split

FIT_NAME = "fit.json"
CONDITIONS = (Condition.SHIPPED, Condition.JITTER)


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """What is calibrated, on how many episodes, and where the runs lie."""

    suite: str
    out: Path
    presets: tuple[str, ...] = tuple(SKIPPERS)
    n_observed: int = 60  # episodes of plain decoding
    n_trials: int = 200  # starts of every look at a rung
    workers: int = 1
    weights: str = "default"
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        family_of(self.presets)
        if self.n_observed < 2 or self.n_trials < 1:
            raise BadInput(
                f"{self.n_observed} observed episodes and {self.n_trials} trials; at least 2 (half of them are held "
                "out) and 1 are needed"
            )

    @property
    def family(self) -> Family:
        """Of the presets' policies."""
        return family_of(self.presets)

    @property
    def fit_path(self) -> Path:
        """Where the fit lies."""
        return self.out / FIT_NAME

    @property
    def rows_dir(self) -> Path:
        """Where the observed control steps lie."""
        return self.out / "observe" / "rows"

    def observation(self) -> dict[Path, EvalConfig]:
        """Run directory -> configuration, of the observation."""
        parts = self._parts(self.family.baseline, self.n_observed, 0)
        return {self.out / "observe" / condition: config for condition, config in parts.items()}

    def trial(self, method: str, name: str, look: int, calibration: Path | None = None) -> dict[Path, EvalConfig]:
        """Run directory -> configuration, of one method on the starts of a look of the trials."""
        parts = self._parts(method, self.n_trials, self.n_observed + (look - FIRST) * self.n_trials, calibration)
        again = "" if look == FIRST else f"-look{look}"
        return {self.out / "ladder" / f"{name}-{condition}{again}": config for condition, config in parts.items()}

    def _parts(self, method: str, n: int, offset: int, calibration: Path | None = None) -> dict[Condition, EvalConfig]:
        """Half of the starts as they are, the other half jittered; no seed is used twice."""
        sizes = (n - n // 2, n // 2)
        offsets = (offset, offset + sizes[0])
        return {
            condition: EvalConfig(
                suite=self.suite, methods=(method,), split=Split.CALIBRATION, episodes=size, offset=first, fresh=True,
                condition=condition, weights=self.weights, workers=self.workers,
                calibration=None if calibration is None else str(calibration),
            )
            for condition, size, first in zip(CONDITIONS, sizes, offsets, strict=True)
            if size
        }  # fmt: skip
