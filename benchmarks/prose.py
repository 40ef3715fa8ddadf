"""The numbers that stand in running text, by the names of their markers: ``<!-- row-ms -->0.07<!-- /row-ms -->``.

``make figures`` writes them into README.md and docs/ from result files, manifests and calibrations. A number that
isn't here is a setting, a definition, somebody else's, or of a time whose files are not kept.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

OBJECT, SPATIAL = SUITES = ("libero_object", "libero_spatial")
N_TOKENS = 7  # an action


class Files:
    """What a checkout holds, read when it is asked for."""

    def __init__(self, root: Path) -> None:
        self.results, self.weights = root / "benchmarks" / "results", root / "src" / "heisd" / "weights"

    def result(self, name: str) -> Any:
        """``benchmarks/results/NAME.json``."""
        return _json(self.results / f"{name}.json")

    def of_suites(self, name: str) -> list[Any]:
        """The same of both suites."""
        return [self.result(f"{name}-{suite}") for suite in SUITES]

    def cost(self, name: str) -> float:
        """One of the cost table, mean of both suites [ms]."""
        return _mean(table["costs"][name] for table in self.of_suites("costs"))

    def manifest(self, name: str) -> Any:
        """Of a bundled policy or drafter."""
        return _json(self.weights / name / "manifest.json")

    def n_samples(self, drafter: str) -> int:
        """That a drafter was trained on."""
        recipe = self.manifest(drafter)["data"]["recipe"]
        return int(recipe["steps"] * recipe["batch_size"])

    def run(self, name: str, method: str = "ar") -> Any:
        """One method of an evaluation."""
        return self.result(f"{name}/eval_info")["methods"][method]

    def n_solved(self, name: str) -> int:
        """Episodes that plain decoding has solved in an evaluation."""
        return sum(task["n_successes"] for task in self.run(name)["per_task"])

    def n_failed(self, name: str) -> dict[int, int]:
        """Task -> episodes that plain decoding has not solved; tasks without any are left out."""
        tasks = self.run(name)["per_task"]
        failed = {task["task_id"]: task["n_episodes"] - task["n_successes"] for task in tasks}
        return {task: n for task, n in failed.items() if n}

    def blind_behind(self, suite: str, condition: str) -> str:
        """Points by which the blind baseline solves less of the test split."""
        name = f"test-{suite}-{condition}"
        return f"{self.run(name)['pc_success'] - self.run(f'{name}-blind')['pc_success']:.0f}"

    def turns(self, method: str) -> str:
        """Speed-ups where methods take turns at every step: the least and the most."""
        rounds = [turn for run in self.of_suites("interleaving") for turn in run["rounds"] if turn["turn_steps"] == 1]
        return _span((turn["methods"][method]["speedup"] for turn in rounds), ".2f")

    def speedup_error(self, *methods: str) -> str:
        """Percent by which the cost model's speed-ups are off in the closed loop, without sign: least and most."""
        rows = [run["results"][0]["methods"][name] for run in self.of_suites("predict-compare") for name in methods]
        return _span((100 * abs(row["predicted_speedup"] / row["measured_speedup"] - 1) for row in rows), ".0f")

    def good(self, suite: str, source: str) -> str:
        """Percent of a source's best guesses that are as good as the target's answer."""
        return f"{100 * self.result(f'guesses-{suite}')['sources'][source]['first']:.0f}"

    def own_accepted(self, suite: str, source: str) -> str:
        """The policy's own tokens that repeating, or the nearest other episode, would have got right in a row."""
        return f"{self.result(f'own_tokens-{suite}')['regularity'][f'{source}_acceptance']:.2f}"

    def most_paused(self) -> float:
        """Largest share of ``hybrid``'s steps in a test-split run at which speculation did not pay."""
        runs = [_json(path)["methods"] for path in self.results.glob("success-*/eval_info.json")]
        routes = [methods["hybrid"]["speculation"]["routes"] for methods in runs if "hybrid" in methods]
        return max(route.get("full/does not pay", {"share": 0.0})["share"] for route in routes)

    def demo_s(self) -> str:
        """Seconds that the demo says it took."""
        said = (self.results / "demo" / "output.txt").read_text(encoding="utf-8")
        found = re.search(r"report\.html\s+\((\d+) s\)", said)
        if found is None:
            raise SystemExit("benchmarks/results/demo/output.txt does not say how long the demo took")
        return found[1]


