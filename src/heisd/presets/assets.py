"""What presets need beside the policy: its drafters, its store, its calibration. Each is loaded when first asked for.

They lie beside the policy, under its name: ``libero-store``, ``libero-drafter``, ``libero-eagle``,
``libero-calibration/SUITE.json``; all are tied to its weights and refused for others.
"""

import copy
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact
from heisd.files import mb_on_disk, read_json
from heisd.index.bundled import open_store_for
from heisd.index.store import Store
from heisd.policies.identity import describe_weights
from heisd.policies.manifest import MANIFEST, sha256_of
from heisd.policies.target import OpenVLAPolicy
from heisd.presets import PRESETS
from heisd.presets.calibration import COMMAND, Calibration
from heisd.presets.skippers import SKIPPERS
from heisd.propose import registry
from heisd.propose.base import Proposer
from heisd.route.costs import Costs

DRAFTERS = ("parallel", "eagle")
_TRAIN = (
    "heisd train drafter --kind {kind} --weights {{policy}} --rollouts runs/rollouts --out runs/{kind}, then copy "
    "runs/{kind}/drafter to {{place}}"
)
# what -> where it lies, behind the policy's name, what it is called, and the command that makes it
PLACES = {
    "parallel": ("-drafter/manifest.json", "a parallel drafter", _TRAIN.format(kind="parallel")),
    "eagle": ("-eagle/manifest.json", "an EAGLE drafter", _TRAIN.format(kind="eagle")),
    "store": (
        "-store/manifest.json",
        "an experience store",
        "heisd index build --data DIR --weights {policy} --out {place}",
    ),
    "draft_head": (
        "-draft/manifest.json",
        "a draft head",
        "heisd train draft-head --data DIR --weights {policy} --out runs/draft-head, then copy runs/draft-head/drafter "
        "to {place}",
    ),
    "calibration": ("-calibration/{suite}.json", "a calibration", f"{COMMAND} --weights {{policy}}"),
}


def require(policy: Path, suite: str, methods: Iterable[str], *, calibration: Path | None = None) -> None:
    """BadArtifact for the first thing that a method needs and that is not there; weights and rows are not loaded.

    A calibration is read, wherever a method would: one that its preset would refuse is refused here, and so is one
    that lacks the setting of a preset that skips by it. ``calibration`` is a file used in place of the policy's own.
    """
    for method in methods:
        for what in PRESETS[method].needs:
            path = place_of(policy, suite, what)
            if what == "calibration" and calibration is not None:
                path = calibration
            if not path.is_file():
                place = path.parent if path.name == MANIFEST else path
                _, called, command = PLACES[what]
                raise BadArtifact(
                    f"method {method!r} needs {called}, and there is none at {place}; "
                    f"make one: {command.format(policy=policy.name, suite=suite, place=place)}"
                )
        _require_calibrated(policy, suite, method, calibration or place_of(policy, suite, "calibration"))


def _require_calibrated(policy: Path, suite: str, method: str, path: Path) -> None:
    """BadArtifact for a calibration that this method would load and refuse."""
    if "calibration" in PRESETS[method].reads and path.is_file():
        loaded = Calibration.load(path, describe_weights(policy)["sha256"], suite)
        for preset in (method, PRESETS[method].ablates):  # an ablation skips by its parent's setting
            if preset in SKIPPERS:
                loaded.skip_setting(preset)


def place_of(policy: Path, suite: str, what: str) -> Path:
    """The file by which something of a policy is known to be there."""
    policy = policy.resolve()
    return policy.parent / (policy.name + PLACES[what][0].format(suite=suite))


def hashes(policy: Path, suite: str) -> dict[str, str]:
    """What of :data:`PLACES` a policy has -> sha256 of the file that names it: echoed in results."""
    return {what: sha256_of(place) for what, place in _present(policy, suite).items()}


def in_use(policy: Path, suite: str, methods: Iterable[str], *, calibration: Path | None = None) -> dict[str, Any]:
    """:func:`hashes` of what these methods read, and of nothing else: it must agree when their run is resumed.

    Of a calibration there is one per method (:func:`deciding_hash`): a file that was calibrated for one more preset is
    the same file to the others. ``calibration`` is a file used in place of the policy's own.
    """
    places = _present(policy, suite) | ({} if calibration is None else {"calibration": calibration})
    found: dict[str, Any] = {}
    for what, place in places.items():
        readers = [method for method in methods if what in PRESETS[method].reads]
        if readers and what == "calibration":
            found[what] = {method: deciding_hash(place, method) for method in readers}
        elif readers:
            found[what] = sha256_of(place)
    return found


