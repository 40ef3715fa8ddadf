"""Results of ``heisd bench --costs`` as files, read back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heisd.errors import BadArtifact, BadInput
from heisd.files import read_json
from heisd.policies.manifest import sha256_of
from heisd.route.costs import Costs, table_of

MEASURE = "heisd bench --costs --json > costs.json"
_ORIGIN = ("suite", "steps", "dtype", "threads", "observations", "machine", "commit")  # of a table, kept beside it


@dataclass(frozen=True, slots=True)
class CostsFile:
    """A table of costs and what it was measured with."""

    path: Path
    costs: Costs
    result: Mapping[str, Any]  # the whole object of ``heisd bench --costs``

    @property
    def policy_hash(self) -> str:
        """Of the policy it was measured on."""
        return str(self.result["policy"]["sha256"])

    def require_policy(self, sha256: str, whose: str) -> None:
        """BadArtifact when ``whose`` policy is another one."""
        if sha256 != self.policy_hash:
            raise BadArtifact(
                f"{self.path} was measured on policy {self.policy_hash[:12]}…, {whose} is {sha256[:12]}…; measure "
                f"again: {MEASURE}"
            )

    def origin(self) -> dict[str, Any]:
        """What a calibration says about where its table comes from."""
        return {"file": self.path.name, "sha256": sha256_of(self.path)} | {
            name: self.result.get(name) for name in _ORIGIN
        }


def read_costs(path: Path) -> CostsFile:
    """BadArtifact for a file that is missing, torn, or no result of ``heisd bench --costs``."""
    result = read_json(path, hint=f"; measure a table: {MEASURE}")
    try:
        file = CostsFile(path, table_of(result["costs"]), result)
        _ = file.policy_hash
    except (KeyError, TypeError, BadInput) as error:
        raise BadArtifact(
            f"{path} is no result of heisd bench --costs ({type(error).__name__}: {error}); measure a table: {MEASURE}"
        ) from None
    return file


def costs_for(path: Path, policy_hash: str) -> Costs:
    """The table in a file, as :func:`read_costs`; BadArtifact for one of another policy. An empty hash is nobody's."""
    file = read_costs(path)
    if policy_hash:
        file.require_policy(policy_hash, "this one")
    return file.costs
