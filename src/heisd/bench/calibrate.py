"""``heisd calibrate``: observe plain decoding, fit ranges and scores to it, climb the ladder of trials.

OUT/observe/shipped, OUT/observe/jitter   two evaluations of plain decoding; OUT/observe/rows holds what was observed
OUT/fit.json                              everything fitted, with settings that never skip
OUT/ladder/…                              evaluations of plain decoding and of every candidate, and their files

Of a chunk policy ``full`` is the plain decoding; how near a draft must be to be executed is fitted beside the score.

Every stage resumes. All starts are fresh ones of the calibration split, half of them jittered; the starts of the
observation come first and those of the trials behind them, so that no score is tried on what it was fitted to.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from heisd.bench.calibration_plan import FIT_NAME, CalibrationPlan
from heisd.bench.evaluate import Setting
from heisd.bench.ladder import CHUNK_LADDER, LADDER, Choice, Rung, climb
from heisd.bench.observe import ObservingWorlds, observable, present_scouts
from heisd.bench.observed import ObservedEpisode, read_episode
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.results import EpisodeRecord, RunDirectory
from heisd.bench.suite_fit import Target, fit_settings, fit_suite
from heisd.bench.summary import outcomes
from heisd.config import EvalConfig
from heisd.errors import BadArtifact, BadInput
from heisd.presets.calibration import Calibration, SkipSetting
from heisd.presets.skippers import CHUNKS

STAGES = ("observe", "fit", "ladder")
AND = " && "  # between the commands that made a file's settings
MIN_REACHED = 0.01  # of the held-out steps must reach the ladder's lowest threshold; else no rung is played

Adapt = Callable[[Setting], Setting]
# Plays or resumes an evaluation and returns the valid record of every episode; raises when one could not be played.
Play = Callable[[EvalConfig, Path, Adapt], Sequence[EpisodeRecord]]


def observe(plan: CalibrationPlan, policy: Path, play: Play) -> int:
    """Play the observation; returns its control steps. Presets without their scouts are left out, with a warning."""
    known = plan.family.scouts
    scouts = present_scouts(policy, plan.suite, known)
    # Also the presets not asked for now: they cost nothing beside the target.
    presets = observable(tuple(plan.family.skippers), scouts, known)
    worlds = _worlds(plan)(plan.rows_dir, tuple(scouts), presets)

    def watched(setting: Setting) -> Setting:
        # The scouts' hashes are part of what must agree when the observation is resumed.
        return replace(setting, world_factory=worlds, provenance={**setting.provenance, "scouts": scouts})

    return sum(record.n_steps for out, config in plan.observation().items() for record in play(config, out, watched))


def _worlds(plan: CalibrationPlan) -> type[ObservingWorlds]:
    from heisd.bench.observe_chunks import ObservingChunkWorlds

    return ObservingChunkWorlds if plan.family is CHUNKS else ObservingWorlds


def read_observation(plan: CalibrationPlan) -> list[ObservedEpisode]:
    """Every observed episode; BadInput when the observation is not complete, BadArtifact when rows are missing."""
    episodes = []
    for out in plan.observation():
        if not (run := RunDirectory(out)).result_path.is_file():
            raise BadInput(f"the observation in {out} is not complete; run --stage observe (or all) first")
        for record in outcomes(run.records()):
            episode = read_episode(plan.rows_dir, record.key, success=record.success)
            if len(episode.steps) != record.n_steps:
                raise BadArtifact(
                    f"{record.key} has {len(episode.steps)} observed steps of {record.n_steps}; its file in "
                    f"{plan.rows_dir} is torn: observe again into another --out"
                )
            episodes.append(episode)
    return episodes


def fit(plan: CalibrationPlan, target: Target, place: Path) -> Calibration:
    """Fit everything to the observation and write ``OUT/fit.json``: settings for every preset, none of which skips.

    ``place`` gets the same without settings, for presets that need kinematics only, unless a calibration of this
    policy with settings lies there already. Where that one has settings of presets that are not part of ``plan``, it
    stays what it is, and scores alone are fitted: by its ranges, for they are what its other settings were tried with.
    """
    episodes = read_observation(plan)
    before = _existing(place, target.sha256)
    if before is not None and before.skips.keys() - set(plan.presets):
        settings = fit_settings(episodes, before.code_ranges())
        observed = {"observed": _provenance(episodes)}
        skips = {
            preset: setting.model_copy(update={"evidence": {**setting.evidence, **observed}})
            for preset, setting in settings.items()
        }
        fitted = before.model_copy(update={"skips": skips, "command": plan.command})
    else:
        fitted = fit_suite(plan.suite, target, episodes).model_copy(
            update={"command": plan.command, "provenance": _provenance(episodes)}
        )
        if plan.family is CHUNKS:
            fitted = _with_acceptance(fitted, target, episodes)
    fitted.save(plan.fit_path)
    if before is None or not before.skips:
        _with_table(fitted, before).model_copy(update={"skips": {}}).save(place)
    return fitted


def _with_acceptance(fitted: Calibration, target: Target, episodes: Sequence[ObservedEpisode]) -> Calibration:
    """``fitted`` with how near drafts of chunks must be, and how often each preset's test errs."""
    from heisd.bench.chunk_fit import fit_acceptance, preset_rates, rounds_of

    rounds, sizes = rounds_of(episodes), target.bin_sizes
    acceptance = fit_acceptance(rounds, sizes)
    evidence = {**fitted.evidence, "verification": preset_rates(rounds, fitted.suite, acceptance.residual, sizes)}
    return fitted.model_copy(update={"acceptance": acceptance, "evidence": evidence})


