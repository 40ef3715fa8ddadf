"""Run directories: what is on disk while an evaluation runs, and how it survives being killed.

DIR/config.json      resolved configuration and its hash, written once
DIR/episodes.jsonl   one line per played episode, appended and synced; a torn last line is dropped on resume
DIR/eval_info.json   the result; exists only once every episode is there
"""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from heisd.config import content_hash, differences
from heisd.errors import BadArtifact, BadInput
from heisd.files import read_json, write_json

CONFIG_NAME, EPISODES_NAME, RESULT_NAME = "config.json", "episodes.jsonl", "eval_info.json"


@dataclass(frozen=True, slots=True)
class EpisodeTiming:
    """Per-step times of one episode played with ``--timing``: of its replay (:mod:`heisd.bench.replay`), serial."""

    latency_ms: list[float]  # (n_steps,) full clock
    stage_ms: dict[str, list[float]]  # stage name -> (n_steps,)
    cpu_s: float  # process CPU time of all policy calls together
    shadow_ms: list[float]  # (n_steps,) the baseline on the same observations; empty for the baseline itself
    warmup_ms: list[float]  # untimed calls before the first step
    papers_ms: float | None = None  # all steps on the papers' clock (heisd.bench.papers_clock); None in older files
    shadow_papers_ms: float | None = None  # the baseline's, on the same observations
    loop_ms: float | None = None  # all steps, while the simulator worked between them; None in older files, whose
    # latency_ms was measured there, with the baseline asked beside the method at every step
    n_otherwise: int = 0  # steps that were replayed with another action than played


@dataclass(slots=True)
class EpisodePacing:
    """How the world went on in an episode played with ``--realtime``; a control step is a period of its rate."""

    n_control_steps: int = 0
    n_new_actions: int = 0  # control steps that began with an answer of the policy
    n_commanded_steps: int = 0  # … with any answer in force: all but those before the first
    sum_age_steps: int = 0  # over those: control steps since the policy saw what the action in force answers to
    charged_ms: list[float] = field(default_factory=list)  # of every answer, by the latency profile
    n_in_time: int = 0  # answers charged more than a period that were there before the actions in hand had ended


@dataclass(frozen=True, slots=True)
class EpisodeTimeline:
    """What happened at every step of a filmed episode, (n_steps,) each; None where a reading is undefined."""

    route: list[str] = field(default_factory=list)  # letters of heisd.bench.motion: S, V, F, W
    reason: list[str] = field(default_factory=list)
    score: list[float | None] = field(default_factory=list)  # what the route's threshold was compared with
    speed_mm: list[float | None] = field(default_factory=list)  # per control step
    fused: list[float | None] = field(default_factory=list)  # HeiSD's F, by one set of ranges for every method
    gripper: list[float | None] = field(default_factory=list)  # executed command, above 0 closes
    phase: list[str] = field(default_factory=list)  # approach, grasp, transport, release
    n_accepted: list[int] = field(default_factory=list)  # guesses kept: tokens, or actions of a chunk
    # Empty in files of older versions.
    fineness: list[float | None] = field(default_factory=list)  # DyQ's M
    angular_jerk: list[float | None] = field(default_factory=list)  # DyQ's J
    complexity: list[float | None] = field(default_factory=list)  # of the first camera's picture


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One played episode, or one that could not be played (``error`` set; never counted as a failure)."""

    key: str  # EpisodeStart.key
    method: str
    suite: str
    task_index: int
    instruction: str
    attempt: int  # 0 for the first try
    success: bool
    n_steps: int
    sum_reward: float
    max_reward: float
    wall_s: float
    lm_forwards: int
    origins: dict[str, int]  # TokenOrigin -> tokens
    start_hash: str  # of the first observation: equal for every method that played this start
    peak_rss_mb: float
    speculation: dict[str, Any] | None = None  # counts of heisd.bench.speculation; None in files of older versions
    error: str | None = None
    video: str | None = None  # path relative to the run directory
    deviation_bins: float | None = None  # mean |bin| distance to the baseline's action on the same observation
    deviation_mm: float | None = None
    deviation_deg: float | None = None
    timing: EpisodeTiming | None = None
    timeline: EpisodeTimeline | None = None  # of filmed episodes; None in files of older versions
    withdrawal: dict[str, Any] | None = None  # counts of heisd.bench.withdrawal, of episodes under a shift
    realtime: EpisodePacing | None = None  # of runs with --realtime

    @property
    def valid(self) -> bool:
        """False for an episode that ended in an error instead of an outcome."""
        return self.error is None


class RunDirectory:
    """One evaluation on disk. Open it with :func:`open_run`, which also takes the writer's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def result_path(self) -> Path:
        """Where the finished result lies."""
        return self.path / RESULT_NAME

    def claim(self, outcome_fields: dict[str, Any]) -> None:
        """Write the configuration, or check that the run already here has the same one (else BadInput)."""
        config_path = self.path / CONFIG_NAME
        if not config_path.exists():
            if (self.path / EPISODES_NAME).exists():
                raise BadArtifact(f"{self.path} has {EPISODES_NAME} but no {CONFIG_NAME}; choose another --out")
            write_json(config_path, {**outcome_fields, "config_hash": content_hash(outcome_fields)})
            return
        found = read_json(config_path)
        found.pop("config_hash", None)
        if changed := differences(found, outcome_fields):
            raise BadInput(
                f"{self.path} holds a run with another configuration ({'; '.join(changed)}); "
                "choose another --out, or repeat the command that started it to resume"
            )

    def records(self) -> list[EpisodeRecord]:
        """Every whole record; a torn last line (the process was killed while writing) is left out."""
        path = self.path / EPISODES_NAME
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
        return [_parse(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]

    def drop_torn_line(self) -> None:
        """Cut the file behind its last newline, so that the next append starts a line of its own."""
        path = self.path / EPISODES_NAME
        if path.exists():
            whole = path.read_bytes().rfind(b"\n") + 1
            os.truncate(path, whole)

    def append(self, record: EpisodeRecord) -> None:
        """Add one record and sync it to disk; a failed write (full disk) is taken back whole."""
        line = json.dumps(asdict(record), allow_nan=False).encode() + b"\n"
        # Unbuffered, so that nothing is left behind to be flushed after a failed write.
        with (self.path / EPISODES_NAME).open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
                os.fsync(file.fileno())
            except OSError:
                os.truncate(file.fileno(), before)
                raise


@contextmanager
def open_run(path: Path, outcome_fields: dict[str, Any]) -> Iterator[RunDirectory]:
    """Create or resume a run directory for writing. BadInput if it differs or another process writes to it."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another process is writing to {path}; wait for it or choose another --out") from None
        run = RunDirectory(path)
        run.claim(outcome_fields)
        run.drop_torn_line()
        yield run


_PARTS: dict[str, Callable[..., Any]] = {
    "timing": EpisodeTiming,
    "timeline": EpisodeTimeline,
    "realtime": EpisodePacing,
}


def _parse(line: bytes, where: str) -> EpisodeRecord:
    try:
        raw = json.loads(line)
        if unknown := raw.keys() - {f.name for f in fields(EpisodeRecord)}:
            raise BadArtifact(f"{where}: unknown key(s) {sorted(unknown)}")
        parts = {name: None if raw.get(name) is None else part(**raw[name]) for name, part in _PARTS.items()}
        return EpisodeRecord(**{**raw, **parts})
    except (ValueError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{where} is not an episode record ({error})") from None
