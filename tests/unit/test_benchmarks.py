"""Committed result files: whole, and of this project alone."""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FILES = sorted(RESULTS.rglob("*.json"))


def test_there_are_results() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_result_is_whole(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("what", ["parallel", "store"])
def test_speculation_was_measured_with_what_is_bundled(what: str) -> None:
    """A new drafter or store makes the figures in README somebody else's."""
    from heisd.policies.bundle import find_policy
    from heisd.presets.assets import hashes

    for path in [
        *RESULTS.glob("bench_exact-*.json"),
        *RESULTS.glob("check_exact-*.json"),
        *RESULTS.glob("guesses-*.json"),
    ]:
        suite = path.stem.partition("-")[2]
        assert json.loads(path.read_text())["assets"][what] == hashes(find_policy("libero"), suite)[what], path.name