def _by_suite(name: str, value: Callable[[Files, str], str]) -> dict[str, Callable[[Files], str]]:
    """``NAME-SUITE`` for every suite."""
    return {f"{name}-{suite}": partial(value, suite=suite) for suite in SUITES}


VALUES: dict[str, Callable[[Files], str]] = {
    "eagle-decode-steps": lambda f: f"{f.cost('eagle_ms') / f.cost('decode_ms'):.1f}",
    "fifty-rows-decode-steps": lambda f: f"{50 * f.cost('row_ms') / f.cost('decode_ms'):.0f}",
    "tree-ms": lambda f: _span((table["costs"]["tree_ms"] for table in f.of_suites("costs")), ".1f"),
    "row-ms": lambda f: f"{f.cost('row_ms'):.2f}",
    "drafter-ms": lambda f: f"{f.cost('drafter_ms'):.1f}",
    "lookup-ms": lambda f: f"{f.cost('lookup_ms'):.1f}",
    "compiled-ms": lambda f: f"{f.result('compile_trial')['compiled_cpu_ms']:.1f}",
    "eager-ms": lambda f: f"{f.result('compile_trial')['eager_cpu_ms']:.1f}",
    "ceiling": lambda f: f"{1 + _mean(run['decode_over_vision_plus_prefill'] for run in _plain(f)):.0f}",
    **_by_suite("plain-ms", lambda f, suite: f"{f.run(f'compare-{suite}')['ms_per_action']['mean']:.1f}"),
    "own-differing": lambda f: str(sum(run["differing_tokens_vs_generate"] for run in f.of_suites("own_tokens"))),
    "own-tokens": lambda f: f"{N_TOKENS * sum(run['n_steps'] for run in f.of_suites('own_tokens')):,}",
    "own-episodes": lambda f: _listed({run["episodes"] for run in f.of_suites("own_tokens")}),
    "own-steps": lambda f: f"{sum(run['n_steps'] for run in f.of_suites('own_tokens')):,}",
    "plain-differing": lambda f: str(max(run["differing_tokens"] for run in _plain(f))),
    "plain-tokens": lambda f: f"{max(N_TOKENS * run['n_steps'] for run in _plain(f)):,}",
    "check-ms": lambda f: _span((table["costs"]["check_ms"] for table in f.of_suites("costs")), ".2f"),
    **{
        f"{name}-before": lambda f, name=name: (
            f"{f.run(f'compare-{SPATIAL}', name)['speedup_vs_baseline']['ratio']:.2f}"
        )
        for name in ("exact", "hybrid")
    },
    **_by_suite("eagle-kept", lambda f, suite: _kept(f.run(f"compare-{suite}", "spec_vla_strict"))),
    **_by_suite("plain-bfloat16", lambda f, suite: _mean_ms(f.result(f"recorded-{suite}-bfloat16"))),
    **_by_suite("plain-float32", lambda f, suite: _mean_ms(f.result(f"recorded-{suite}"))),
    **{f"bad-{unit}": lambda f, unit=unit: _bad(f, unit) for unit in ("mm", "deg")},
    "most-flips": lambda f: (
        f"{100 * max(row['token_rate'] for run in f.of_suites('flips') for row in run['flips'].values()):.1f}"
    ),
    "kerv-error": lambda f: f.speedup_error("kerv_paper", "kerv_code"),
    "rt-cache-error": lambda f: f.speedup_error("rt_cache"),
    "plain-error": lambda f: (
        f"{-100 * f.result(f'predict-compare-{OBJECT}')['results'][0]['methods']['ar']['error']:.0f}"
    ),
    "turns-exact": lambda f: f.turns("exact"),
    "turns-hybrid": lambda f: f.turns("hybrid"),
    **{
        f"blind-behind-{suite}-{condition}": lambda f, s=suite, c=condition: f.blind_behind(s, c)
        for suite in SUITES
        for condition in ("jitter", "jitter4")
    },
    "left-to-sight": lambda f: f"{100 - f.run(f'test-{OBJECT}-jitter-blind')['pc_success']:.0f}",
    "event-cm": lambda f: f"{f.manifest('libero')['scores']['held_out_demonstrations']['event_cm']:.2f}",
    "event-cm-blind": lambda f: f"{f.manifest('libero-blind')['scores']['held_out_demonstrations']['event_cm']:.2f}",
    "failed": lambda f: str(sum(f.n_failed(f"test-{SPATIAL}-jitter").values())),
    "failed-most": lambda f: str(max(f.n_failed(f"test-{SPATIAL}-jitter").values())),
    "failed-most-task": lambda f: str(_most(f.n_failed(f"test-{SPATIAL}-jitter"))),
    "failed-tasks": lambda f: _listed(set(failed := f.n_failed(f"test-{SPATIAL}-jitter")) - {_most(failed)}),
    "stock-solved": lambda f: str(f.n_solved(f"test-{OBJECT}-shipped-stock")),
    "stock-played": lambda f: str(f.run(f"test-{OBJECT}-shipped-stock")["n_episodes"]),
    "adaptive-similarity": lambda f: _listed(
        {_json(f.weights / "libero-calibration" / f"{suite}.json")["adaptive_similarity"] for suite in SUITES}
    ),
    "eagle-samples": lambda f: f"{f.n_samples('libero-eagle') / 1e3:.0f} thousand",
    "parallel-samples": lambda f: f"{f.n_samples('libero-drafter') / 1e6:.1f} million",
    **{
        f"{drafter}-{name}": lambda f, d=drafter, k=key: f"{f.manifest(f'libero-{d}')['data']['recipe'][k]:,}"
        for drafter in ("eagle", "drafter")
        for name, key in (("steps", "steps"), ("batch", "batch_size"))
    },
    "eagle-first": lambda f: f"{f.manifest('libero-eagle')['scores']['replay']['accepted_first']:.2f}",
    "eagle-mean": lambda f: f"{f.manifest('libero-eagle')['scores']['replay']['accepted_per_verification']:.2f}",
    "drafter-top1": lambda f: f"{100 * f.manifest('libero-drafter')['scores']['held_out']['top1']:.0f}",
    "drafter-chain": lambda f: f"{f.manifest('libero-drafter')['scores']['held_out']['chain']:.2f}",
    "drafter-first": lambda f: f"{f.manifest('libero-drafter')['scores']['replay']['accepted_first']:.2f}",
    "drafter-forwards": lambda f: f"{f.manifest('libero-drafter')['scores']['replay']['forwards_per_action']:.2f}",
    "drafter-rows": lambda f: f"{f.manifest('libero-drafter')['scores']['replay']['rows_per_action']:.0f}",
    "drafter-replayed": lambda f: f"{f.manifest('libero-drafter')['scores']['replay']['n_steps']:,}",
    **{
        f"drafter-trie-{n}": lambda f, n=n: (
            f"{f.manifest('libero-drafter')['scores']['accepted_first_by_trie_nodes'][n]:.1f}"
        )
        for n in ("8", "16", "24", "48")
    },
    "demo-commit": lambda f: f"`{f.result(f'demo/{OBJECT}')['commit'][:7]}`",
    "demo-s": Files.demo_s,
    **_by_suite("guess-retrieval", lambda f, suite: f.good(suite, "retrieval")),
    **_by_suite("guess-parallel", lambda f, suite: f.good(suite, "parallel")),
    **_by_suite("guess-steps", lambda f, suite: f"{f.result(f'guesses-{suite}')['n_steps']:,}"),
    **_by_suite("look-steps", lambda f, suite: f"{f.result(f'guesses-{suite}')['without_a_look']['n_steps']:,}"),
    "index-p50": lambda f: f"{f.result('index')['index']['largest_task']['p50_ms']:.2f}",
    "index-p99": lambda f: f"{f.result('index')['index']['largest_task']['p99_ms']:.2f}",
    "index-all-p99": lambda f: f"{f.result('index')['index']['all_tasks_in_one']['p99_ms']:.1f}",
    "index-unreduced-p99": lambda f: f"{f.result('index')['index']['heisd_key_unreduced']['p99_ms']:.1f}",
    "watch-ms": lambda f: f"{_mean(run['ms_per_step'] for run in f.of_suites('watch')):.1f}",
    **_by_suite("asked", lambda f, suite: f"{100 * _predicted(f, suite)['hybrid']['usage']['lookup_share']:.0f}"),
    "most-paused": lambda f: f"{100 * f.most_paused():.0f}",
    **_by_suite("repeated", lambda f, suite: f.own_accepted(suite, "persistence")),
    **_by_suite("neighbour", lambda f, suite: f.own_accepted(suite, "neighbour")),
    **_by_suite("own-steps", lambda f, suite: f"{f.result(f'own_tokens-{suite}')['n_steps']:,}"),
    "stages-jitter": lambda f: _listed(
        [f.n_solved(f"validation-{SPATIAL}-jitter-stage{stage}") for stage in range(1, 6)]
    ),
    **{
        f"stage{stage}-task6": lambda f, stage=stage: str(
            f.n_failed(f"validation-{SPATIAL}-shipped-stage{stage}").get(6, 0)
        )
        for stage in (3, 4)
    },
}


