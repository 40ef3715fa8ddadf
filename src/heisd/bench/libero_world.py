"""The world of an evaluation on LIBERO: environments, a policy loaded once, one engine per method."""

from typing import Any

from heisd.bench.evaluate import Setting
from heisd.bench.methods import method_builder, parse_methods
from heisd.bench.rollout import Agent
from heisd.bench.weights import describe_weights, resolve_weights
from heisd.config import EvalConfig
from heisd.errors import UnknownName
from heisd.sim.protocols import parse_protocol
from heisd.sim.rendering import parse_rendering
from heisd.sim.suites import suite_info
from heisd.types import Action, Observation, StepRecord

DTYPES = ("float32", "bfloat16")


def libero_setting(config: EvalConfig) -> Setting:
    """Check every name of a configuration, cheapest first, before anything heavy is loaded.

    Raises UnknownName, IncompleteSuite, MissingExtra, or BadArtifact for weights that are not there.
    """
    parse_methods(config.methods)
    protocol, _ = parse_protocol(config.protocol), parse_rendering(config.rendering)
    require_dtype(config.dtype)
    info = suite_info(config.suite)
    policy = describe_weights(resolve_weights(config.weights, config.suite))
    provenance = {"protocol": protocol.as_dict(), "policy": policy}
    return Setting(info.n_tasks, libero_world, provenance)


def require_dtype(name: str) -> None:
    """UnknownName unless results may be given in this precision."""
    if name not in DTYPES:
        raise UnknownName("dtype", name, DTYPES)


def libero_world(config: EvalConfig, *, n_threads: int | None) -> "LiberoWorld":
    """The :class:`~heisd.bench.rollout.WorldFactory` of LIBERO."""
    return LiberoWorld(config, n_threads=n_threads)


class LiberoWorld:
    """Keeps one environment at a time: episodes come task by task, and a scene takes hundreds of megabytes."""

    def __init__(self, config: EvalConfig, *, n_threads: int | None) -> None:
        import torch

        from heisd.policies.bundle import load_policy

        if n_threads is not None:
            torch.set_num_threads(n_threads)
        self._config = config
        self._policy = load_policy(resolve_weights(config.weights, config.suite), config.dtype)
        self._env: Any = None
        self._agents: dict[tuple[str, bool], Agent] = {}

    def env(self, task_index: int) -> Any:
        """The environment of a task; the one before it is closed."""
        from heisd.sim.libero import LiberoEnv

        if self._env is None or self._env.task.index != task_index:
            self.close()
            self._env = LiberoEnv(
                self._config.suite,
                task_index,
                protocol=parse_protocol(self._config.protocol),
                image_size=self._config.image_size,
                rendering=parse_rendering(self._config.rendering),
            )
        return self._env

    def agent(self, method: str, *, shadow: bool = False) -> Agent:
        """An engine of its own for every method, and another for its shadow; weights are shared."""
        key = (method, shadow)
        if key not in self._agents:
            self._agents[key] = EngineAgent(method_builder(method), self._policy)
        return self._agents[key]

    def close(self) -> None:
        """Free the environment."""
        if self._env is not None:
            self._env.close()
            self._env = None


class EngineAgent:
    """An engine with its telemetry handed back beside each action."""

    def __init__(self, build: Any, policy: Any) -> None:
        from heisd.telemetry import MemorySink

        self._sink = MemorySink()
        self._engine = build(policy, sink=self._sink)

    def reset(self) -> None:
        """Forget the episode before."""
        self._engine.reset()
        self._sink.records.clear()

    def act(self, observation: Observation) -> tuple[Action, StepRecord]:
        """One action and the record of the step that made it."""
        action: Action = self._engine.act(observation)
        return action, self._sink.records.pop()
