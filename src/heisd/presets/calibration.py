"""What ``heisd calibrate`` writes and presets load: ranges, thresholds and the evidence behind them, per suite."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from heisd.errors import BadArtifact, BadInput
from heisd.files import json_bytes, read_json, write_atomic
from heisd.kinematics import MotionRanges
from heisd.policies.config import Frozen
from heisd.propose.kalman import KalmanNoise
from heisd.route.calibrated import SkipScore
from heisd.route.costs import Costs
from heisd.watch import Watch

FORMAT: Literal["heisd-calibration-1"] = "heisd-calibration-1"
HINT = "; make one: heisd calibrate --suite SUITE"


class SkipSetting(Frozen):
    """When one preset skips, and the ladder of trials that chose it."""

    score: SkipScore
    threshold: float = Field(ge=0)
    n_skips: int = Field(ge=0)
    min_similarity: float | None = None  # None: the preset has no memory to ask
    evidence: dict[str, Any] = Field(default_factory=dict)  # curve, AUC, rungs and their bound on bad skips

    @property
    def floor(self) -> float:
        """``min_similarity`` as routes want it."""
        return -math.inf if self.min_similarity is None else self.min_similarity


class Acceptance(Frozen):
    """How near a draft's endpoints must be for a chunk policy to execute it, and what that lets pass."""

    residual: float = Field(ge=0)  # of the velocity: at level t an endpoint is within residual * t; 0: nothing passes
    evidence: dict[str, Any] = Field(default_factory=dict)  # residuals tried, what the chosen one allows


class Calibration(Frozen):
    """One suite's calibration for one policy."""

    format: Literal["heisd-calibration-1"] = FORMAT
    suite: str
    policy_hash: str
    motion_paper: dict[str, Any]  # MotionRanges of w = 15, path length
    motion_code: dict[str, Any]  # of w = 5, distances from the last point
    kalman_process: tuple[float, ...]
    kalman_measurement: tuple[float, ...]
    adaptive_similarity: float  # HeiSD's minimum acceptable similarity, on this project's keys
    skips: dict[str, SkipSetting] = Field(default_factory=dict)  # preset -> its setting
    acceptance: Acceptance | None = None  # of chunk policies
    watch: Watch = Field(default_factory=Watch)  # what withdraws skips; files of older versions have none: the defaults
    costs: Costs | None = None  # ``heisd bench --costs``; with it ``exact`` stops speculating where that loses time
    command: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)  # what "good" means, thresholds tried, notes
    provenance: dict[str, Any] = Field(default_factory=dict)  # episodes, seeds, versions, machine

    def paper_ranges(self) -> MotionRanges:
        """Kinematic ranges of the papers' window."""
        return MotionRanges.from_dict(self.motion_paper)

    def code_ranges(self) -> MotionRanges:
        """Kinematic ranges of the released code's window."""
        return MotionRanges.from_dict(self.motion_code)

    def kalman_noise(self) -> KalmanNoise:
        """Fitted noise of the constant-velocity filter."""
        return KalmanNoise(self.kalman_process, self.kalman_measurement)

    def skip_setting(self, preset: str) -> SkipSetting:
        """When ``preset`` may skip; BadArtifact when nobody has calibrated it."""
        if preset not in self.skips:
            raise BadArtifact(
                f"the calibration of {self.suite} has no setting for {preset!r} (it has: "
                f"{', '.join(self.skips) or 'none'}); make one: heisd calibrate --suite {self.suite} --method {preset}"
            )
        return self.skips[preset]

    def save(self, path: Path) -> None:
        """Replace the file as a whole."""
        write_atomic(path, json_bytes(self.model_dump(mode="json")))

    @classmethod
    def load(cls, path: Path, policy_hash: str) -> "Calibration":
        """Read a file; BadArtifact for one that is missing, torn, of another format or of another policy."""
        values = read_json(path, hint=HINT)
        try:
            calibration = cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "it"
            raise BadArtifact(f"{path} is not a {FORMAT}: {where}: {problem['msg']}{HINT}") from None
        except BadInput as error:  # a score or a table that its own class refuses
            raise BadArtifact(f"{path}: {error}{HINT}") from None
        if calibration.policy_hash != policy_hash:
            raise BadArtifact(
                f"{path} was made for policy {calibration.policy_hash[:12]}…, this one is {policy_hash[:12]}…: "
                f"its thresholds mean nothing here{HINT}"
            )
        return calibration
