"""A policy's directory with things beside it; nothing in them is ever loaded."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from heisd.bench import libero_world
from heisd.presets import assets
from heisd.presets.assets import place_of

HASH = "0" * 64


def toy_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *beside: str) -> Path:
    """The directory of ``toy``, which LIBERO's world takes for the weights it was asked for."""
    directory = tmp_path / "weights" / "toy"
    directory.mkdir(parents=True)
    for what in beside:
        place = place_of(directory, "toy", what)
        place.parent.mkdir()
        place.write_text(what)
    monkeypatch.setattr(libero_world, "suite_info", lambda _: SimpleNamespace(n_tasks=2))
    monkeypatch.setattr(libero_world, "weights_for", lambda *_: directory)
    monkeypatch.setattr(libero_world, "policy_format", lambda _: "heisd-policy-1")
    for module in (libero_world, assets):
        monkeypatch.setattr(module, "describe_weights", lambda _: {"name": "toy", "sha256": HASH})
    return directory
