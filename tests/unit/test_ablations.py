"""Ablations: each is its parent but for the part it names, and does at the fork what it says."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import fake_target as fake
import index_fakes
import kinematics_fakes as kin
import numpy as np
import pytest
import route_fakes as fakes
from fake_target import CODEC, FakePolicy
from hypothesis import given, settings
from hypothesis import strategies as st
from route_fakes import CONTEXT, draft, kinds, phase
from typer.testing import CliRunner

from heisd import cli
from heisd.accept import exact, relaxed, sequence
from heisd.engine import Engine
from heisd.errors import BadInput, UnknownName
from heisd.index.store import Store
from heisd.kinematics import Reading
from heisd.policies.manifest import FORMAT
from heisd.presets import ABLATIONS, PRESETS, builder, require_exact_dtype
from heisd.presets.ablations import RelaxedGripper
from heisd.presets.calibration import SkipSetting
from heisd.propose import registry
from heisd.propose.base import Stateless
from heisd.propose.kalman import KalmanNoise
from heisd.route.base import Memory, Plan, Reason, Route, RouteKind
from heisd.route.calibrated import SkipScore
from heisd.route.costs import Costs
from heisd.route.heisd import HeisdBoundary
from heisd.telemetry import MemorySink
from heisd.types import Draft, Scores, StopReason, TokenOrigin
from heisd.verify import merge
from heisd.watch import Watch

CODE_RANGES = kin.ranges(window=5)
PAPER_RANGES = replace(kin.ranges(window=15), variability_high=2.0)
SETTING = SkipSetting(
    score=SkipScore(("change_bins",), (10.0,), (2.0,), (-1.0,), 0.0), threshold=0.8, n_skips=4, min_similarity=0.7
)
CALIBRATION = SimpleNamespace(
    code_ranges=lambda: CODE_RANGES,
    paper_ranges=lambda: PAPER_RANGES,
    kalman_noise=lambda: KalmanNoise((1e-3,) * 7, (1e-3,) * 7),
    adaptive_similarity=0.9,
    skip_setting=lambda _preset: SETTING,
    watch=Watch(),
)


@dataclass(frozen=True)
class Asked(Stateless):
    """A proposer that only knows how it was asked for."""

    name: str
    options: str
    n_rows: int | None  # of the store it was given

    def propose(self, _context: object, _history: object) -> Draft | None:
        return None


class FakeAssets:
    """Everything a preset may need, on a store of two tasks of three episodes each."""

    target, horizon = FakePolicy(), 300

    def __init__(self, store: Store, costs: Costs | None = None) -> None:
        self._store, self._costs = store, costs

    def proposer(self, name: str, **options: Any) -> Asked:
        return Asked(name, repr(options), self._store.index.n_rows if name == "retrieval" else None)

    def calibration(self) -> Any:
        return CALIBRATION

    def costs(self) -> Costs | None:
        return self._costs

    def store(self) -> Store:
        return self._store

    def with_store(self, store: Store) -> "FakeAssets":
        return FakeAssets(store, self._costs)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    root = tmp_path_factory.mktemp("store") / "mine"
    index_fakes.make_store(root)
    with index_fakes.opened(root) as store:
        yield store


def parts(engine: Engine[Any, Any]) -> dict[str, Any]:
    """Everything that makes an engine, by name; the fields of the router one by one, also of one inside another."""
    inference = engine._inference
    found = {f"proposers.{name}": proposer for name, proposer in inference.panel._proposers.items()} | {
        "rule": plain(inference._rule),
        "recombines": inference._recombines,
        "max_nodes": inference._max_nodes,
    }
    return found | fields_of("router", engine._router)


def fields_of(name: str, router: Any) -> dict[str, Any]:
    found: dict[str, Any] = {name: type(router)}
    for each in fields(router):
        value, path = getattr(router, each.name), f"{name}.{each.name}"
        is_router = is_dataclass(value) and hasattr(value, "decide")
        found |= fields_of(path, value) if is_router else {path: plain(value)}
    return found


def plain(value: Any) -> Any:
    """Functions with bound arguments are equal when what they bind is."""
    return (value.func, value.args, value.keywords) if isinstance(value, partial) else value


TOKEN_ABLATIONS = [name for name, preset in ABLATIONS.items() if preset.policy == FORMAT]
# ablation -> what differs from its parent, and nothing else
DIFFERS: dict[str, set[str]] = {
    "heisd_code_boundary": {"router.fast_rule", "router.n_skips"},
    "heisd_code_skip": {"router.fast_rule"},
    "heisd_code_adaptive": {"router.skip"},
    "heisd_code_speed": {"router.reading"},
    "heisd_code_10_5": {"router.fast_rule"},
    "heisd_code_30_15": {"router.fast_rule"},
    "heisd_code_any_gripper": {"router.fast_rule"},
    "spec_vla_relaxed_gripper": {"rule"},
    "spec_vla_strict_8_nodes": {"max_nodes", "proposers.eagle"},
    "spec_vla_relaxed_8_nodes": {"max_nodes", "proposers.eagle"},
    "kerv_paper_persistence": {"router.filter", "proposers.kalman", "proposers.persistence"},
    "hybrid_2to1": {"router.score", "router.threshold", "router.n_skips"},
    "exact_two_pass": {"router.drafters"},
    "retrieval_sd_two_pass": {"router.drafters", "router.later"},
} | {
    f"{parent}_store_{percent}": {"proposers.retrieval"}
    for parent in ("heisd_code", "hybrid", "rt_cache")
    for percent in (10, 25, 50)
}


def test_every_ablation_is_listed_apart_and_named_after_its_parent() -> None:
    assert set(DIFFERS) == set(TOKEN_ABLATIONS)
    for name, preset in ABLATIONS.items():
        parent = PRESETS[preset.ablates]
        assert PRESETS[name] is preset
        assert name.startswith(f"{preset.ablates}_")
        assert preset.changes
        assert not parent.ablates
        assert (preset.is_exact, preset.policy, preset.may_use) == (parent.is_exact, parent.policy, parent.may_use)
        assert preset.needs == parent.needs or preset.function.endswith(":unskipping")  # whom those ask


@pytest.mark.parametrize("name", TOKEN_ABLATIONS)
@pytest.mark.parametrize(
    "costs", [None, Costs(vision_ms=1.0, prefill_ms=4.0, decode_ms=1.5, row_ms=0.1)], ids=["", "costs"]
)
def test_an_ablation_is_its_parent_but_for_the_part_it_names(name: str, costs: Costs | None, store: Store) -> None:
    assets = FakeAssets(store, costs)
    parent = parts(builder(ABLATIONS[name].ablates)(assets, sink=MemorySink()))
    mine = parts(builder(name)(assets, sink=MemorySink()))
    missing = object()
    differing = {part for part in parent | mine if parent.get(part, missing) != mine.get(part, missing)}
    assert {part.replace("router.router", "router") for part in differing} == DIFFERS[name]


def test_what_the_parts_become(store: Store) -> None:
    def part(name: str, which: str) -> Any:
        return parts(builder(name)(FakeAssets(store), sink=None))[which]

    assert part("heisd_code_speed", "router.reading") is Reading.SPEED
    assert part("spec_vla_strict_8_nodes", "max_nodes") == 8
    assert part("spec_vla_strict_8_nodes", "proposers.eagle").options == "{'total_nodes': 8}"
    assert part("heisd_code_30_15", "router.fast_rule")[0] is sequence
    assert part("heisd_code_any_gripper", "router.fast_rule").rule.func is sequence
    assert plain(part("heisd_code_any_gripper", "router.fast_rule").rule) == part("heisd_code", "router.fast_rule")
    assert plain(part("spec_vla_relaxed_gripper", "rule").rule) == part("spec_vla_relaxed", "rule")
    assert part("exact_two_pass", "router.drafters") == ()
    assert part("hybrid_2to1", "router.n_skips") == 2
    assert part("hybrid_2to1", "router.score")({}) > 0.999
    assert part("heisd_code_adaptive", "router.skip").minimum == 0.9


def test_exact_ones_stay_refused_in_bfloat16() -> None:
    for name in ("exact_two_pass", "retrieval_sd_two_pass"):
        with pytest.raises(BadInput, match=rf"{name}: plain decoding's tokens are promised in float32 only"):
            require_exact_dtype([name], "bfloat16")


def test_ablations_do_not_drown_the_presets() -> None:
    with pytest.raises(
        UnknownName, match=r"known: ar, coast, exact, .*; and ablations of these: heisd eval --method help"
    ) as e:
        builder("warp")
    assert not any(f" {name}," in str(e.value) for name in ABLATIONS)
    done = CliRunner().invoke(cli.app, ["eval", "--method", "help"])
    assert done.exit_code == 0
    assert done.stdout.index("rt_cache") < done.stdout.index("ablations") < done.stdout.index("hybrid_2to1")


# HeiSD's ladder: boundary, + skip, + sequence

THETA, GATE = CODE_RANGES.fused_threshold, CODE_RANGES.speed_gate_mm
FAST, SLOW = phase(fused=THETA + 0.01), phase(fused=THETA)
FULL = HeisdBoundary(CODE_RANGES, fast_rule=exact, slow_rule=relaxed)
SKIPPING, ALONE = replace(FULL, fast_rule=None), replace(FULL, fast_rule=None, n_skips=0)
HIT = [draft()]


def test_the_ladder_of_heisd_s_ablation() -> None:
    steps = [(FAST, HIT, 7)] * 6
    assert kinds(ALONE, [(FAST, [], 7)] * 6) == "FFFFFF"
    assert kinds(SKIPPING, steps) == "SSFSSF"
    assert kinds(FULL, steps) == "SSPSSP"
    for router in (ALONE, SKIPPING, FULL):  # the slow side is the same in all three
        assert router.decide(CONTEXT, SLOW, (), Memory()).rule is relaxed
        assert router.plan(SLOW, Memory()) == FULL.plan(SLOW, Memory())


def test_the_boundary_alone_does_not_ask_memory() -> None:
    assert ALONE.plan(FAST, Memory()) == Plan(())
    assert ALONE.decide(CONTEXT, FAST, (), Memory()) == Route(RouteKind.FULL, Reason.TOLERANT, score=FAST.fused)
    assert SKIPPING.plan(FAST, Memory()) == Plan(("retrieval",))


def test_by_speed_f_does_not_matter_and_the_other_way_round() -> None:
    fast_but_curved, slow_but_straight = phase(fused=0.0, speed_mm=GATE + 1), phase(fused=1.0, speed_mm=GATE)
    by_speed = replace(FULL, reading=Reading.SPEED)
    assert kinds(by_speed, [(fast_but_curved, HIT, 7)] * 3) == "SSP"
    assert by_speed.decide(CONTEXT, slow_but_straight, HIT, Memory()).reason is Reason.FINE
    assert FULL.decide(CONTEXT, fast_but_curved, HIT, Memory()).reason is Reason.FINE
    assert by_speed.decide(CONTEXT, fast_but_curved, HIT, Memory()).score == GATE + 1
    unknown = by_speed.decide(CONTEXT, phase(speed_mm=fakes.NAN), HIT, Memory())
    assert unknown == Route(RouteKind.FULL, Reason.UNKNOWN_MOTION)


# the relaxed gripper

FIRST = CODEC.first_token
OWN = tuple(range(FIRST + 20, FIRST + 27))


def judged(rule: RelaxedGripper, *chains: tuple[int, ...]) -> Any:
    """A verdict where the target says OWN behind whatever it reads."""
    tree = merge([Draft(chains, "guess", (0.0,) * len(chains))], position=0, length=7, max_nodes=48)
    behind = np.asarray([OWN[depth + 1] for depth in tree.tree.depth], dtype=np.int64)
    return rule(tree, Scores(OWN[0], behind, 1.0), CODEC)


@pytest.mark.parametrize("inner", [partial(relaxed, tolerance_bins=9), sequence])
def test_only_the_gripper_is_relaxed_and_only_within_its_tolerance(inner: Any) -> None:
    rule = RelaxedGripper(inner, 9)
    for apart, is_kept in ((0, True), (9, True), (10, False), (200, False)):
        found = judged(rule, (*OWN[:6], OWN[6] + apart))
        assert found.tokens[:6] == OWN[:6]
        assert found.tokens[6] == (OWN[6] + apart if is_kept else OWN[6])
        if apart:
            assert found.origins[6] is (TokenOrigin.RELAXED if is_kept else TokenOrigin.DECODED)
            assert (found.n_accepted, found.deviation_bins[6]) == ((7, apart) if is_kept else (6, 0))
            assert found.reason is (StopReason.COMPLETE if is_kept else StopReason.GRIPPER)
    early = (*OWN[:2], OWN[2] + 100, *OWN[3:6], OWN[6] + 3)
    assert judged(rule, early) == judged(RelaxedGripper(inner, 0), early)  # nothing is kept behind what fails before


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=7, max_size=7), min_size=1, max_size=4), st.integers(0, 60))
def test_with_tolerance_0_it_is_the_rule_and_tokens_before_the_gripper_never_change(
    bins: list[list[int]], tolerance: int
) -> None:
    chains = tuple({tuple(FIRST + b for b in each) for each in bins})
    for inner in (exact, relaxed, sequence):
        before, after = judged(RelaxedGripper(inner, 0), *chains), judged(RelaxedGripper(inner, tolerance), *chains)
        assert before.tokens[:6] == after.tokens[:6]
        assert (before.path, before.source) == (after.path, after.source)
        assert all(0 <= deviation <= max(tolerance, 15) for deviation in after.deviation_bins)


def test_in_the_engine_a_wrong_gripper_is_kept_for_the_same_forwards() -> None:
    seen = fake.observations(1)[0]
    truth = fake.greedy(FakePolicy(), seen)
    wrong = (*truth[:6], FIRST if truth[6] > FIRST + 128 else FIRST + 255)

    class Says(Stateless):
        def propose(self, _context: object, _history: object) -> Draft | None:
            return Draft((wrong,), "says", (0.0,))

    for rule, gripper in ((exact, truth[6]), (RelaxedGripper(exact, 256), wrong[6])):
        sink = MemorySink()
        action = Engine(FakePolicy(), proposers={"says": Says()}, rule=rule, sink=sink).act(seen)
        assert action.tokens.tolist() == [*truth[:6], gripper]
        assert sink.records[0].lm_forwards == 1


# two passes


def test_two_passes_cost_one_forward_more_and_change_no_token() -> None:
    class Whole(Stateless):
        def propose(self, _context: Any, history: Any) -> Draft | None:
            return Draft((tuple(truth[len(history.settled) :]),), "parallel", (0.0,))

    assets = SimpleNamespace(target=FakePolicy(), costs=lambda: None, proposer=lambda _name: Whole())
    seen = fake.observations(1)[0]
    truth = fake.greedy(FakePolicy(), seen)
    for name, forwards in (("exact", 1), ("exact_two_pass", 2)):
        sink = MemorySink()
        assert builder(name)(assets, sink=sink).act(seen).tokens.tolist() == truth
        assert sink.records[0].lm_forwards == forwards


def test_persistence_completes_in_the_filter_s_place_and_the_gripper_stays_the_target_s(store: Store) -> None:
    class Assets(FakeAssets):
        def proposer(self, name: str, **options: Any) -> Any:
            return (
                registry.create(name, CODEC, **options) if name in registry.PROPOSERS and name != "eagle" else Silent()
            )

    class Silent(Stateless):
        def propose(self, _context: object, history: Any) -> Draft | None:
            return (
                Draft((tuple(truth[len(history.settled) : 4]),), "eagle", (0.0,)) if len(history.settled) < 4 else None
            )

    seen = fake.observations(1)[0]
    truth = fake.greedy(FakePolicy(), seen)
    sink = MemorySink()
    robot = builder("kerv_paper_persistence")(Assets(store), sink=sink)
    first, second = robot.act(seen), robot.act(seen)
    assert TokenOrigin.COMPENSATED in second.origins
    assert second.tokens.tolist() == first.tokens.tolist() == truth
    assert second.origins[6] is TokenOrigin.DECODED
