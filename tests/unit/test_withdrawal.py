"""What a run under a shift says of skips: around the onset, against plain decoding, against the same unshifted."""

import re
from dataclasses import replace

import pytest
import toy_world
from report_fakes import SKIPPED, VERIFIED, ThreeAgent
from toy_world import config, setting

from heisd.bench.evaluate import evaluate
from heisd.bench.report import write_report
from heisd.bench.report_run import load_run, percent_text
from heisd.bench.report_shift import shifts
from heisd.bench.results import RunDirectory
from heisd.bench.speculation import skip_share
from heisd.bench.withdrawal import WithdrawalCounts, withdrawal_block
from heisd.route.base import WITHDRAWALS, Reason
from heisd.sim.changed import ChangedEnv
from heisd.sim.shifts import parse_shifts
from heisd.types import StepRecord

DARK = replace(VERIFIED, reason=Reason.DARK.value)
METHODS = ("ar", "hybrid")


def counts(onset: int, records: list[StepRecord]) -> dict:
    counted = WithdrawalCounts(onset)
    for step, record in enumerate(records):
        counted.add(step, record)
    return counted.as_dict()


def test_steps_and_skips_are_counted_on_either_side_of_the_onset() -> None:
    records = [SKIPPED, SKIPPED, VERIFIED, SKIPPED, VERIFIED, DARK, DARK, SKIPPED]
    assert counts(3, records) == {
        "onset_step": 3, "withdrawn_step": 5, "n_steps_before": 3, "n_skips_before": 2,
        "n_steps_after": 5, "n_skips_after": 2,
    }  # fmt: skip


def test_an_action_of_a_chunk_in_hand_is_a_skip_only_if_its_chunk_was() -> None:
    in_hand = replace(VERIFIED, lm_forwards=0, origins={"relaxed": 7}, verifications=(), route="chunk")
    counted = counts(0, [in_hand, replace(in_hand, origins={"decoded": 7}), replace(in_hand, origins={"skipped": 7})])
    assert counted["n_skips_after"] == 1


@pytest.mark.parametrize("reason", Reason)
def test_only_a_withdrawal_from_the_onset_on_is_one(reason: Reason) -> None:
    record = replace(VERIFIED, reason=reason.value)
    assert counts(2, [record] * 2)["withdrawn_step"] is None
    assert counts(2, [record] * 4)["withdrawn_step"] == (2 if reason in WITHDRAWALS else None)


def test_a_step_of_the_world_is_not_an_answer_of_the_policy() -> None:
    counted = WithdrawalCounts(6)
    for step in (0, 3, 6, 9):  # an answer every third control step
        counted.add(step, DARK)
    assert counted.as_dict()["withdrawn_step"] == 6
    assert (counted.as_dict()["n_steps_before"], counted.as_dict()["n_steps_after"]) == (2, 2)


def test_episodes_that_ended_before_their_onset_have_no_wait() -> None:
    episodes = [
        counts(2, [SKIPPED, SKIPPED, VERIFIED, DARK]),
        counts(1, [SKIPPED, DARK]),
        counts(1, [SKIPPED, VERIFIED, SKIPPED]),
        counts(9, [SKIPPED, VERIFIED]),
    ]
    block = withdrawal_block(episodes)
    assert block is not None
    assert (block["n_episodes"], block["n_begun"], block["n_withdrawn"]) == (4, 3, 2)
    assert (block["steps_until_withdrawn"]["n"], block["steps_until_withdrawn"]["mean"]) == (2, 0.5)
    assert (block["skip_share_before"], block["skip_share_after"]) == (5 / 6, 1 / 5)
    assert withdrawal_block([]) is None
    assert withdrawal_block([counts(0, [DARK])])["skip_share_before"] is None  # type: ignore[index]


class WatchfulAgent(ThreeAgent):
    """Skips every second step, and none that shows it a black wrist; drives worse while it sees nothing."""

    def act(self, obs):
        action, record = super().act(obs)
        is_dark = not obs.images["wrist"].any()
        if self.method == "hybrid" and is_dark:
            return replace(action, values=action.values * 0.4), replace(DARK, step=record.step)
        if self.method == "hybrid" and record.kept_by_source:
            record = replace(record, kept_by_source={"retrieval": 4})
        return action, record


