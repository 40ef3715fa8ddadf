"""A finished run as the report's sections read it, and the pieces of HTML they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from heisd.bench.results import RESULT_NAME, EpisodeRecord, RunDirectory
from heisd.bench.summary import outcomes
from heisd.errors import BadArtifact
from heisd.files import read_json


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run as the report needs it."""

    path: Path
    result: dict[str, Any]
    records: list[EpisodeRecord]

    @property
    def suite(self) -> str:
        """Suite name."""
        return str(self.result["config"]["suite"])

    @property
    def title(self) -> str:
        """Suite, condition and shift; not escaped."""
        fresh = " · fresh" if self.result["config"].get("fresh") else ""
        changed = f" · {self.shift}" if self.shift else ""
        charged = f" · {self.result['latency_profile']['name']}" if self.result["config"].get("realtime") else ""
        return f"{self.suite} · {self.result['condition']}{fresh}{changed}{charged}"

    @property
    def shift(self) -> str | None:
        """What was changed in every episode; None for nothing, and for results of older versions."""
        shift: str | None = self.result["config"].get("shift")
        return shift

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Method name -> its block of the result."""
        methods: dict[str, dict[str, Any]] = self.result["methods"]
        return methods

    @property
    def baseline(self) -> str:
        """The first method."""
        return next(iter(self.methods))

    def asset(self, what: str, method: str) -> str | None:
        """sha256 of the drafter, store or calibration (its settings for this method) that was in use, where known."""
        found = self.result.get("assets", {}).get(what)
        return found.get(method) if isinstance(found, dict) else found


def load_run(path: Path) -> Run:
    """A finished run; BadArtifact when it is not one, or not finished."""
    if not (path / RESULT_NAME).is_file():
        raise BadArtifact(
            f"{path} holds no {RESULT_NAME}: not a run of heisd eval, or not finished (repeat its command)"
        )
    result = read_json(path / RESULT_NAME)
    if missing := {"methods", "config", "status"} - result.keys():
        raise BadArtifact(f"{path / RESULT_NAME} lacks {sorted(missing)}: not a result of this version of heisd")
    return Run(path, result, outcomes(RunDirectory(path).records()))


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]], *, n_text: int = 1) -> str:
    """A card with a table of plain text; every column behind the first ``n_text`` holds numbers.

    Where the first of several text columns repeats the row above, it is left empty.
    """
    kinds = ["" if i < n_text else "num" for i in range(len(head))]
    titles = "".join(f'<th class="{kind}">{escape(title)}</th>' for kind, title in zip(kinds, head, strict=True))
    lines = "".join(
        "<tr>" + "".join(f'<td class="{k}">{escape(cell)}</td>' for k, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in (_without_repetition(rows) if n_text > 1 else rows)
    )
    return f'<div class="wide"><table><tr>{titles}</tr>{lines}</table></div>'


def _without_repetition(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    above = [None, *(row[0] for row in rows)]
    return [["" if row[0] == before else row[0], *row[1:]] for before, row in zip(above, rows, strict=False)]


def figure_text(value: float | None, form: str = ".2f", unit: str = "") -> str:
    """A number as text, or a dash where nothing was measured."""
    return "–" if value is None else format(value, form) + unit  # noqa: RUF001 (a dash, on purpose)


def percent_text(share: float | None) -> str:
    """A share as whole percent; what is not nothing never reads as 0."""
    if share is None:
        return figure_text(None)
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"
