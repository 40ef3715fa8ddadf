"""Routes inside the engine, over a target without a network: what runs, what is executed, what is remembered."""

import ast
from dataclasses import replace
from pathlib import Path

import fake_target as fake
import numpy as np
import pytest
import route_fakes as fakes
from fake_target import CODEC, FakeContext, FakePolicy
from scene_fakes import observed, table_top

import heisd.route
from heisd.accept import exact, relaxed
from heisd.engine import Engine
from heisd.propose import registry
from heisd.propose.base import History, Proposer, Stateless
from heisd.route.base import WITHDRAWALS, Always, Memory, Outcome, Reason, Route, RouteKind, Router
from heisd.route.calibrated import CalibratedSkip, SkipScore
from heisd.route.costs import Costs
from heisd.route.fixed import Fixed, Replay
from heisd.route.heisd import HeisdBoundary
from heisd.route.kerv import KervCode, KervPaper
from heisd.route.paying import Paying
from heisd.telemetry import MemorySink
from heisd.types import Draft, IntArray, Observation, Scores, TokenOrigin, TokenTree
from heisd.watch import Watch

FIRST = CODEC.first_token
SMALL = (FIRST + 3,) * 7


class Counting(FakePolicy):
    """Counts its forwards."""

    def __init__(self) -> None:
        self.n_prefills = self.n_extends = 0

    def prefill(self, context: FakeContext, tree: TokenTree | None = None) -> tuple[fake.FakeCache, Scores]:
        self.n_prefills += 1
        return super().prefill(context, tree)

    def extend(self, cache: fake.FakeCache, tree: TokenTree) -> Scores:
        self.n_extends += 1
        return super().extend(cache, tree)


class Says(Stateless):
    """Always the same action, as far as it is missing; counts how often it was asked."""

    def __init__(self, source: str, tokens: tuple[int, ...] = SMALL, n_most: int = 7) -> None:
        self.source, self.tokens, self.n_most, self.n_asked = source, tokens, n_most, 0

    def propose(self, context: FakeContext, history: History) -> Draft | None:  # type: ignore[override]  # noqa: ARG002
        self.n_asked += 1
        rest = self.tokens[len(history.settled) :][: self.n_most]
        return Draft((rest,), self.source, (0.0,)) if rest else None


class Scripted(Always):
    """These routes, one after the other."""

    def __init__(self, *routes: Route) -> None:
        object.__setattr__(self, "routes", iter(routes))

    def decide(self, *_: object) -> Route:  # type: ignore[override]
        return next(self.routes)  # type: ignore[attr-defined,no-any-return]


def engine(router: Router, *proposers: Proposer, target: FakePolicy | None = None) -> tuple[Engine, MemorySink]:  # type: ignore[type-arg]
    sink = MemorySink()
    named = {proposer.source: proposer for proposer in proposers}  # type: ignore[attr-defined]
    return Engine(target or Counting(), proposers=named, router=router, sink=sink), sink


def test_a_skip_runs_no_forward_and_executes_its_tokens() -> None:
    target = Counting()
    robot, sink = engine(Replay("memory"), Says("memory"), target=target)
    for seen in fake.observations(5):
        action = robot.act(seen)
        assert tuple(action.tokens.tolist()) == SMALL
        assert set(action.origins) == {TokenOrigin.SKIPPED}
        np.testing.assert_array_equal(action.values, CODEC.decode(np.asarray(SMALL)))
    assert (target.n_prefills, target.n_extends) == (0, 0)
    assert {(r.lm_forwards, r.n_drafted, r.route, r.reason) for r in sink.records} == {(0, 0, "skip", "always")}
    assert all("prefill" not in record.stage_ms for record in sink.records)


