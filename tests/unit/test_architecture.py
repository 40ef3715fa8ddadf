"""The shape of the package: imports point one way, and importing heisd is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import heisd

PACKAGE = Path(heisd.__file__).parent
# A module may import from its own layer or an earlier one (docs/architecture.md).
LAYERS = [
    {"types", "errors", "files", "interrupts", "extras"},
    {"kinematics", "scene", "watch", "codec", "telemetry"},
    {"propose", "accept", "accept_chunk", "verify", "policies", "index"},
    {"route"},
    {"partial_action", "inference", "engine"},
    {"presets", "acceleration", "acceleration_chunks", "acceleration_rules"},
    {"sim", "train", "bench", "serve", "testing", "doctor", "config"},
    {
        "cli",
        "cli_base",
        "cli_bench",
        "cli_calibrate",
        "cli_drafter",
        "cli_flow",
        "cli_index",
        "cli_predict",
        "cli_realtime",
        "cli_run",
        "demo",
    },
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def heisd_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("heisd"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("heisd.")}
    return found & set(RANK)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    module = module_of(path)
    if module == "__init__":
        pytest.skip("the package root re-exports public names")
    assert module in RANK, f"{module} has no layer: add it to LAYERS and to docs/architecture.md"
    upward = {name for name in heisd_imports(path) if RANK[name] > RANK[module]}
    assert not upward, f"{path.name} (layer {RANK[module]}) imports from a later layer: {sorted(upward)}"


@pytest.mark.parametrize("module", ["heisd", "heisd.types", "heisd.errors", "heisd.codec", "heisd.sim.splits"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_starts_without_torch() -> None:
    code = "import heisd.cli, sys; sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
