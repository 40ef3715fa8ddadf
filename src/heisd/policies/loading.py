"""Any policy of ours by what its manifest says it is."""

from pathlib import Path

from heisd.policies.bundle import find_policy, load_policy
from heisd.policies.flow.bundle import load_flow
from heisd.policies.flow.policy import FlowPolicy
from heisd.policies.identity import policy_format
from heisd.policies.manifest import FLOW_FORMAT
from heisd.policies.target import OpenVLAPolicy


def load_any(name_or_dir: str | Path, dtype: str = "float32") -> OpenVLAPolicy | FlowPolicy:
    """A runnable policy of either kind; raises what :func:`load_policy` and :func:`load_flow` raise."""
    directory = find_policy(name_or_dir)
    if policy_format(directory) == FLOW_FORMAT:
        return load_flow(directory, dtype)
    return load_policy(directory, dtype)