class ChangedWorld(toy_world.ToyWorld):
    def __init__(self, shift: str | None) -> None:
        self.shift = shift

    def env(self, task_index):
        env = super().env(task_index)
        return env if self.shift is None else ChangedEnv(env, parse_shifts(self.shift))

    def agent(self, method):
        return WatchfulAgent(method)


def changed_world(config, *, n_threads):  # noqa: ARG001
    return ChangedWorld(config.shift)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shifts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("heisd.bench.methods.PRESETS", dict.fromkeys(METHODS, ""))
        for name, shift in (("plain", None), ("late", "black:wrist,onset=5"), ("early", "black:wrist,onset=0")):
            chosen = config(methods=METHODS, episodes=8, shift=shift)
            evaluate(chosen, folder / name, setting(changed_world))
    return folder


def test_a_result_echoes_its_shift_and_counts_what_it_did_to_skips(runs) -> None:
    plain, late, early = (load_run(runs / name).result for name in ("plain", "late", "early"))
    assert (plain["shift"], late["shift"]) == (None, "black:camera=wrist,every=1,onset=5")
    assert late["config"]["shift"] == late["shift"]
    assert plain["methods"]["hybrid"]["withdrawal"] is None
    block = late["methods"]["hybrid"]["withdrawal"]
    assert (block["n_begun"], block["n_withdrawn"], block["steps_until_withdrawn"]["p95"]) == (8, 8, 0.0)
    assert block["skip_share_before"] == pytest.approx(3 / 5)  # steps 0, 2 and 4
    assert block["skip_share_after"] == 0
    assert late["methods"]["ar"]["withdrawal"]["n_withdrawn"] == 0  # plain decoding has nothing to withdraw
    assert early["methods"]["hybrid"]["withdrawal"]["skip_share_before"] is None
    records = RunDirectory(runs / "late").records()
    assert {record.withdrawal["onset_step"] for record in records if record.withdrawal} == {5}


def test_both_methods_see_the_same_changed_start_and_are_paired(runs) -> None:
    early = load_run(runs / "early").result["methods"]["hybrid"]
    assert early["paired"]["n_pairs"] == 8
    assert early["paired"]["difference_points"] == -75.0  # six of eight are solved with eyes, none without


def test_the_report_compares_under_the_same_shift_and_with_no_shift(runs) -> None:
    html = write_report([runs / name for name in ("plain", "late", "early")], runs / "report.html").read_text()
    section = html[html.index("<h2>When the scene changes") :].split("</table>")[0]
    rows = [re.sub(r"<.*?>", "|", row).replace("||", "|").split("|") for row in section.split("<tr>")[2:]]
    cells = [[cell for cell in row if cell.strip()] for row in rows]
    assert [row[0] for row in cells] == [
        "toy · shipped · black:camera=wrist,every=1,onset=5", "toy · shipped · black:camera=wrist,every=1,onset=0",
        "all of these",
    ]  # fmt: skip
    late, early, pooled = cells
    assert late[1:5] == ["hybrid", "8", "75.0 %", "75.0 %"]  # five good steps are lead enough
    assert early[1:5] == ["hybrid", "8", "75.0 %", "0.0 %"]
    assert early[6:] == ["0 %", "0 %", "0 %", "0, 0", "8 of 8"]
    share = skip_share(load_run(runs / "late").methods["hybrid"])
    assert share is not None
    assert (late[6], late[7]) == (percent_text(share), percent_text(share / 0.5))  # of its skips kept
    assert pooled[1:5] == ["hybrid", "16", "75.0 %", "37.5 %"]
    assert pooled[5].startswith("-37.5 (")
    assert skip_share(load_run(runs / "plain").methods["hybrid"]) == 0.5


def test_without_a_changed_run_there_is_no_such_section(runs) -> None:
    assert shifts([load_run(runs / "plain")]) == ""
    assert "of its skips kept" in shifts([load_run(runs / "late")])  # a dash where there is nothing to compare with


def test_a_run_under_another_shift_is_another_run(runs, monkeypatch) -> None:
    from heisd.errors import BadInput

    monkeypatch.chdir(runs)
    with pytest.raises(BadInput, match=r"shift: black:camera=wrist,every=1,onset=5 -> None"):
        evaluate(config(methods=METHODS, episodes=8), runs / "late", setting(changed_world))
    with pytest.raises(BadInput, match=r"shift: None -> nudged"):
        evaluate(config(methods=METHODS, episodes=8, shift="nudged"), runs / "plain", setting(changed_world))
