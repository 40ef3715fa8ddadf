"""What ``heisd calibrate`` writes and presets load: ranges, thresholds and the evidence behind them, per suite."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from heisd.errors import BadArtifact, BadInput, first_problem
from heisd.files import json_bytes, read_json, write_atomic
from heisd.kinematics import MotionRanges
from heisd.kinematics.motion import ACTION_SIZE
from heisd.policies.config import Frozen
from heisd.propose.kalman import KalmanNoise
from heisd.route.calibrated import FEATURES, SkipScore
from heisd.route.costs import Costs
from heisd.watch import Watch

FORMAT: Literal["heisd-calibration-1"] = "heisd-calibration-1"
COMMAND = "heisd calibrate --suite {suite}"


class SkipSetting(Frozen):
    """When one preset skips, and the ladder of trials that chose it."""

    score: SkipScore
    threshold: float = Field(ge=0)
    n_skips: int = Field(ge=0)
    calm: bool = False  # denoised chunks that leave the gripper alone are executed further than others
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
        """Fitted noise of the constant-velocity filter. BadInput unless there is one number per degree of freedom."""
        if {len(self.kalman_process), len(self.kalman_measurement)} != {ACTION_SIZE}:
            raise BadInput(
                f"noise is {ACTION_SIZE} numbers each, one per degree of freedom of an action; got "
                f"{len(self.kalman_process)} and {len(self.kalman_measurement)}"
            )
        return KalmanNoise(self.kalman_process, self.kalman_measurement)

    def skip_setting(self, preset: str) -> SkipSetting:
        """When ``preset`` may skip; BadArtifact when nobody has calibrated it."""
        if preset not in self.skips:
            raise BadArtifact(
                f"the calibration of {self.suite} has no setting for {preset!r} (it has: "
                f"{', '.join(self.skips) or 'none'}); make one: {COMMAND.format(suite=self.suite)} --method {preset}"
            )
        return self.skips[preset]

    def save(self, path: Path) -> None:
        """Replace the file as a whole."""
        write_atomic(path, json_bytes(self.model_dump(mode="json")))

    @classmethod
    def load(cls, path: Path, policy_hash: str, suite: str = "") -> "Calibration":
        """Read a file.

        Raises BadArtifact, which names the file, the field and the command, for one that is missing, torn, of another
        format, of another policy or, where ``suite`` is given, of another suite, and for values that no rule can use.
        """
        hint = f"; make one: {COMMAND.format(suite=suite or 'SUITE')}"
        values = read_json(path, hint=hint)
        try:
            calibration = cls.model_validate(values)
        except ValidationError as error:
            raise BadArtifact(f"{path} is not a {FORMAT}: {first_problem(error)}{hint}") from None
        except BadInput as error:  # a score or a table that its own class refuses
            raise BadArtifact(f"{path}: {error}{hint}") from None
        if calibration.policy_hash != policy_hash:
            raise BadArtifact(
                f"{path} was made for policy {calibration.policy_hash[:12]}…, this one is {policy_hash[:12]}…: "
                f"its thresholds mean nothing here{hint}"
            )
        if suite and calibration.suite != suite:
            raise BadArtifact(
                f"{path} is a calibration of {calibration.suite}, and one of {suite} is needed: ranges and thresholds "
                f"of another suite mean nothing here{hint}"
            )
        calibration._require_usable(path)
        return calibration

    def _require_usable(self, path: Path) -> None:
        """BadArtifact for the first field that what is built from it would refuse."""
        parts: dict[str, Callable[[], object]] = {
            "kalman_process and kalman_measurement": self.kalman_noise,
            "motion_paper": self.paper_ranges,
            "motion_code": self.code_ranges,
        }
        parts |= {f"skips.{preset}.score": partial(_known, setting.score) for preset, setting in self.skips.items()}
        for field, build in parts.items():
            try:
                build()
            except BadInput as error:
                raise BadArtifact(
                    f"{path}: {field}: {error}; make it anew: {COMMAND.format(suite=self.suite)}"
                ) from None


def _known(score: SkipScore) -> None:
    """BadInput for a feature that no rule computes: such a score would never allow a skip."""
    unknown = sorted(set(score.names) - set(FEATURES))
    if unknown:
        raise BadInput(f"unknown feature(s) {unknown}; known: {', '.join(FEATURES)}")
