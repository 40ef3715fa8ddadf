"""``heisd latency-profile``: what ``heisd bench`` has measured here -> a profile to charge by in real time.

    token policies   heisd bench --costs --json                    the cost model's table
    chunk policies   heisd bench --method full,flash --json        means of the rounds' stages

Parts that were not measured because the policy lacks them (a store, a drafter) are left out.
"""

from collections.abc import Mapping
from typing import Any

from heisd.bench.chunk_model import ChunkCosts
from heisd.bench.latency_profile import OTHER_TOKEN_STAGES, TOKEN_STAGES, Family, Kind, LatencyProfile, Stage
from heisd.errors import BadArtifact


def measured_profile(result: Mapping[str, Any], name: str) -> LatencyProfile:
    """A profile from a result object of ``heisd bench``; BadArtifact for any other object."""
    try:
        machine, policy = result["machine"], result["policy"]
        if "costs" in result:
            family, stages = Family.TOKENS, _token_stages(result["costs"])
            what = f"heisd bench --costs: {result['steps']} steps of {result['suite']}"
        else:
            family, stages = Family.CHUNKS, _chunk_stages(result["methods"])
            what = f"heisd bench: {result['steps']} steps, {result['sampling']['euler_steps']} Euler steps"
        source = f"{what}, {result['dtype']}, {result['threads']} thread(s), commit {result['commit']}"
        return LatencyProfile(
            format="heisd-latency-profile", version=1, name=name, family=family,
            model=f"{policy['name']} (sha256 {policy['sha256'][:12]})",
            hardware=f"{machine['processor']}, {machine['cores']} core(s)",
            stages={part: Stage(ms=value, kind=Kind.MEASURED, source=source) for part, value in stages.items()},
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError, BadArtifact) as error:
        raise BadArtifact(
            f"not a result of heisd bench with a profile in it ({type(error).__name__}: {_first_line(error)}); make "
            "one: heisd bench --costs --json > costs.json or, of a policy that denoises chunks, heisd bench --method "
            "full,flash --json > rounds.json"
        ) from None


def _token_stages(costs: Mapping[str, float]) -> dict[str, float]:
    """What was not measured stands in the table as 0. A step's record does not say whether its route was judged."""
    ms = {part.removesuffix("_ms"): value for part, value in costs.items() if part != "judge_ms"}
    return {part: value for part, value in ms.items() if value or part in (*TOKEN_STAGES, *OTHER_TOKEN_STAGES)}


def _chunk_stages(methods: Mapping[str, Any]) -> dict[str, float]:
    """Of full rounds; of checks, where ``flash`` was measured; of the look-up, where ``flash_retrieval`` was."""
    costs = ChunkCosts.of_bench(methods["full"], methods.get("flash"))
    stages = {"encode": costs.encode_ms, "prefill": costs.prefill_ms, "denoise": costs.denoise_ms}
    if "flash" in methods:
        if not costs.verify_ms:
            raise BadArtifact("flash verified nothing in these steps; ask for more of them (--steps)")
        stages |= {"draft": costs.draft_ms, "verify": costs.verify_ms}
    if "full_rtc" in methods:
        inpaint = methods["full_rtc"]["stages"].get("inpaint")  # none at a delay of 0
        stages |= {"inpaint": inpaint["mean"]} if inpaint else {}
    if "flash_retrieval" in methods:  # it looks up in every round
        stages["lookup"] = methods["flash_retrieval"]["stages"]["propose"]["mean"]
    return stages


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