def run_ladder(plan: CalibrationPlan, target: Target, place: Path, play: Play) -> Calibration:
    """Try the rungs for every preset and write ``place``, once all of them have been tried.

    Settings of presets that are not part of ``plan`` stay if they were made from the same observation.
    """
    if not plan.fit_path.is_file():
        raise BadInput(f"{plan.out} holds no {FIT_NAME}; run --stage fit (or all) first")
    fitted = Calibration.load(plan.fit_path, target.sha256, plan.suite)
    presets = [preset for preset in plan.presets if preset in fitted.skips]
    if not presets:
        raise BadInput(
            f"none of {', '.join(plan.presets)} could be observed in {plan.out}: train what it needs "
            "(heisd train drafter, heisd index build) and observe into another --out"
        )
    before = _existing(place, target.sha256)
    fitted = _with_table(fitted, before)  # tried is what will run, pauses included
    chosen, ladder = {}, CHUNK_LADDER if plan.family is CHUNKS else LADDER
    for preset in presets:
        setting = fitted.skips[preset]
        reached = reached_share(setting, ladder)
        rungs = ladder if reached >= MIN_REACHED else ()
        choice = climb(
            preset, plan.family.skippers[preset].source, partial(_decode_plainly, plan, play),
            partial(_try_rung, plan, fitted, preset, play), ladder=rungs, plain=plan.family.baseline,
            further=plan.family is CHUNKS,
        )  # fmt: skip
        chosen[preset] = _settled(setting, choice, reached)
    is_same = before is not None and before.motion_code == fitted.motion_code  # the scores' F is then the same too
    kept = before.skips if before is not None and is_same else {}
    made_before = [] if before is None or kept.keys() <= chosen.keys() else before.command.split(AND)
    command = AND.join(dict.fromkeys([*made_before, plan.command]))  # what stays was made by an earlier one
    final = fitted.model_copy(update={"skips": {**kept, **chosen}, "command": command})
    final.save(place)
    return final


def reached_share(setting: SkipSetting, ladder: Sequence[Rung]) -> float:
    """Of the held-out steps at which only the score forbids a skip: how many reach the ladder's lowest threshold."""
    lowest = min(rung.threshold for rung in ladder)
    rows = setting.evidence.get("curve")
    if rows is None:
        raise BadArtifact("a fitted setting has no held-out curve: run heisd calibrate --stage fit again")
    n_reached = sum(row["n"] for row in rows if row["high"] > lowest)
    return float(n_reached / max(sum(row["n"] for row in rows), 1))


