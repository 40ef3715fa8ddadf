"""The world of an evaluation on LIBERO: environments, a policy loaded once, one engine per method."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from heisd.bench.appending import MAX_ROWS, AppendingAgent
from heisd.bench.evaluate import Setting
from heisd.bench.methods import parse_methods
from heisd.bench.realtime import charged_costs, foreseen_delay
from heisd.bench.replay import Agent
from heisd.bench.weights import describe_weights, require_policy, weights_for
from heisd.config import EvalConfig
from heisd.errors import BadInput, UnknownName
from heisd.files import read_json
from heisd.index.bundled import open_store_for, own_copy
from heisd.index.store import Store
from heisd.policies.config import SamplingConfig
from heisd.policies.identity import policy_format
from heisd.policies.manifest import FLOW_FORMAT, FORMAT, sha256_of
from heisd.presets import PRESETS, builder
from heisd.sim.protocols import base_suite, parse_protocol
from heisd.sim.rendering import draw, parse_rendering
from heisd.sim.shifts import parse_shifts
from heisd.sim.suites import suite_info
from heisd.sim.targets import require_carriable
from heisd.types import Action, FloatArray, Observation, StepRecord

DTYPES = ("float32", "bfloat16")


def libero_setting(config: EvalConfig) -> Setting:
    """Check every name of a configuration, cheapest first, before anything heavy is loaded.

    Raises UnknownName, IncompleteSuite, MissingExtra, or BadArtifact for weights that are not there.
    """
    parse_methods(config.methods)
    protocol, _ = parse_protocol(config.protocol), parse_rendering(config.rendering)
    require_dtype(config.dtype)
    info = suite_info(config.suite)
    if config.condition.belt_m_s:
        require_carriable(config.suite, config.tasks)
    directory = weights_for(config.weights, config.suite, config.methods)
    policy = describe_weights(directory)
    from heisd.presets.assets import require as require_assets

    suite, given = _calibrated(config, directory), _given_calibration(config)
    require_assets(directory, suite, config.methods, calibration=given)
    if config.append_to is not None:
        require_policy(directory, FORMAT, "--append-to", "chunks are not remembered during operation")
        own_copy(directory, Path(config.append_to))
    provenance = {
        "protocol": protocol.as_dict(),
        "policy": policy,
        **_calibration_in_use(config, directory, policy),
        **_assets_in_use(config, directory),
        **sampling_in_use(config, directory),
    }
    return Setting(info.n_tasks, libero_world, provenance)


def _given_calibration(config: EvalConfig) -> Path | None:
    return None if config.calibration is None else Path(config.calibration)


def calibrated_suite(directory: Path, suite: str, given: Path | None = None) -> str:
    """The suite whose calibration a policy uses: its own or, for a variant such as ``libero_goal_swap``, its base's.

    A variant is what no experience was made with: what holds for its base is all that is known about it. ``given`` is a
    file used in place of the policy's own; it may be of either.
    """
    from heisd.presets.assets import place_of

    if given is not None and given.is_file():
        return base_suite(suite) if read_json(given).get("suite") == base_suite(suite) else suite
    has_own = place_of(directory, suite, "calibration").is_file()
    has_base = place_of(directory, base_suite(suite), "calibration").is_file()
    return base_suite(suite) if has_base and not has_own else suite


def _calibrated(config: EvalConfig, directory: Path) -> str:
    return calibrated_suite(directory, config.suite, _given_calibration(config))


def _calibration_in_use(config: EvalConfig, directory: Path, policy: dict[str, str]) -> dict[str, Any]:
    """The calibration that the methods load, by its hash; BadArtifact for one that they would refuse."""
    from heisd.presets.assets import place_of
    from heisd.presets.calibration import Calibration

    path = _given_calibration(config)
    if path is None and not any("calibration" in PRESETS[method].needs for method in config.methods):
        return {}
    wanted = _calibrated(config, directory)
    path = path or place_of(directory, wanted, "calibration")
    suite = Calibration.load(path, policy["sha256"], wanted).suite
    return {"calibration": {"suite": suite, "sha256": sha256_of(path)}}


def _assets_in_use(config: EvalConfig, directory: Path) -> dict[str, Any]:
    """Drafters, store and calibration that the methods read, by their hashes, and how large the store is."""
    from heisd.presets.assets import in_use, store_mb

    suite = _calibrated(config, directory)
    assets = in_use(directory, suite, config.methods, calibration=_given_calibration(config))
    size = {"store_mb": store_mb(directory, suite)} if "store" in assets else {}
    return {"assets": assets, **size} if assets else {}


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

        if n_threads is not None:
            torch.set_num_threads(n_threads)
        self._config = config
        self._shifts = () if config.shift is None else parse_shifts(config.shift)
        self._env: Any = None
        self._played: Any = None  # the same, changed if anything is to be
        self._agents: dict[str, Agent] = {}
        self._store: Store | None = None  # that is appended to

    def env(self, task_index: int) -> Any:
        """The environment of a task, with the configuration's shifts; the one before it is closed."""
        from heisd.sim.changed import ChangedEnv
        from heisd.sim.libero import LiberoEnv

        if self._env is None or self._env.task.index != task_index:
            self._close_env()
            self._env = LiberoEnv(
                self._config.suite,
                task_index,
                protocol=parse_protocol(self._config.protocol),
                image_size=self._config.image_size,
                rendering=parse_rendering(self._config.rendering),
                draws_late=not self._config.timing,  # timed, all that was seen is replayed
            )
            self._played = self._env if not self._shifts else ChangedEnv(self._env, self._shifts)
        return self._played

    def agent(self, method: str) -> Agent:
        """An engine and a policy of its own for every method: none pays for what another asks of one."""
        if method not in self._agents:
            assets = load_assets(self._config, method)
            agent = EngineAgent(builder(method), assets)
            self._agents[method] = agent if self._config.append_to is None else self._appending(agent, assets)
        return self._agents[method]

    def _appending(self, agent: "EngineAgent", assets: Any) -> AppendingAgent:
        self._store = open_store_for(assets.policy, assets.codec, self._config.append_to, max_appended_rows=MAX_ROWS)
        return AppendingAgent(agent, self._store)

    def close(self) -> None:
        """Free the environment, and the store for other writers."""
        self._close_env()
        if self._store is not None:
            self._store.close()

    def _close_env(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = self._played = None


def load_assets(config: EvalConfig, method: str = "") -> Any:
    """The policy of a configuration with what lies beside it, for a method whose rounds may have a delay."""
    from heisd.policies.bundle import load_policy
    from heisd.presets.assets import Assets

    directory, calibration = weights_for(config.weights, config.suite, config.methods), _given_calibration(config)
    suite = _calibrated(config, directory)
    if policy_format(directory) == FLOW_FORMAT:
        return _load_flow_assets(config, directory, suite, calibration, foreseen_delay(config, method))
    horizon = parse_protocol(config.protocol).horizon(config.suite)
    target = load_policy(directory, config.dtype)
    return Assets(target, directory, suite, horizon=horizon, calibration=calibration, costs=charged_costs(config))


def _load_flow_assets(
    config: EvalConfig, directory: Path, suite: str, calibration: Path | None, delay_steps: int
) -> Any:
    from heisd.policies.flow.bundle import load_flow
    from heisd.presets.flow_assets import FlowAssets

    target = load_flow(directory, config.dtype)
    sampling = _sampling(config, directory)
    return FlowAssets(target, directory, suite, sampling=sampling, calibration=calibration, delay_steps=delay_steps)


def _sampling(config: EvalConfig, directory: Path) -> SamplingConfig:
    """How a flow-matching policy's chunks are made and used: what its bundle says, or what was asked for instead."""
    from heisd.policies.bundle import read_config
    from heisd.policies.flow.config import FlowConfig
    from heisd.presets.flow_assets import chosen_sampling

    bundled = read_config(directory, FlowConfig)
    return chosen_sampling(bundled.sampling, bundled.horizon, config.euler_steps, config.executed)


def sampling_in_use(config: EvalConfig, directory: Path) -> dict[str, Any]:
    """What a result says about a flow-matching policy's chunks; BadInput for numbers given to a token policy."""
    if policy_format(directory) == FLOW_FORMAT:
        return {"sampling": _sampling(config, directory).model_dump(), **_delays_in_use(config, directory)}
    if config.euler_steps is not None or config.executed is not None:
        raise BadInput(f"--euler-steps and --executed are for flow-matching policies; {directory.name} decodes tokens")
    return {}


def _delays_in_use(config: EvalConfig, directory: Path) -> dict[str, Any]:
    """Of methods that do not wait for their rounds, how many control steps each has; BadInput for too many."""
    from heisd.engine import require_delay
    from heisd.policies.bundle import read_config
    from heisd.policies.flow.config import FlowConfig

    delays = {method: foreseen_delay(config, method) for method in config.methods if PRESETS[method].is_delayed}
    executed, horizon = _sampling(config, directory).executed, read_config(directory, FlowConfig).horizon
    for delay_steps in delays.values():
        require_delay(delay_steps, executed, horizon)
    return {"delay_steps": delays} if delays else {}


class EngineAgent:
    """An engine with its telemetry handed back beside each action."""

    def __init__(self, build: Callable[..., Any], assets: Any) -> None:
        from heisd.telemetry import MemorySink

        self._sink = MemorySink()
        self._engine = build(assets, sink=self._sink)

    def reset(self) -> None:
        """Forget the episode before."""
        self._engine.reset()
        self._sink.records.clear()

    @property
    def vision_key(self) -> FloatArray:
        """(D,) of the pictures encoded last."""
        key: FloatArray = self._engine.context.vision_key
        return key

    def act(self, observation: Observation) -> tuple[Action, StepRecord]:
        """One action and the record of the step that made it. No clock of the engine's sees a picture being drawn."""
        if self._engine.will_look:
            draw(observation.images)
        action: Action = self._engine.act(observation)
        return action, self._sink.records.pop()
