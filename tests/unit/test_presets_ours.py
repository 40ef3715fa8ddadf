"""This project's presets over a target without a network: checks that do not pay pause, and nothing else changes."""

from dataclasses import dataclass, replace
from typing import Any, cast

import fake_target as fake
import pytest
import route_fakes as fakes
from fake_target import FakePolicy
from test_route_engine import SMALL, Says

from heisd.kinematics import MotionRanges
from heisd.presets import builder
from heisd.presets.assets import Assets
from heisd.presets.calibration import SkipSetting
from heisd.propose.base import Proposer
from heisd.route.calibrated import SkipScore
from heisd.route.costs import Costs
from heisd.telemetry import MemorySink
from heisd.watch import Watch

SKIPPING = ("hybrid", "hybrid_no_store", "hold_calibrated")
CHEAP = Costs(vision_ms=1.0, prefill_ms=4.0, decode_ms=1.5, row_ms=0.0)
HOPELESS = replace(CHEAP, row_ms=9.0)
DEAR = replace(CHEAP, drafter_ms=99.0)
OFF = "full/does not pay"
ALWAYS_SURE = SkipScore((), (), (), (), 50.0)


@dataclass(frozen=True)
class FakeCalibration:
    """What skipping presets read of a calibration."""

    n_skips: int = 1
    watch: Watch = fakes.TRUSTING

    def skip_setting(self, _: str) -> SkipSetting:
        return SkipSetting(score=ALWAYS_SURE, threshold=0.5, n_skips=self.n_skips)

    def code_ranges(self) -> MotionRanges:
        return fakes.ranges()


class FakeAssets:
    """Proposers that are always right, or never; the table of costs is given."""

    def __init__(self, costs: Costs | None, says: tuple[int, ...]) -> None:
        self.target, self._costs, self._says = FakePolicy(), costs, says

    def calibration(self) -> FakeCalibration:
        return FakeCalibration()

    def costs(self) -> Costs | None:
        return self._costs

    def proposer(self, name: str, **_: Any) -> Proposer:
        return cast(Proposer, Says(name, self._says))


def played(preset: str, costs: Costs | None, *, is_right: bool = True) -> tuple[list[list[int]], list[str]]:
    """Tokens and routes of 150 steps in which nothing moves."""
    sink, seen = MemorySink(), fake.observations(1)[0]
    says = tuple(fake.greedy(FakePolicy(), seen)) if is_right else SMALL
    robot = builder(preset)(cast(Assets, FakeAssets(costs, says)), sink=sink)
    tokens = [robot.act(seen).tokens.tolist() for _ in range(150)]
    return tokens, [f"{record.route}/{record.reason}" for record in sink.records]


@pytest.mark.parametrize("preset", SKIPPING)
def test_a_table_by_which_checks_pay_changes_nothing(preset: str) -> None:
    assert played(preset, CHEAP) == played(preset, None)


@pytest.mark.parametrize("preset", SKIPPING)
def test_checks_that_lose_by_the_table_pause_while_skips_go_on_and_are_tried_again(preset: str) -> None:
    _, without = played(preset, None)
    _, routes = played(preset, HOPELESS)
    first = routes.index(OFF)
    assert routes[:first] == without[:first]
    assert sum(route.startswith("speculate") for route in routes[:first]) == 20  # a few unlucky steps are no reason
    pause = routes[first - 1 : first + 39]
    assert {route for route in pause if "audit" not in route} == {OFF, "skip/tolerant motion"}
    assert routes[first + 39 :].count(OFF) < len(routes[first + 39 :])
    assert routes[first + 39 : first + 50] == without[first + 39 : first + 50]  # the trial
    assert played(preset, HOPELESS)[1] == routes


@pytest.mark.parametrize("preset", SKIPPING)
def test_guesses_that_were_refused_give_no_right_to_skip_in_a_pause(preset: str) -> None:
    _, routes = played(preset, HOPELESS, is_right=False)
    assert OFF in routes
    assert not [route for route in routes if route.startswith("skip")]


def test_a_drafter_that_is_asked_for_the_checks_alone_is_their_price() -> None:
    assert OFF in played("exact", DEAR)[1]
    assert OFF in played("hold_calibrated", DEAR)[1]


def test_exact_pauses_by_the_same_table_and_its_actions_stay_plain_decoding_s() -> None:
    tokens, routes = played("exact", HOPELESS, is_right=False)
    assert OFF in routes
    assert tokens == played("exact", None, is_right=False)[0] == played("exact", None)[0]


def test_plain_decoding_says_that_it_decodes_in_full() -> None:
    sink, policy = MemorySink(), FakePolicy()
    robot = builder("ar")(cast(Assets, FakeAssets(None, SMALL)), sink=sink)
    for seen in fake.observations(3):
        assert robot.act(seen).tokens.tolist() == fake.greedy(policy, seen)
    assert {(r.route, r.reason, r.lm_forwards, r.n_verifications) for r in sink.records} == {("full", "always", 7, 0)}
