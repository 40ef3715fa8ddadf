"""The papers' clock: what a step takes on it, and that nobody drafts for free."""

from heisd.bench.papers_clock import papers_block, papers_ms
from heisd.types import StepRecord

STAGES = {"encode": 3.0, "route": 0.5, "propose": 1.0, "trie": 0.25, "prefill": 4.0, "decode": 6.0, "accept": 0.125,
          "act": 0.25, "record": 0.5}  # fmt: skip


def step(origins: dict[str, int], stages: dict[str, float]) -> StepRecord:
    return StepRecord(0, sum(stages.values()), stages, 0, origins)


def test_a_checked_step_is_its_generation_with_the_drafter_and_a_skip_its_search():
    assert papers_ms(step({"accepted": 7}, STAGES)) == 3 + 1 + 0.25 + 4 + 6 + 0.125
    assert papers_ms(step({"skipped": 7}, STAGES)) == 1.0
    assert papers_ms(step({"skipped": 7}, {"encode": 3.0})) == 0.0


def test_the_ratio_is_one_of_sums_over_the_same_observations():
    block = papers_block([10.0, 30.0], [20.0, 60.0], n_steps=8)
    assert block["ms_per_action"] == 5.0
    assert block["speedup_vs_baseline"]["ratio"] == 2.0
    assert papers_block([10.0], [], n_steps=2)["speedup_vs_baseline"] is None  # the baseline has no shadow
    assert papers_block([], [], n_steps=0) is None