def test_skips_and_forwards_are_counted_apart_in_a_two_to_one_pattern() -> None:
    target, seen = Counting(), fake.observations(1)[0]
    ranges = replace(fakes.ranges(), displacement_min_m=0.0, displacement_max_m=0.0, fused_threshold=0.0)
    boundary = HeisdBoundary(ranges, fast_rule=exact, slow_rule=relaxed, source="memory", drafters=())
    robot, sink = engine(boundary, Says("memory"), target=target)
    for i in range(12):
        position_m = np.array([0.01 * i, 0.0, 1.0])
        robot.act(replace(seen, proprio=replace(seen.proprio, eef_pos_m=position_m)))
    kinds = [record.route for record in sink.records]
    assert kinds[:2] == ["full", "full"]  # F needs three positions
    assert kinds[2:] == (["skip", "skip", "speculate"] * 4)[:10]
    assert target.n_prefills == kinds.count("full") + kinds.count("speculate")


@pytest.mark.parametrize("n_most", [1, 3, 6])
def test_a_guess_that_is_no_whole_action_is_not_executed(n_most: int) -> None:
    target, seen = Counting(), fake.observations(1)[0]
    robot, sink = engine(Replay("memory"), Says("memory", n_most=n_most), target=target)
    assert robot.act(seen).tokens.tolist() == fake.greedy(FakePolicy(), seen)
    assert (sink.records[0].route, sink.records[0].reason, target.n_prefills) == ("full", "no guess", 1)


def test_full_ignores_guesses_and_asks_nobody_later() -> None:
    seen = fake.observations(1)[0]
    scout = Says("scout", tuple(fake.greedy(FakePolicy(), seen)))
    robot, sink = engine(Scripted(Route(RouteKind.FULL, Reason.UNKNOWN_MOTION)), scout)
    assert robot.act(seen).tokens.tolist() == list(scout.tokens)
    record = sink.records[0]
    assert (record.lm_forwards, record.n_drafted, record.verifications, scout.n_asked) == (7, 0, (), 1)
    assert record.origins == {"decoded": 7}


def test_a_route_that_names_a_guess_has_it_checked_alone() -> None:
    """An audit: what would have been executed is wrong at the third token, and nobody else's right guess hides it."""
    seen = fake.observations(1)[0]
    truth = tuple(fake.greedy(FakePolicy(), seen))
    wrong = (*truth[:2], truth[2] ^ 1, *truth[3:])
    audit = Route(RouteKind.SPECULATE, Reason.AUDIT, only=Draft((wrong,), "wrong", (0.0,)))
    robot, sink = engine(Scripted(audit), Says("right", truth), Says("wrong", wrong))
    assert robot.act(seen).tokens.tolist() == list(truth)
    record = sink.records[0]
    assert (record.verifications[0], record.kept_by_source["wrong"]) == ((0, 2), 2)


def test_only_those_in_the_plan_are_asked() -> None:
    seen = fake.observations(1)[0]
    before, behind, idle = Says("before"), Says("behind"), Says("idle")
    robot, sink = engine(Fixed(drafters=("before",), later=("behind",)), before, behind, idle)
    robot.act(seen)
    record = sink.records[0]
    assert (before.n_asked, idle.n_asked) == (1, 0)
    assert behind.n_asked == sum(1 for position, _ in record.verifications if position > 0) > 0


class Remembering(Fixed):
    """Keeps what came of every step."""

    def __init__(self, **proposers: tuple[str, ...]) -> None:
        super().__init__(**proposers)
        object.__setattr__(self, "came", [])

    def remember(self, memory: Memory, outcome: Outcome) -> Memory:
        self.came.append(outcome)  # type: ignore[attr-defined]
        return memory


def test_what_came_of_a_step_is_told_with_its_forwards_and_rows() -> None:
    router = Remembering(drafters=("before",), later=("behind",))
    robot, sink = engine(router, Says("before", n_most=4), Says("behind"))
    for seen in fake.observations(4):
        action = robot.act(seen)
        came, record = router.came[-1], sink.records[-1]  # type: ignore[attr-defined]
        assert came.tokens == tuple(action.tokens.tolist())
        assert came.n_forwards == record.lm_forwards
        assert tuple(zip(came.positions, (v.n_accepted for v in came.verdicts), strict=True)) == record.verifications
        assert came.n_rows[0] == 4  # the guesses themselves; the token before them is no guess
        assert all(n == 6 - position for position, n in zip(came.positions[1:], came.n_rows[1:], strict=True))
        assert sum(came.n_rows) == record.n_drafted


