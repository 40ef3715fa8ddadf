"""Observed control steps on disk and back: what ``heisd calibrate`` fits its scores and ranges to.

One file per episode, one JSON line per control step: what the arm felt, what the target chose, and what everybody
else would have guessed. A line that was torn by a kill is dropped; the episode it belongs to is played again.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from heisd.accept import HEISD_PAPER
from heisd.errors import BadArtifact
from heisd.kinematics import Motion, MotionRanges
from heisd.propose.base import HISTORY_STEPS, History
from heisd.route.motion import read_motion
from heisd.sim.dataset import unflatten_proprio
from heisd.types import FloatArray, IntArray, Proprioception
from heisd.watch import View

GOOD_BINS = HEISD_PAPER.max_token_bins  # a guess is good within 15 bins of the target's own tokens, gripper equal


@dataclass(frozen=True, slots=True)
class Guess:
    """One proposer's best guess at a whole action, beside the target's."""

    tokens: tuple[int, ...]  # (T,)
    distance_bins: int  # largest over the six motion tokens
    has_same_gripper: bool

    @property
    def is_good(self) -> bool:
        """Whether executing it unverified would have been right."""
        return self.distance_bins <= GOOD_BINS and self.has_same_gripper


@dataclass(frozen=True, slots=True)
class SkipCase:
    """What one preset's rule would have known."""

    features: Mapping[str, float]  # heisd.route.calibrated.skip_features; NaN where not finite
    is_gripper_near: bool  # then the rule never skips
    guess: Guess | None = None  # of a preset that skips without looking; None: its source's at this step


@dataclass(frozen=True, slots=True, eq=False)
class ObservedRound:
    """What a chunk policy's verification would have read at a control step on which a round began.

    n actions may be executed, D drafts of all proposers, K noise levels, T numbers of an action, all normalised.
    """

    age_steps: int  # control steps since the observation behind the keys and values that the endpoints were read from
    last_gripper: float  # of the action executed last
    levels: tuple[float, ...]  # (K,)
    truth: FloatArray  # (n, T) of the chunk denoised in full from zero noise, on the same observation
    sources: tuple[str, ...]  # (D,) proposers of the drafts
    drafts: FloatArray  # (D, n, T)
    endpoints: FloatArray  # (D, K, n, T)


@dataclass(frozen=True, slots=True)
class ObservedStep:
    """One control step of plain decoding."""

    proprio: Proprioception
    action: FloatArray  # (7,) executed, environment's convention
    tokens: tuple[int, ...]  # (T,) the target's own
    guesses: Mapping[str, Guess]  # proposer -> its best whole guess
    similarity: float  # of the nearest remembered key; NaN without a memory
    cases: Mapping[str, SkipCase]  # preset -> its case, where its source had a guess
    views: Mapping[str, View]  # camera -> what its picture said; none in rows of older versions
    round: ObservedRound | None = None  # of a chunk policy, where there was something to verify


@dataclass(frozen=True, slots=True)
class ObservedEpisode:
    """One episode of plain decoding."""

    key: str
    success: bool
    steps: tuple[ObservedStep, ...]

    @property
    def actions(self) -> FloatArray:
        """(n, 7) executed."""
        return np.asarray([step.action for step in self.steps], dtype=np.float64).reshape(-1, 7)

    @property
    def tokens(self) -> IntArray:
        """(n, T)."""
        return np.asarray([step.tokens for step in self.steps], dtype=np.int64)

    def motion(self) -> Motion:
        """Every pose and the actions between them."""
        return Motion.of([step.proprio for step in self.steps], self.actions[:-1])

    def fused(self, ranges: MotionRanges) -> FloatArray:
        """(n,) HeiSD's F as a route would have read it at each step, 0 where it is undefined (as routes take it)."""
        actions, tokens = self.actions, self.tokens
        poses = tuple(step.proprio for step in self.steps)
        values = np.zeros(len(poses))
        for i in range(len(poses)):
            first = max(i - HISTORY_STEPS, 0)
            history = History(actions[first:i], tokens[first:i], poses[first : i + 1])
            values[i] = read_motion(history, ranges).fused
        return np.nan_to_num(values, nan=0.0)


def rows_path(directory: Path, key: str) -> Path:
    """The file of an episode."""
    return directory / f"{key.replace('/', '_')}.jsonl"


class RowWriter:
    """Writes one file per episode; an episode that begins again starts its file anew."""

    def __init__(self, directory: Path) -> None:
        self._directory, self.key = directory, ""
        self._file: IO[str] | None = None

    def begin(self, key: str) -> None:
        """The next rows belong to this episode."""
        self.close()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._file = rows_path(self._directory, key).open("w", encoding="utf-8", buffering=1)
        self.key = key

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one control step. An episode must have begun."""
        assert self._file is not None, "begin() comes before write()"
        self._file.write(json.dumps({"episode": self.key, **row}, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the episode's file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_episode(directory: Path, key: str, *, success: bool) -> ObservedEpisode:
    """An episode's whole lines; BadArtifact for a missing file and for a line in its midst that is not a step."""
    path = rows_path(directory, key)
    return ObservedEpisode(key, success, tuple(_read_steps(path, key)))


def _read_steps(path: Path, key: str) -> Iterator[ObservedStep]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read ({error.strerror}); observe again into another --out") from None
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
            if (row["episode"], row["step"]) != (key, i):
                raise ValueError(f"step {row['step']} of {row['episode']}")
            yield _parse(row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadArtifact(
                f"{path}, line {i + 1} is not control step {i} of {key} ({error}); observe again into another --out"
            ) from None


def _parse(row: Mapping[str, Any]) -> ObservedStep:
    return ObservedStep(
        proprio=unflatten_proprio(np.asarray(row["proprio"], dtype=np.float64)),
        action=np.asarray(row["action"], dtype=np.float64),
        tokens=tuple(row["tokens"]),
        guesses={name: _guess(guess) for name, guess in row["guesses"].items()},
        similarity=_number(row["similarity"]),
        cases={
            preset: SkipCase(
                {name: _number(value) for name, value in case["features"].items()},
                bool(case["is_gripper_near"]),
                _guess(case["guess"]) if "guess" in case else None,
            )
            for preset, case in row["cases"].items()
        },
        views={camera: View(**view) for camera, view in row.get("views", {}).items()},
        round=_parse_round(row["round"]) if "round" in row else None,
    )


def _parse_round(row: Mapping[str, Any]) -> ObservedRound:
    truth, drafts, endpoints = (np.asarray(row[name], dtype=np.float32) for name in ("truth", "drafts", "endpoints"))
    levels, sources = tuple(map(float, row["levels"])), tuple(map(str, row["sources"]))
    (n, size), n_drafts = truth.shape, len(sources)
    if drafts.shape != (n_drafts, n, size) or endpoints.shape != (n_drafts, len(levels), n, size):
        raise ValueError(f"drafts {drafts.shape} and endpoints {endpoints.shape} for {n_drafts} of {truth.shape}")
    age_steps, last_gripper = int(row["age_steps"]), float(row["last_gripper"])
    return ObservedRound(age_steps, last_gripper, levels, truth, sources, drafts, endpoints)


def _guess(row: Mapping[str, Any]) -> Guess:
    return Guess(tuple(row["tokens"]), int(row["distance_bins"]), bool(row["has_same_gripper"]))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
