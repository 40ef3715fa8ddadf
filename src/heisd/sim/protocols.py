"""Evaluation protocols: horizons, settling and seeds as published, under their published names.

Sources: the LIBERO evaluation loops of OpenVLA, openpi, LeRobot and KERV. Horizons count control steps
*after* settling. A perturbed suite (``libero_goal_swap``) takes the horizon of its base suite.
"""

from dataclasses import dataclass
from typing import Any

from heisd.errors import UnknownName

BASE_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
_FALLBACK_BASE = "libero_90"  # the small custom suites use libero_90 scenes and short-horizon tasks


def base_suite(suite: str) -> str:
    """The standard suite that ``suite`` is a variant of (itself when it is one)."""
    for base in BASE_SUITES:
        if suite == base or suite.startswith(f"{base}_"):
            return base
    return _FALLBACK_BASE


@dataclass(frozen=True, slots=True)
class Protocol:
    """How an episode is set up and when it is given up. Hashable, so environments can be cached by it."""

    name: str
    settle_steps: int  # control steps with a still arm and an open gripper before the policy takes over
    horizons: tuple[tuple[str, int], ...]  # (base suite, control steps the policy may take)
    env_seed: int  # numpy seed before every reset: it places the fixtures, even for shipped states

    def horizon(self, suite: str) -> int:
        """Control steps a policy may take in ``suite`` before the episode is truncated."""
        return dict(self.horizons)[base_suite(suite)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to be echoed in results."""
        return {
            "name": self.name,
            "settle_steps": self.settle_steps,
            "horizon_by_suite": dict(self.horizons),
            "env_seed": self.env_seed,
        }


def _horizons(spatial: int, object_: int, goal: int, long: int, ninety: int) -> tuple[tuple[str, int], ...]:
    return tuple(zip(BASE_SUITES, (spatial, object_, goal, long, ninety), strict=True))


OPENVLA = Protocol("openvla", 10, _horizons(220, 280, 300, 520, 400), env_seed=0)
OPENPI = Protocol("openpi", 10, _horizons(220, 280, 300, 520, 400), env_seed=7)
LEROBOT = Protocol("lerobot", 10, _horizons(280, 280, 300, 520, 400), env_seed=1000)
KERV = Protocol("kerv", 10, _horizons(170, 240, 220, 470, 400), env_seed=0)

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (OPENVLA, OPENPI, LEROBOT, KERV)}


def parse_protocol(name: str) -> Protocol:
    """``"openvla"`` -> OPENVLA, or UnknownName."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UnknownName("protocol", name, PROTOCOLS) from None
