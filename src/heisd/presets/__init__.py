"""Published methods and this project's own, each a page that composes the same parts. :data:`PRESETS` names them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    policy: str = FORMAT  # the kind of policy it runs, by the format of its bundle

    @property
    def reads(self) -> tuple[str, ...]:
        """All that may lie beside the policy and change what it does."""
        return (*self.needs, *self.may_use)


PRESETS: dict[str, Preset] = {
    "ar": Preset("heisd.presets.plain:ar"),
    "exact": Preset("heisd.presets.ours:exact", ("parallel",), ("calibration",), is_exact=True),
    "hybrid": Preset("heisd.presets.ours:hybrid", ("parallel", "store", "calibration")),
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
    "full": Preset("heisd.presets.flow:full", policy=FLOW_FORMAT),
    "full_naive": Preset("heisd.presets.flow:full_naive", policy=FLOW_FORMAT),
    "flash": Preset("heisd.presets.flash:flash", ("draft_head",), policy=FLOW_FORMAT),
    "flash_retrieval": Preset("heisd.presets.flash:flash_retrieval", ("store",), policy=FLOW_FORMAT),
    "flow_hybrid": Preset("heisd.presets.flash:flow_hybrid", ("draft_head",), policy=FLOW_FORMAT),
}


def builder(name: str) -> Callable[..., Any]:
    """The function that builds a preset's engine; imports torch. Raises UnknownName."""
    if name not in PRESETS:
        raise UnknownName("method", name, PRESETS)
    module, function = PRESETS[name].function.split(":")
    build: Callable[..., Any] = getattr(import_module(module), function)
    return build


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
