"""Scripted privileged experts: they see the simulator's state and demonstrate tasks to policies that do not."""

from heisd.sim.experts.expert import Expert, ExpertStep
from heisd.sim.experts.primitives import Phase
from heisd.sim.experts.style import Style, start_displacement
from heisd.sim.experts.tasks import UnsupportedTask, build_expert

__all__ = ["Expert", "ExpertStep", "Phase", "Style", "UnsupportedTask", "build_expert", "start_displacement"]
