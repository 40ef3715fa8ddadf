"""The engine's loop and its clock."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

import tiny_policies as tiny
from heisd.engine import Engine
from heisd.telemetry import Clock, JsonlSink, MemorySink
from heisd.types import StepRecord, TokenOrigin


def test_actions_are_the_slow_greedy_tokens_decoded(rng: np.random.Generator) -> None:
    target = tiny.policy()
    engine = Engine(target)
    for _ in range(5):
        seen = tiny.observation(rng, tiny.INSTRUCTIONS[1])
        action = engine.act(seen)
        assert action.tokens.tolist() == tiny.greedy(target, seen)
        np.testing.assert_array_equal(action.values, target.codec.decode(action.tokens))
        assert set(action.origins) == {TokenOrigin.DECODED}


def test_an_engine_remembers_nothing_between_steps(rng: np.random.Generator) -> None:
    engine = Engine(tiny.policy())
    first, second = tiny.observation(rng), tiny.observation(rng, tiny.INSTRUCTIONS[1])
    once = engine.act(first)
    engine.act(second)
    np.testing.assert_array_equal(once.tokens, engine.act(first).tokens)


def test_the_picture_and_the_state_matter(rng: np.random.Generator) -> None:
    engine = Engine(tiny.policy())
    actions = {tuple(engine.act(tiny.observation(rng)).tokens) for _ in range(20)}
    assert len(actions) > 10


def test_records_name_every_stage_and_number_the_steps(rng: np.random.Generator) -> None:
    sink = MemorySink()
    engine = Engine(tiny.policy(), sink=sink)
    for _ in range(3):
        engine.act(tiny.observation(rng))
    engine.reset()
    engine.act(tiny.observation(rng))
    assert [record.step for record in sink.records] == [0, 1, 2, 0]
    last = sink.records[-1]
    assert list(last.stage_ms) == ["route", "encode", "propose", "prefill", "accept", "decode", "act", "record"]
    answered = [ms for stage, ms in last.stage_ms.items() if stage != "record"]
    assert last.latency_ms >= sum(answered) > 0
    assert last.stage_ms["record"] > 0


def test_what_a_sink_does_with_a_record_is_a_stage_behind_the_step_s_latency(rng: np.random.Generator) -> None:
    class Slow(MemorySink):
        def emit(self, record: StepRecord) -> None:
            time.sleep(0.02)
            super().emit(record)

    sink = Slow()
    Engine(tiny.policy(), sink=sink).act(tiny.observation(rng))
    record = sink.records[0]
    assert record.stage_ms["record"] >= 20
    assert record.latency_ms == pytest.approx(sum(record.stage_ms.values()) - record.stage_ms["record"], rel=0.5)


def test_records_count_what_was_decoded(rng: np.random.Generator) -> None:
    sink = MemorySink()
    Engine(tiny.policy(), sink=sink).act(tiny.observation(rng))
    last = sink.records[-1]
    assert last.lm_forwards == len(last.margins) == 7
    assert min(last.margins) >= 0
    assert last.origins == {"decoded": 7}


def test_a_clock_adds_up_stages_and_forgets_between_steps() -> None:
    now = iter(range(0, 10_000_000, 1_000_000))  # one reading a millisecond
    clock = Clock(now_ns=lambda: next(now))
    clock.start()
    for _ in range(2):
        with clock("draft"):
            pass
    assert clock.stage_ms == {"draft": 2.0}
    assert clock.stop() == 5.0
    clock.start()
    assert clock.stage_ms == {}


def test_a_clock_waits_for_the_device_before_every_reading() -> None:
    waits: list[int] = []
    clock = Clock(synchronise=lambda: waits.append(1))
    with clock("encode"):
        pass
    clock.stop()
    assert len(waits) == 4


def test_jsonl_sink_appends_one_line_a_record(tmp_path: Path, rng: np.random.Generator) -> None:
    with JsonlSink(tmp_path / "steps.jsonl") as sink:
        engine = Engine(tiny.policy(), sink=sink)
        engine.act(tiny.observation(rng))
        engine.act(tiny.observation(rng))
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert lines[0]["latency_ms"] >= sum(lines[0]["stage_ms"].values()) > 0
