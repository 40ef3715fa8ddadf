"""Tables of ``heisd bench --costs``: compared with measurements, kept in a calibration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heisd.bench.cost_model import beside_measured
from heisd.bench.results import RESULT_NAME
from heisd.errors import BadArtifact, BadInput
from heisd.files import read_json
from heisd.policies.manifest import FORMAT
from heisd.presets import PRESETS
from heisd.presets.calibration import Calibration
from heisd.route.costs_file import CostsFile


def keep_costs(place: Path, table: CostsFile, policy_hash: str) -> Calibration:
    """Write a table into the calibration at ``place``, all else as it is; returns it.

    Raises BadArtifact for a table of another policy, and where there is no calibration of this one.
    """
    table.require_policy(policy_hash, f"the policy of {place}")
    before = Calibration.load(place, policy_hash)
    after = before.model_copy(
        update={"costs": table.costs, "provenance": {**before.provenance, "costs": table.origin()}}
    )
    after.save(place)
    return after


def predictions(table: CostsFile, results: Sequence[Path]) -> dict[str, Any]:
    """The result object of ``heisd predict``: predicted beside measured, per result and method.

    Args:
        table: of costs, from a run of its own.
        results: JSON files of ``heisd bench``, or run directories (or their ``eval_info.json``) of ``heisd eval``.

    Raises BadArtifact for anything else, and for a result of another policy; BadInput for another precision or number
    of threads than the table's.
    """
    compared = [_compared(table, path / RESULT_NAME if path.is_dir() else path) for path in results]
    errors = [
        method["error"] for each in compared for method in each["methods"].values() if method["error"] is not None
    ]
    return {
        "costs": {**table.origin(), "table": dict(table.result["costs"])},
        "results": compared,
        "largest_error": max(errors, key=abs, default=None),
        "is_within_10_percent": all(
            method["is_within_10_percent"] is not False for each in compared for method in each["methods"].values()
        ),
    }


def _compared(table: CostsFile, path: Path) -> dict[str, Any]:
    result = read_json(path, hint="; give what heisd bench --json printed, or a run directory of heisd eval")
    try:
        config = result.get("config", result)
        policy, methods, dtype, suite = result["policy"]["sha256"], result["methods"], config["dtype"], config["suite"]
        unknown = [name for name in methods if PRESETS[name].policy != FORMAT]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(
            f"{path} is no result of heisd bench or heisd eval ({type(error).__name__}: {error}); give one with methods"
        ) from None
    if unknown:
        raise BadInput(
            f"{path} has methods of chunk policies ({', '.join(unknown)}); the model predicts methods of policies that "
            "decode tokens: leave it out (the rounds of chunk policies are in the result itself)"
        )
    table.require_policy(policy, f"that of {path}")
    _require_same(table, path, "dtype", dtype)
    _require_same(table, path, "threads", result.get("threads"))
    seen = (result.get("observations") or {}).get("sha256")
    return {
        "file": str(path),
        "suite": suite,
        "has_same_observations": seen is not None and seen == (table.result.get("observations") or {}).get("sha256"),
        "methods": {name: beside_measured(table.costs, name, block) for name, block in methods.items()},
    }


def _require_same(table: CostsFile, path: Path, setting: str, value: Any) -> None:
    """BadInput where both say what they were measured with, and it is not the same."""
    mine = table.result.get(setting)
    if None not in (mine, value) and mine != value:
        raise BadInput(
            f"{table.path} was measured with {setting} {mine}, {path} with {value}: measure a table with "
            f"--{setting} {value}"
        )