def _kept(block: Any) -> str:
    return f"{block['speculation']['acceptance_length']['mean']:.2f}"


def _mean_ms(run: Any) -> str:
    return f"{run['methods']['ar']['ms_per_action']['mean']:.1f}"


def _bad(files: Files, unit: str) -> str:
    """15 bins of the policy, axis by axis: what a bad skip is off by at least, in one of them."""
    good = _json(files.weights / "libero-calibration" / f"{OBJECT}.json")["evidence"]["good"]
    return ", ".join(f"{value:.1f}" for value in good[unit])


def filled(text: str, name: str, value: str) -> str:
    """``text`` with ``value`` between every pair of markers of ``name`` that stand in one line."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return re.sub(f"{re.escape(begin)}[^\n]*?{re.escape(end)}", lambda _: f"{begin}{value}{end}", text)


def names_in(text: str) -> set[str]:
    """Names of the markers that are closed in the line that opens them."""
    return set(re.findall(r"<!-- (\S+) -->[^\n]*?<!-- /\1 -->", text))


def _plain(files: Files) -> list[Any]:
    return [_json(path) for path in sorted(files.results.glob("plain_decoding_threads*.json"))]


def _predicted(files: Files, suite: str) -> Any:
    return files.result(f"predict-{suite}")["results"][0]["methods"]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _span(values: Iterable[float], form: str) -> str:
    numbers = list(values)
    return f"{min(numbers):{form}} to {max(numbers):{form}}"


def _most(counts: dict[int, int]) -> int:
    return max(counts, key=lambda task: counts[task])


def _listed(values: Iterable[float]) -> str:
    """``1, 2 and 3``: a set in order, a list as it is."""
    *before, last = (f"{value:g}" for value in (sorted(values) if isinstance(values, set) else values))
    return f"{', '.join(before)} and {last}" if before else last


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