def deciding_hash(calibration: Path, method: str) -> str:
    """sha256 of all in a calibration file that a method's decisions depend on: no other preset's settings, no evidence.

    Raises BadArtifact for a file that is not JSON, and for one without settings by preset.
    """
    values = read_json(calibration)
    preset, settings = PRESETS[method], values.get("skips", {})
    mine = {method, preset.ablates, preset.delays}
    if not isinstance(settings, dict) or not all(isinstance(setting, dict) for setting in settings.values()):
        raise BadArtifact(f"{calibration} is no calibration: its skips are not settings by preset")
    skips = {name: _without_evidence(setting) for name, setting in settings.items() if name in mine}
    said = {
        key: _without_evidence(value)
        for key, value in values.items()
        if key not in ("command", "evidence", "provenance") and value is not None  # None: as in files without the key
    }
    return hashlib.sha256(json.dumps({**said, "skips": skips}, sort_keys=True).encode()).hexdigest()


def _without_evidence(value: Any) -> Any:
    return {key: part for key, part in value.items() if key != "evidence"} if isinstance(value, dict) else value


def store_mb(policy: Path, suite: str) -> float:
    """Size on disk of a policy's experience store [MB of 10^6 bytes], whatever was appended to it included."""
    return round(mb_on_disk(place_of(policy, suite, "store").parent), 3)


def _present(policy: Path, suite: str) -> dict[str, Path]:
    places = {what: place_of(policy, suite, what) for what in PLACES}
    return {what: place for what, place in places.items() if place.is_file()}


class Beside:
    """What lies beside any policy, of either kind, on one suite. Loaded once, however many engines ask for it."""

    def __init__(self, codec: ActionCodec, policy: Path, suite: str, calibration: Path | None) -> None:
        """``policy`` is its directory; ``calibration`` a file used in place of the policy's own."""
        self.codec, self.policy, self.suite = codec, policy.resolve(), suite
        self._store: Store | None = None
        self._calibration_path = calibration or place_of(policy, suite, "calibration")
        self._calibration: Calibration | None = None

    def store(self) -> Store:
        """The policy's experience store."""
        if self._store is None:
            self._store = open_store_for(self.policy, self.codec)
        return self._store

    def with_store(self, store: Store) -> Self:
        """The same, weights and all, with another store of this policy."""
        other = copy.copy(self)
        other._store = store
        return other

    def calibration(self) -> Calibration:
        """The suite's calibration."""
        if self._calibration is None:
            identity = describe_weights(self.policy)["sha256"]
            self._calibration = Calibration.load(self._calibration_path, identity, self.suite)
        return self._calibration

    @property
    def has_calibration(self) -> bool:
        """Whether there is a calibration to load."""
        return self._calibration_path.is_file()


class Assets(Beside):
    """Everything of one token policy on one suite. Engines built from the same object share weights and memory maps."""

    def __init__(
        self,
        target: OpenVLAPolicy,
        policy: Path,
        suite: str,
        *,
        horizon: int = 300,
        calibration: Path | None = None,
        costs: Costs | None = None,
    ) -> None:
        """``policy`` is the directory that ``target`` was loaded from; ``horizon`` the suite's, in control steps.

        ``calibration`` is a file used in place of the policy's own, ``costs`` a table in place of the calibration's.
        """
        super().__init__(target.codec, policy, suite, calibration)
        self.target, self.horizon = target, horizon
        self._costs = costs
        self._weights: dict[str, Any] = {}

    def proposer(self, name: str, **options: Any) -> Proposer:
        """A fresh proposer with its store or weights; BadArtifact when those are missing or of another policy."""
        if name == "retrieval":
            options = {"store": self.store(), **options}
        if name in DRAFTERS:
            options = {"drafter": self._drafter(name), **options}
        return registry.create(name, self.codec, **options)

    def costs(self) -> Costs | None:
        """What a forward and a guess cost where this runs; None without a calibration or a table in it."""
        if self._costs is not None:
            return self._costs
        return self.calibration().costs if self.has_calibration else None

    def _drafter(self, name: str) -> Any:
        if name not in self._weights:
            from heisd.policies.drafter_bundle import load_drafter

            self._weights[name] = load_drafter(place_of(self.policy, self.suite, name).parent, self.target)
        return self._weights[name]