def kerv(seen: Observation, router: Router, settles: int) -> tuple[Engine, MemorySink]:  # type: ignore[type-arg]
    """A drafter that is right for ``settles`` tokens, and a filter that says something else."""
    truth = fake.greedy(FakePolicy(), seen)
    wrong = FIRST if truth[settles] != FIRST else FIRST + 1
    drafter = Says("eagle", (*truth[:settles], *[wrong] * (7 - settles)))
    return engine(router, drafter, Says("kalman"))


def opinion_behind(seen: Observation, tokens: IntArray) -> int:
    """The target's own gripper token behind six others."""
    policy = FakePolicy()
    cache, _ = policy.prefill(policy.encode(seen))
    return int(policy.extend(cache, TokenTree.chain(tokens[:6])).node_next[5])


KERV_PAPER = KervPaper(replace(fakes.kin.ranges(window=15), variability_high=4.0), filter="kalman")


@pytest.mark.parametrize("settles", [3, 4, 5])
def test_the_filter_fills_the_motion_tokens_and_the_gripper_is_the_target_s(settles: int) -> None:
    router = replace(KERV_PAPER, tolerance_range_bins=(0, 0))
    for seen in fake.observations(6):
        robot, sink = kerv(seen, router, settles)
        action = robot.act(seen)
        truth = fake.greedy(FakePolicy(), seen)
        n = settles + 1  # the drafter's tokens and the target's own behind them
        assert action.tokens[:n].tolist() == truth[:n]
        assert action.tokens[n:6].tolist() == [SMALL[0]] * (6 - n)
        assert action.tokens[6] == opinion_behind(seen, action.tokens)
        assert action.origins[n:] == (TokenOrigin.COMPENSATED,) * (6 - n) + (TokenOrigin.DECODED,)
        assert sink.records[0].lm_forwards == 3
        assert len(sink.records[0].verifications) == 1  # what the filter fills is not verified, nor counted as kept
        assert "kalman" not in sink.records[0].kept_by_source


def test_a_position_that_is_not_settled_is_not_filled() -> None:
    seen = fake.observations(1)[0]
    robot, sink = kerv(seen, replace(KERV_PAPER, tolerance_range_bins=(0, 0)), 1)
    action = robot.act(seen)
    assert action.tokens[:3].tolist() == fake.greedy(FakePolicy(), seen)[:3]
    assert action.origins.index(TokenOrigin.COMPENSATED) >= 3
    assert len(sink.records[0].verifications) >= 2


def test_the_released_code_fills_at_every_fourth_step_behind_one_verification() -> None:
    robot, sink = engine(KervCode(filter="kalman"), Says("eagle"), Says("kalman"))
    for seen in fake.observations(8):
        robot.act(seen)
    assert [record.origins.get("compensated", 0) > 0 for record in sink.records] == [False] * 3 + [True] + [
        False
    ] * 3 + [True]


COSTS = Costs(vision_ms=1.0, prefill_ms=4.0, decode_ms=1.5, row_ms=0.1, drafter_ms=1.0)


def test_paying_stops_asking_in_the_engine_and_every_action_stays_plain_decoding_s() -> None:
    policy, wrong = FakePolicy(), Says("drafter")
    names = ("drafter",)
    robot, sink = engine(Paying(Fixed(drafters=names), COSTS, window=3, pause_steps=4), wrong)
    for seen in fake.observations(20):
        assert robot.act(seen).tokens.tolist() == fake.greedy(policy, seen)
    letters = "".join("F" if record.reason == "does not pay" else "P" for record in sink.records)
    assert letters == "PPPFFFFPPPFFFFFFFFPP"
    assert wrong.n_asked == letters.count("P")
    robot.reset()
    robot.act(fake.observations(1)[0])
    assert sink.records[-1].reason == "always"


