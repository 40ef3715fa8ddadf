"""Published methods and this project's own, each a page that composes the same parts. :data:`PRESETS` names them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any

from heisd.errors import BadInput, UnknownName
from heisd.policies.manifest import FLOW_FORMAT, FORMAT, KINDS

EXACT_DTYPE = "float32"  # in bfloat16, forwards of different row counts disagree on about 2 % of tokens


@dataclass(frozen=True, slots=True)
class Preset:
    """Where a preset is built, and what it needs beside the policy (keys of :data:`heisd.presets.assets.PLACES`)."""

    function: str  # "module:function", called as function(assets, sink) -> Engine; imported only when it is used
    needs: tuple[str, ...] = ()
    may_use: tuple[str, ...] = ()  # of the same, where it is there
    is_exact: bool = False  # speculates, and promises plain decoding's tokens
    is_plain: bool = False  # guesses nothing and checks nothing
    policy: str = FORMAT  # the kind of policy it runs, by the format of its bundle
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the function
    ablates: str = ""  # of an ablation: the preset that it is but for one part
    changes: str = ""  # … and that part, in words
    delays: str = ""  # of real-time chunking: the preset that it is but for rounds begun while actions are in hand

    @property
    def is_delayed(self) -> bool:
        """Whether its rounds are computed while the robot goes on with the chunk in hand."""
        return bool(self.delays)

    @property
    def reads(self) -> tuple[str, ...]:
        """All that may lie beside the policy and change what it does."""
        return (*self.needs, *self.may_use)


PRESETS: dict[str, Preset] = {
    "ar": Preset("heisd.presets.plain:ar", is_plain=True),
    "exact": Preset("heisd.presets.ours:exact", ("parallel",), ("calibration",), is_exact=True),
    "hybrid": Preset("heisd.presets.ours:hybrid", ("parallel", "store", "calibration")),
    "coast": Preset("heisd.presets.ours:coast", ("parallel", "calibration")),
    "hybrid_no_store": Preset("heisd.presets.ours:no_store", ("parallel", "calibration")),
    "spec_vla_strict": Preset("heisd.presets.spec_vla:strict", ("eagle",), is_exact=True),
    "spec_vla_relaxed": Preset("heisd.presets.spec_vla:relaxed_to_nine", ("eagle",)),
    "kerv_paper": Preset("heisd.presets.kerv:paper", ("eagle", "calibration")),
    "kerv_code": Preset("heisd.presets.kerv:code", ("eagle",)),
    "retrieval_sd": Preset("heisd.presets.memory:retrieval_sd", ("store",), is_exact=True),
    "rt_cache": Preset("heisd.presets.memory:rt_cache", ("store",)),
    "heisd_paper": Preset("heisd.presets.heisd:paper", ("store", "eagle", "calibration")),
    "heisd_code": Preset("heisd.presets.heisd:code", ("store", "eagle", "calibration")),
    "hold_2to1": Preset("heisd.presets.heisd:hold", ("eagle", "calibration")),
    "hold_calibrated": Preset("heisd.presets.ours:hold", ("parallel", "calibration")),
    "full": Preset("heisd.presets.flow:full", is_plain=True, policy=FLOW_FORMAT),
    "full_naive": Preset("heisd.presets.flow:full_naive", is_plain=True, policy=FLOW_FORMAT),
    "full_calm": Preset("heisd.presets.flow:full_calm", is_plain=True, policy=FLOW_FORMAT),
    "full_longer": Preset("heisd.presets.flow:full_longer", is_plain=True, policy=FLOW_FORMAT),
    "flash": Preset("heisd.presets.flash:flash", ("draft_head",), policy=FLOW_FORMAT),
    "flash_retrieval": Preset("heisd.presets.flash:flash_retrieval", ("store",), policy=FLOW_FORMAT),
    "tail_2to1": Preset("heisd.presets.flash:tail_2to1", policy=FLOW_FORMAT),
    "flow_hybrid": Preset("heisd.presets.flash:flow_hybrid", ("draft_head",), ("calibration",), policy=FLOW_FORMAT),
}
PRESETS |= {
    f"{name}_rtc": replace(PRESETS[name], options={"is_delayed": True}, delays=name)
    for name in ("full", "flash", "flow_hybrid")
}


def _ablation(parent: str, function: str, changes: str, **options: Any) -> Preset:
    of = PRESETS[parent]
    module = "ablations" if of.policy == FORMAT else "ablations_chunks"
    return replace(of, function=f"heisd.presets.{module}:{function}", options=options, ablates=parent, changes=changes)


def _drafted(who: str, *sources: str) -> Preset:
    """``flow_hybrid`` without skips, by other proposers; it needs what those need."""
    preset = _ablation("flow_hybrid", "unskipping", f"no skips, and drafts of {who}", sources=sources)
    kept = {"draft_head": "draft_head", "retrieval": "store"}
    return replace(preset, needs=tuple(kept[source] for source in sources if source in kept))


NEVER_LOOKS = 1_000  # rounds; no episode has so many
STORE_PERCENT = (10, 25, 50)  # beside the whole store
# Each is its parent but for one part (docs/ablations.md). They are methods like any other, and listed apart.
ABLATIONS: dict[str, Preset] = (
    {
        "heisd_code_boundary": _ablation(
            "heisd_code", "boundary", "no skips and no block checks: plain on fast motion"
        ),
        "heisd_code_skip": _ablation("heisd_code", "skip", "no block checks: the third fast step is decoded plainly"),
        "heisd_code_adaptive": _ablation("heisd_code", "adaptive", "the paper's threshold in place of the 2:1 pattern"),
        "heisd_code_speed": _ablation("heisd_code", "speed", "the boundary is the hand's speed in place of F"),
        "heisd_code_10_5": _ablation("heisd_code", "bounds", "blocks of 10/5 bins", max_sum_bins=9, max_token_bins=4),
        "heisd_code_30_15": _ablation(
            "heisd_code", "bounds", "blocks of 30/15 bins", max_sum_bins=30, max_token_bins=15
        ),
        "heisd_code_any_gripper": _ablation("heisd_code", "any_gripper", "a checked guess keeps any gripper token"),
        "spec_vla_relaxed_gripper": _ablation("spec_vla_relaxed", "gripper_to_nine", "r = 9 for the gripper, too"),
        "kerv_paper_persistence": _ablation("kerv_paper", "persistence", "the last action completes, not the filter"),
        "hybrid_2to1": _ablation("hybrid", "two_to_one", "two skips, one check wherever the guards allow; no score"),
        "exact_two_pass": _ablation("exact", "exact_two_pass", "guesses behind the prefill, never inside it"),
        "retrieval_sd_two_pass": _ablation(
            "retrieval_sd", "memory_two_pass", "guesses behind the prefill, never inside"
        ),
    }
    | {
        f"{parent}_store_{percent}": _ablation(
            parent, "store_share", f"{percent} % of the store's episodes", of=parent, percent=percent
        )
        for parent in ("heisd_code", "hybrid", "rt_cache")
        for percent in STORE_PERCENT
    }
    | {
        f"{parent}_8_nodes": _ablation(parent, "narrow", "trees of 8 nodes", of=parent, nodes=8)
        for parent in ("spec_vla_strict", "spec_vla_relaxed")
    }
    | {
        "flash_at_05": _ablation("flash", "at_levels", "K = 1: t = 0.05", levels=(0.05,)),
        "flash_at_10": _ablation("flash", "at_levels", "K = 1: t = 0.10", levels=(0.10,)),
        "flash_4_levels": _ablation("flash", "at_levels", "K = 4: t = 0.4 to 0.05", levels=(0.4, 0.2, 0.10, 0.05)),
        "flash_delta_05": _ablation("flash", "within", "δ = 0.05", tolerance=0.05),
        "flash_delta_10": _ablation("flash", "within", "δ = 0.10", tolerance=0.10),
        "flash_delta_30": _ablation("flash", "within", "δ = 0.30", tolerance=0.30),
        "flash_velocity": _ablation("flash", "in_velocity", "δ in proportion to t: one bound on the velocity"),
        "flash_2_noises": _ablation("flash", "noises", "t = 0.10 twice, each with a noise of its own"),
        "flash_guarded": _ablation("flash", "guarded", "verify-stop and post-cut on", verify_stop=True, post_cut=True),
        "flash_no_verify_stop": _ablation("flash", "guarded", "verify-stop off", verify_stop=False),
        "flash_no_post_cut": _ablation("flash", "guarded", "post-cut off", post_cut=False),
        "flash_period_4": _ablation("flash", "periodic", "every fifth round is full at the latest", period=4),
        "flash_no_period": _ablation("flash", "periodic", "no round is full for the count alone", period=0),
        "flow_hybrid_through": _ablation("flow_hybrid", "through_gripper", "a skip that looks may move the gripper"),
        "flow_hybrid_even": _ablation("flow_hybrid", "evenly", "no chunk is executed further than any other"),
        "flow_hybrid_looking": _ablation("flow_hybrid", "seeing", "every skip looks", n_unseen=0),
        "flow_hybrid_blind": _ablation("flow_hybrid", "seeing", "no skip looks", n_unseen=NEVER_LOOKS),
        "flow_hybrid_no_similarity": _ablation(
            "flow_hybrid", "without", "no look at how far the prefix's picture is", fallback="min_similarity"
        ),
        "flow_hybrid_no_margin": _ablation(
            "flow_hybrid", "without", "drafts right behind gripper commands", fallback="gripper_margin_steps"
        ),
        "flow_hybrid_no_watch": _ablation("flow_hybrid", "unwatched", "no watch over the cameras"),
        "flow_hybrid_no_skip": _ablation("flow_hybrid", "unskipping", "no skips"),
        "flow_hybrid_2to1": _ablation(
            "flow_hybrid", "two_to_one", "two skips, one full round wherever the guards allow; no score"
        ),
        "flow_hybrid_with_tail": _drafted("the draft head and the last chunk's rest", "draft_head", "tail"),
        "flow_hybrid_tail": _drafted("the last chunk's rest alone", "tail"),
        "flow_hybrid_persistence": _drafted("the last action alone", "persistence"),
        "flow_hybrid_retrieval": _drafted("memory alone", "retrieval"),
        "flow_hybrid_all_drafts": _drafted("all of these", "draft_head", "tail", "persistence", "retrieval"),
    }
)
PRESETS.update(ABLATIONS)


def unknown_method(name: str) -> UnknownName:
    """The error for a name that is no preset; it lists the main ones."""
    main = [preset for preset in PRESETS if preset not in ABLATIONS]
    return UnknownName("method", name, main, more="; and ablations of these: heisd eval --method help")


def builder(name: str) -> Callable[..., Any]:
    """The function that builds a preset's engine; imports torch. Raises UnknownName."""
    if name not in PRESETS:
        raise unknown_method(name)
    module, function = PRESETS[name].function.split(":")
    build: Callable[..., Any] = getattr(import_module(module), function)
    return partial(build, **PRESETS[name].options)


