"""The table of costs on synthetic steps whose prices are known; and the engines that it is measured with."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fake_target as fake
import numpy as np
import pytest
import route_fakes as fakes
from fake_target import CODEC, FakePolicy
from test_cost_model import COSTS

from heisd.bench.cost_model import Usage, predict
from heisd.bench.latency import Series, interleave
from heisd.bench.libero_world import EngineAgent
from heisd.bench.measure_costs import (
    ASKED,
    JUDGE,
    PLAIN,
    PROBE,
    SOURCE,
    WIDTHS,
    Probe,
    builders,
    fit_costs,
    judging,
    parts_ms,
)
from heisd.errors import BadInput
from heisd.propose import registry
from heisd.propose.base import History, Proposer
from heisd.route.base import Reason, RouteKind
from heisd.route.costs import Costs
from heisd.types import StepRecord

TRUE = replace(COSTS, check_ms=0.375, judge_ms=0.3)
Checks = tuple[tuple[int, int], ...]  # (position, rows) of every check


def step(forwards: int, checks: Checks = (), *, propose_ms: float = 0.0, asked: dict[str, int] | None = None,
         route_ms: float = 0.0, reason: str = "always") -> tuple[float, StepRecord]:  # fmt: skip
    """A control step that took what TRUE says; its time, and its record."""
    later = sum(1 for position, _ in checks if position > 0)
    n_rows = sum(rows for _, rows in checks)
    checked_ms = n_rows * TRUE.row_ms + len(checks) * TRUE.check_ms + later * TRUE.tree_ms
    stages = {
        "encode": TRUE.vision_ms, "route": route_ms, "propose": propose_ms, "prefill": TRUE.prefill_ms,
        "decode": (forwards - 1) * TRUE.decode_ms + checked_ms,
    }  # fmt: skip
    record = StepRecord(
        0, 0.0, stages, forwards, {}, verifications=tuple((position, 0) for position, _ in checks), n_drafted=n_rows,
        asked=asked or {}, reason=reason,
    )  # fmt: skip
    return sum(stages.values()) + TRUE.overhead_ms, record


def series(*steps: tuple[float, StepRecord]) -> Series:
    made = Series()
    for latency_ms, record in steps:
        made.add(latency_ms, record, 0.0)
    return made


def probed(rng: np.random.Generator, n: int = 50) -> list[tuple[float, StepRecord]]:
    checks = (tuple((p, int(w)) for p, w in enumerate(rng.choice(WIDTHS, 6)) if w) for _ in range(n))
    return [step(7, each, propose_ms=0.625) for each in checks]  # what its guesses take is nobody's price


def every_engine(rng: np.random.Generator) -> dict[str, Series]:
    drafts = [TRUE.drafter_ms + k * TRUE.redraft_ms for k in range(4)]
    return {
        PLAIN: series(step(7), step(7, propose_ms=0.25)),  # nobody is asked, which takes time, too
        PROBE: series(*probed(rng)),
        JUDGE: series(step(7, route_ms=TRUE.judge_ms)),
        "parallel": series(*(step(7, propose_ms=ms, asked={"parallel": k + 1}) for k, ms in enumerate(drafts))),
        "retrieval": series(step(7, propose_ms=TRUE.lookup_ms, asked={"retrieval": 1})),
        "eagle": series(step(7, propose_ms=3 * TRUE.eagle_ms, asked={"eagle": 3})),
    }


def test_prices_that_are_known_are_found(rng: np.random.Generator) -> None:
    found = fit_costs(every_engine(rng))
    for name in Costs.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name)), name


def test_a_table_from_one_run_predicts_another_to_the_digit(rng: np.random.Generator) -> None:
    costs = fit_costs(every_engine(rng))
    ms, record = step(3, ((0, 9), (4, 5)), propose_ms=TRUE.drafter_ms + TRUE.redraft_ms, asked={"parallel": 2})
    assert predict(costs.asking(("parallel",)), Usage.of_step(record)).total_ms == pytest.approx(ms)


def test_what_is_not_there_costs_nothing(rng: np.random.Generator) -> None:
    found = fit_costs({PLAIN: series(step(7)), PROBE: series(*probed(rng))})
    assert (found.lookup_ms, found.drafter_ms, found.redraft_ms, found.eagle_ms, found.judge_ms) == (0.0,) * 5


def test_noise_cannot_make_a_part_earn_time(rng: np.random.Generator) -> None:
    cheap = [(ms - 0.2 * record.n_drafted, record) for ms, record in probed(rng)]
    found = fit_costs({PLAIN: series(step(7)), PROBE: series(*cheap)})
    assert found.row_ms == 0.0
    assert min(found.check_ms, found.tree_ms) >= 0.0


def test_steps_that_were_decoded_again_set_no_price(rng: np.random.Generator) -> None:
    again = [(ms + 50.0, replace(record, reason=Reason.TOO_CLOSE)) for ms, record in probed(rng, 10)]
    found = fit_costs({**every_engine(rng), PROBE: series(*probed(rng), *again)})
    assert found.check_ms == pytest.approx(TRUE.check_ms)


def test_a_table_needs_plain_steps_and_probes() -> None:
    with pytest.raises(BadInput, match="read off steps of plain and probe; got plain"):
        fit_costs({PLAIN: series(step(7))})


def test_the_probe_guesses_what_an_action_could_hold() -> None:
    probe, history = Probe(CODEC), History.empty(CODEC.length)
    for settled in range(CODEC.length - 1):
        now = history.with_settled((CODEC.first_token,) * settled)
        drafts = [probe.propose(fake_context(), now) for _ in range(40)]
        assert any(draft is None for draft in drafts)
        sizes = {len(draft.chains) * len(draft.chains[0]) for draft in drafts if draft is not None}
        assert len(sizes) > 2
        assert max(sizes) <= max(*WIDTHS, CODEC.length)
        assert {len(chain) for d in drafts if d is not None for chain in d.chains} == {CODEC.length - settled}


def fake_context() -> Any:
    return None


def stand_in(name: str) -> Proposer:
    return registry.create("persistence" if name == "parallel" else name, CODEC)


def test_the_judge_weighs_a_step_that_could_be_skipped_and_never_skips() -> None:
    router = judging()
    memory = replace(router.begin(), last_tokens=fakes.GUESS)
    route = router.decide(fakes.CONTEXT, fakes.phase(), [fakes.draft(SOURCE)], memory)
    assert (route.kind, route.reason) == (RouteKind.SPECULATE, Reason.UNSURE)


def test_the_engines_of_the_table_play_plain_decoding_s_actions_and_every_part_is_timed() -> None:
    def agent(build: Any) -> EngineAgent:
        return EngineAgent(build, SimpleNamespace(target=FakePolicy(), codec=CODEC, proposer=stand_in))

    recorded = fake.observations(12)
    engines = builders({"parallel": ASKED["parallel"]})
    found = interleave({name: agent(build) for name, build in engines.items()}, recorded, steps=24, warmup=2)
    assert set(found) == {PLAIN, PROBE, JUDGE, "parallel"}
    assert all(record.asked["parallel"] >= 1 for record in found["parallel"].records)
    assert all(record.route != "skip" for record in found[JUDGE].records)
    assert sum(record.n_drafted for record in found[PROBE].records) > 0
    costs = fit_costs(found)
    assert min(costs.vision_ms, costs.prefill_ms, costs.decode_ms) > 0
    assert {f"{PLAIN}/encode", f"{PROBE}/full clock", f"{JUDGE}/route"} <= set(parts_ms(found))