def test_no_step_is_skipped_from_a_fault_on_until_the_hold_is_over() -> None:
    score = SkipScore((), (), (), (), 50.0)
    skipper = CalibratedSkip(
        score, 0.5, fakes.ranges(), exact, "guess", ("guess",), n_skips=99, gripper_margin_steps=0, audited_share=0.0,
        watch=Watch(hold_steps=3),
    )  # fmt: skip
    images = [np.zeros_like(table_top(i)) if 10 <= i < 14 else table_top(i) for i in range(24)]
    for router in (skipper, Paying(skipper, COSTS)):
        robot, sink = engine(router, Says("guess", SMALL))
        robot._memory = replace(robot._memory, last_tokens=SMALL)
        for seen in observed(images):
            robot.act(seen)
        reasons = [record.reason for record in sink.records]
        # Behind the dark the picture jumps back, and the hold begins again: three steps behind step 14.
        assert reasons[:10] == ["tolerant motion"] * 10
        assert reasons[10:14] == ["camera dark"] * 4
        assert reasons[14:18] == ["picture jumped"] * 4
        assert all(record.route == "speculate" and record.lm_forwards for record in sink.records[10:18])
        assert not {*reasons[18:]} & {str(reason) for reason in WITHDRAWALS}
        robot.reset()
        assert robot._memory == router.begin()


def routers() -> list[Router]:
    score = SkipScore(("change_bins",), (10.0,), (2.0,), (-1.0,), 0.0)
    watchful = CalibratedSkip(score, 0.5, fakes.ranges(), exact, "persistence", ("persistence", "kalman"))
    calibrated = replace(watchful, watch=fakes.TRUSTING)
    boundary = HeisdBoundary(
        fakes.ranges(), fast_rule=exact, slow_rule=relaxed, source="persistence", drafters=("kalman",)
    )
    return [
        Always(), Fixed(drafters=("kalman",), later=("persistence",)), Replay("persistence"), boundary, calibrated,
        watchful, replace(KERV_PAPER, drafter="persistence"), KervCode(drafter="persistence", filter="kalman"),
        Paying(calibrated, COSTS, window=2, pause_steps=3), Paying(Always(), COSTS, window=2),
    ]  # fmt: skip


@pytest.mark.parametrize("router", routers(), ids=lambda router: type(router).__name__)
def test_the_same_episode_brings_the_same_routes_and_actions_whatever_the_clock_says(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play() -> list[object]:
        sink = MemorySink()
        proposers = {name: registry.create(name, CODEC) for name in ("persistence", "kalman")}
        robot = Engine(FakePolicy(), proposers=proposers, router=router, sink=sink)
        first = fake.observations(1)[0]
        seen = [first if i % 3 else other for i, other in enumerate(fake.observations(30))]
        tokens = [robot.act(each).tokens.tolist() for each in seen]
        return [tokens, [(r.route, r.reason, r.origins, repr(r.score)) for r in sink.records]]

    once = play()
    ticks = iter(range(0, 10**12, 7_919_000))
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(f"time.{name}", lambda: float(next(ticks)))
        monkeypatch.setattr(f"time.{name}_ns", lambda: next(ticks))
    assert play() == once
    assert router.begin() == router.begin()
    assert isinstance(router.begin(), Memory)


@pytest.mark.parametrize("path", sorted(Path(heisd.route.__path__[0]).glob("*.py")), ids=lambda path: path.name)
def test_a_rule_imports_neither_a_clock_nor_chance(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not names & {"time", "datetime", "random", "secrets", "heisd.telemetry", "os"}
    assert not any(isinstance(node, ast.Attribute) and node.attr == "random" for node in nodes)