def _decode_plainly(plan: CalibrationPlan, play: Play, look: int) -> Sequence[EpisodeRecord]:
    """Play plain decoding on the starts of a look; what was played for one preset is read for the next."""
    name = plan.family.baseline
    return _played(plan.trial(name, name, look), play)


def _try_rung(
    plan: CalibrationPlan, fitted: Calibration, preset: str, play: Play, number: int, rung: Rung, look: int
) -> Sequence[EpisodeRecord]:
    """Play a preset with one candidate's file. The file says nothing but the setting: its hash decides a resumption."""
    setting = fitted.skips[preset].model_copy(
        update={"n_skips": rung.n_skips, "threshold": rung.threshold, "calm": rung.calm, "evidence": {}}
    )
    path = plan.out / "ladder" / f"{preset}-{number}.json"
    bare = {"skips": {preset: setting}, "evidence": {}, "provenance": {}, "command": ""}
    fitted.model_copy(update=bare).save(path)
    return _played(plan.trial(preset, f"{preset}-{number}", look, path), play)


def _played(runs: dict[Path, EvalConfig], play: Play) -> list[EpisodeRecord]:
    return [record for out, config in runs.items() for record in play(config, out, lambda setting: setting)]


def _settled(setting: SkipSetting, choice: Choice, reached: float) -> SkipSetting:
    return setting.model_copy(
        update={
            "n_skips": 0 if choice.rung is None else choice.rung.n_skips,
            "threshold": setting.threshold if choice.rung is None else choice.rung.threshold,
            "calm": choice.rung is not None and choice.rung.calm,
            "evidence": {
                **setting.evidence,
                "reached_share": reached,
                "rungs": choice.rungs,
                "chosen": choice.kept,
            },
        }
    )


def _existing(place: Path, policy_hash: str) -> Calibration | None:
    """What lies at ``place``; None for nothing, and for a file that could not be used: it will be replaced."""
    try:
        return Calibration.load(place, policy_hash)
    except BadArtifact:
        return None


def _with_table(fitted: Calibration, before: Calibration | None) -> Calibration:
    """``fitted`` with the table of costs that was there before, and where that comes from."""
    if before is None or before.costs is None:
        return fitted
    origin = {"costs": before.provenance["costs"]} if "costs" in before.provenance else {}
    return fitted.model_copy(update={"costs": before.costs, "provenance": {**fitted.provenance, **origin}})


def _provenance(episodes: Sequence[ObservedEpisode]) -> dict[str, Any]:
    return {
        "observed": {
            "episodes": [episode.key for episode in episodes],
            "n_steps": sum(len(episode.steps) for episode in episodes),
            "n_successes": sum(episode.success for episode in episodes),
        },
        "versions": versions(),
        "machine": machine(),
        "commit": git_commit(checkout_root(Path.cwd())),
    }


def run(
    plan: CalibrationPlan, stages: Sequence[str], *, policy: Path, place: Path, target: Target, play: Play
) -> dict[str, Any]:
    """The stages in turn; the result object of ``heisd calibrate``.

    Args:
        plan: what is calibrated.
        stages: of :data:`STAGES`.
        policy: directory of the policy; its scouts lie beside it.
        place: the calibration file that presets load.
        target: of the policy.
        play: plays evaluations.

    Raises BadInput for a stage whose predecessor has not been run, and what the stages raise.
    """
    result: dict[str, Any] = {"suite": plan.suite, "stages": list(stages), "out": str(plan.out), "file": None}
    if "observe" in stages:
        result["observed_steps"] = observe(plan, policy, play)
    calibration = None
    if "fit" in stages:
        calibration = fit(plan, target, place)
    if "ladder" in stages:
        calibration = run_ladder(plan, target, place, play)
    if calibration is None:
        return result
    return {
        **result,
        "file": str(place),
        "is_complete": "ladder" in stages,
        "adaptive_similarity": calibration.adaptive_similarity,
        "evidence": calibration.evidence,
        "acceptance": None if calibration.acceptance is None else calibration.acceptance.model_dump(mode="json"),
        "presets": {
            name: calibration.skips[name].model_dump(mode="json") for name in plan.presets if name in calibration.skips
        },
        "left_out": [name for name in plan.presets if name not in calibration.skips],
    }
