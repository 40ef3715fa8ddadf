"""Rows of the comparison over made-up runs: what is paired, pooled, shared and counted."""

from pathlib import Path

import pytest
from rows_fakes import group, run

from heisd.bench.stats import paired_difference

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_pairs_are_the_starts_that_both_have_seen_alike():
    mine = group(run({"ar": "++--"}), run({"ar": "", "hybrid": "+-+-"}))
    assert sorted(mine.pairs(mine.row("hybrid"))) == [(False, False), (False, True), (True, False), (True, True)]
    foreign = group(run({"ar": "++--"}), run({"ar": "", "hybrid": "+-+-"}, hashes="other"))
    assert foreign.pairs(foreign.row("hybrid")) == []


def test_an_untimed_run_speaks_first_of_a_start_and_each_counts_once():
    mine = group(run({"ar": "++", "hybrid": "--"}, timing=True), run({"ar": "+++", "hybrid": "+++"}))
    row = mine.row("hybrid")
    assert list(row.successes.values()) == [True] * 3
    assert row.is_timed
    assert row.done["n_episodes"] == 2  # the block of the timed run


def test_the_pool_is_one_table_over_suites_and_conditions_and_leaves_out_what_lies_beyond():
    from rows import pooled

    plain, hybrid = "+" * 90 + "-" * 10, "+" * 88 + "-" * 12
    parts = [group(run({"ar": plain, "hybrid": hybrid}, suite=s, condition=c))
             for s in ("a", "b") for c in ("shipped", "jitter")]  # fmt: skip
    beyond = group(run({"ar": plain, "hybrid": "-" * 100}, suite="a", condition="jitter4"))
    estimate, n_pairs = pooled([*parts, beyond], "hybrid")
    expected = paired_difference([letter == "+" for letter in plain * 4], [letter == "+" for letter in hybrid * 4])
    assert n_pairs == 400
    assert estimate == expected
    assert estimate.value == pytest.approx(-0.02)
    assert estimate.low < -0.02 < estimate.high


def test_shared_successes_are_no_pairs():
    import comparison
    from rows import pooled

    mine = group(run({"ar": "+" * 20 + "-" * 5}), run({"ar": "++", "exact": "++"}, timing=True))
    row = mine.row("exact")
    assert row.is_shared
    assert len(row.successes) == 25
    assert pooled([mine], "exact") == (None, 0)
    assert comparison.pooled_cells([mine], "exact") == (comparison.NONE, comparison.NONE)


def test_what_is_shared_is_shared_under_every_condition():
    import comparison

    parts = [group(run({"ar": "++-+"}), run({"ar": "+", "exact": "+"}, timing=True)),
             group(run({"ar": "+-"}, condition="jitter"))]  # fmt: skip
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in comparison.successes(parts)]
    (exact,) = [line for line in lines if line[0] == "`exact`"]
    assert exact[2:4] == [f"75.0 % of 4{comparison.SHARED}", f"50.0 % of 2{comparison.SHARED}"]
    against = [group(run({"ar": "+", "exact": "-"}, timing=True)), parts[1]]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in comparison.successes(against)]
    assert next(line for line in lines if line[0] == "`exact`")[2:4] == ["0.0 % of 1", comparison.NONE]


def test_one_outcome_against_plain_decoding_ends_the_sharing():
    mine = group(run({"ar": "+" * 20}), run({"ar": "++", "exact": "+-"}, timing=True))
    assert not mine.row("exact").is_shared
    assert len(mine.row("exact").successes) == 2
    lossy = group(run({"ar": "+" * 20}), run({"ar": "++", "hybrid": "++"}, timing=True))
    assert not lossy.row("hybrid").is_shared


def test_the_table_of_successes_has_every_suite_and_then_all():
    from cells import NONE
    from comparison import successes

    parts = [group(run({"ar": "++++", "hybrid": "+++-"}, suite="a")),
             group(run({"ar": "++", "hybrid": "++"}, suite="b", condition="jitter"))]  # fmt: skip
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in successes(parts)]
    assert lines[0][2:4] == ["shipped", "jitter"]
    hybrid = [line for line in lines if line[0] == "`hybrid`"]
    assert [line[1:4] for line in hybrid] == [
        ["a", "75.0 % of 4", NONE], ["b", NONE, "100.0 % of 2"], ["**all 2 suites**", "75.0 % of 4", "100.0 % of 2"],
    ]  # fmt: skip
    assert [line[5] for line in hybrid] == ["4", "2", "6"]
    assert hybrid[2][4].startswith("-16.7 (")


def test_a_row_with_a_proposer_that_failed_is_named():
    from comparison import faults

    broken = {"parallel": {"RuntimeError": 2, "tokens are action ids": 1}}
    mine = group(run({"ar": "++", "hybrid": "++"}, faults=broken))
    assert faults([mine])[2:] == [
        "* toy, `hybrid`: parallel failed 6 times (RuntimeError: 4, tokens are action ids: 2), benched in 2 episodes"
    ]
    assert faults([group(run({"ar": "+", "hybrid": "+"}))]) == ["No proposer failed in any of these runs."]


def test_the_headline_weighs_suites_by_their_time_and_pairs_each_alone():
    import comparison

    timed = run(
        {"ar": "++", "exact": "++", "hybrid": "+-"},
        suite="a",
        timing=True,
        ms={"ar": 12.0, "exact": 6.0, "hybrid": 6.0},
    )
    a = [group(timed, run({"ar": "+++"}, suite="a")),
         group(run({"ar": "++--", "hybrid": "++++"}, suite="a", condition="jitter"))]  # fmt: skip
    timed = run(
        {"ar": "++", "exact": "++", "hybrid": "++"}, suite="b", timing=True, ms={"ar": 8.0, "exact": 8.0, "hybrid": 8.0}
    )
    b = group(timed, run({"ar": "+++"}, suite="b"))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in comparison.headline([*a, b])[2:]]
    speeds = [(line[0], line[1], *(cell.partition("×")[0] for cell in line[2:4]), line[4]) for line in lines]  # noqa: RUF001
    of_each = [  # 40 over 28 ms; in company each start by its mean: 16 + 12 over 10 + 12
        ("a", "**2.00", "1.60", "2"), ("b", "**1.00", "1.00", "2"), ("**all 2 suites**", "**1.43", "1.27", "4"),
    ]  # fmt: skip
    assert speeds == [(f"`{name}`", *each) for name in ("exact", "hybrid") for each in of_each]
    assert [line[6] for line in lines] == [comparison.NONE] * 3 + ["6", "2", "8"]
    assert lines[0][5] == "the same tokens"
    assert lines[5][5].startswith("+12.5 (")
    elsewhere = group(run({"ar": "++", "coast": "++"}, suite="c", timing=True, ms={"ar": 8.0, "coast": 4.0}))
    found = [line.split("|")[6] for line in comparison.headline([*a, b, elsewhere]) if "`coast`" in line]
    assert [cell.strip() == comparison.NONE for cell in found] == [True, True, False, True]  # a, b, c, all of them
    untimed = group(run({"ar": "++", "hybrid": "++"}, suite="c"))
    every = comparison.headline([*a, b, untimed])[-1]
    assert "**all 3 suites**" in every
    assert "×" not in every  # noqa: RUF001 (a suite is missing among the times)
    assert comparison.headline([a[1]]) == []