def require_one_kind(methods: Iterable[str]) -> str:
    """The format of the policies that all of ``methods`` run; BadInput when they do not run the same."""
    by_kind: dict[str, list[str]] = {}
    for name in methods:
        by_kind.setdefault(PRESETS[name].policy, []).append(name)
    if len(by_kind) > 1:
        groups = "; ".join(f"{', '.join(names)} for {KINDS[kind]}" for kind, names in by_kind.items())
        raise BadInput(f"one evaluation compares methods on one policy, and these run two kinds of it: {groups}")
    return next(iter(by_kind), FORMAT)


def require_kind(methods: Iterable[str], policy: str, found: str) -> None:
    """BadInput when a method does not run policies of the format ``found``, which is that of ``policy``."""
    for name in methods:
        if PRESETS[name].policy != found:
            fitting = ", ".join(other for other, preset in PRESETS.items() if preset.policy == found)
            raise BadInput(
                f"method {name!r} runs {KINDS[PRESETS[name].policy]}; {policy} is {KINDS[found]}, which runs: {fitting}"
            )


def require_exact_dtype(methods: Iterable[str], dtype: str) -> None:
    """BadInput for a method that promises plain decoding's tokens in a precision that cannot keep the promise."""
    promised = [name for name in methods if name in PRESETS and PRESETS[name].is_exact]
    if promised and dtype != EXACT_DTYPE:
        raise BadInput(
            f"{', '.join(promised)}: plain decoding's tokens are promised in {EXACT_DTYPE} only; in {dtype}, forwards "
            f"of different row counts flip tokens (heisd bench --check-exact --dtype {dtype} --report-flips counts "
            f"them); use --dtype {EXACT_DTYPE}, or a method that promises nothing"
        )
