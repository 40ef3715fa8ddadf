"""Observed episodes and played trials without a policy or a simulator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from heisd.bench.evaluate import Setting
from heisd.bench.observed import ObservedEpisode, RowWriter, read_episode
from heisd.bench.results import EpisodeRecord, RunDirectory, open_run
from heisd.bench.suite_fit import Target
from heisd.config import EvalConfig
from heisd.files import write_json
from heisd.sim.splits import episode_starts

SUITE = "toy"
FIRST_TOKEN = 744
TARGET = Target("f" * 64, (-0.9, -0.8, -0.9, -0.1, -0.2, -0.2, 0.0), (0.9, 0.9, 0.8, 0.1, 0.2, 0.2, 1.0))
N_TASKS = 2
PRESETS = ("hybrid", "coast", "hybrid_no_store", "hold_calibrated")


def rows(seed: int, n_steps: int = 40) -> list[dict[str, Any]]:
    """Control steps of a smooth motion; the likelier a guess is to be good, the larger the similarity."""
    rng = np.random.default_rng(seed)
    position, tokens = np.array([0.1, 0.0, 1.0]), rng.integers(FIRST_TOKEN + 80, FIRST_TOKEN + 170, 7)
    made: list[dict[str, Any]] = []
    for i in range(n_steps):
        last = tokens.copy()
        tokens = np.clip(tokens + rng.integers(-12, 13, 7), FIRST_TOKEN + 40, FIRST_TOKEN + 215)
        tokens[6] = FIRST_TOKEN
        similarity = float(rng.uniform(0.8, 1.0))
        is_close = rng.random() < (similarity - 0.8) / 0.2
        guess = tokens + (5 if is_close else 40) * np.array([1, 0, 0, 0, 0, 0, 0])
        guesses = {"parallel": guess, "retrieval": guess, **({"persistence": last} if i else {})}
        position = position + rng.normal(0.004, 0.002, 3)
        features = {"similarity": similarity, "change_bins": 3.0, "fused": 0.0, "speed_mm": float(rng.uniform(0, 9))}
        made.append(
            {
                "step": i,
                "proprio": [*position.tolist(), 1.0, 0.0, 0.0, 0.0, 0.04, -0.04, *[0.0] * 16],
                "action": [*rng.normal(0.0, 0.2, 6).tolist(), -1.0],
                "tokens": tokens.tolist(),
                "similarity": similarity,
                "guesses": {name: _guess(g, tokens) for name, g in guesses.items()},
                "views": {camera: _view(rng, i) for camera in ("agentview", "wrist")},
                "cases": {p: {"features": features, "is_gripper_near": False} for p in PRESETS if i},
            }
        )
    return made


def _view(rng: np.random.Generator, step: int) -> dict[str, Any]:
    return {
        "contrast": float(rng.uniform(0.1, 0.3)), "noise": float(rng.uniform(0.5, 4.0)),
        "peak": float(rng.uniform(0.4, 1.0)) if step else 1.0, "change": float(rng.uniform(0.0, 0.05)) if step else 0.0,
        "n_frozen": int(rng.integers(0, 2)),
    }  # fmt: skip


def _guess(guess: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    apart = int(np.abs(guess - tokens)[:6].max())
    return {"tokens": guess.tolist(), "distance_bins": apart, "has_same_gripper": bool(guess[6] == tokens[6])}


def observed(directory: Path, n: int, *, success: bool = True) -> list[ObservedEpisode]:
    """``n`` episodes, through the files."""
    writer = RowWriter(directory)
    for i in range(n):
        writer.begin(f"toy/{i}")
        for row in rows(i):
            writer.write(row)
    writer.close()
    return [read_episode(directory, f"toy/{i}", success=success) for i in range(n)]


def record(config: EvalConfig, key: str, *, success: bool = True, **changes: Any) -> EpisodeRecord:
    """A played episode; ``changes`` are fields of the record."""
    task = int(key.split("task")[1][:2]) if "task" in key else 0
    values: dict[str, Any] = {
        "key": key, "method": config.methods[0], "suite": config.suite, "task_index": task, "instruction": "reach",
        "attempt": 0, "success": success, "n_steps": 40, "sum_reward": 1.0, "max_reward": 1.0, "wall_s": 1.0,
        "lm_forwards": 40, "origins": {}, "start_hash": key, "peak_rss_mb": 1.0,
        "speculation": speculation({"speculate/always": 40}),
    }  # fmt: skip
    return EpisodeRecord(**{**values, **changes})


def speculation(routes: Mapping[str, int], audits: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Counts of one episode."""
    return {
        "n_steps": sum(routes.values()), "n_drafted": 0, "heisd_length": 0, "kept": {}, "by_source": {},
        "routes": dict(routes), "motion": {}, "audits": dict(audits or {}),
    }  # fmt: skip


class FakePlay:
    """Plays nothing: observations get rows, trials get the success that ``loses`` leaves them. Resumes like a run."""

    def __init__(self, loses: Mapping[str, int] | None = None) -> None:
        self.loses = dict(loses or {})  # name of the run -> episodes of it that fail
        self.played: list[str] = []  # runs that were not on disk yet
        self.asked: list[tuple[Path, EvalConfig, Setting]] = []

    def __call__(self, config: EvalConfig, out: Path, adapt: Any) -> list[EpisodeRecord]:
        setting = adapt(Setting(N_TASKS, lambda *_, **__: None, {"policy": {"sha256": TARGET.sha256}}))  # type: ignore[arg-type]
        self.asked.append((out, config, setting))
        starts = episode_starts(
            config.suite, N_TASKS, config.split, config.episodes, condition=config.condition, fresh=True,
            offset=config.offset,
        )  # fmt: skip
        is_observation = out.parent.name == "observe"
        # As evaluate(): what must agree between two visits is refused when it does not.
        settings = {**config.outcome_fields(), "provenance": dict(setting.provenance)}
        with open_run(out, settings) as run:
            if not run.result_path.is_file():
                self.played.append(f"{out.parent.name}/{out.name}")
                n_lost = self.loses.get(out.name, 0)
                for i, start in enumerate(starts):
                    if is_observation:
                        self._observe(setting.world_factory.rows, start.key, i)  # type: ignore[attr-defined]
                    skips = {} if config.methods == ("ar",) else {"skip/tolerant motion": 10}
                    counts = speculation({"speculate/always": 30, **skips}, {"parallel": 1} if skips else {})
                    run.append(record(config, start.key, success=i >= n_lost, speculation=counts))
                write_json(run.result_path, {})
        return RunDirectory(out).records()

    def _observe(self, directory: Path, key: str, seed: int) -> None:
        writer = RowWriter(directory)
        writer.begin(key)
        for row in rows(seed):
            writer.write(row)
        writer.close()
