"""Plain decoding against ``transformers.generate`` on the same weights, interleaved in one process.

    python benchmarks/plain_decoding.py [--policy NAME_OR_DIR] [--observations FILE.npz] [--steps 200] [--threads 1]
        [--dtype float32]

Both sides share the encoder and the codec; what differs is the decoder. Full clock: observation in, action out.
Prints ratios of sums with a bootstrap interval over steps, a stage profile of this engine, and whether every token
agreed. Without ``--policy`` the weights are random in the bundled policy's shape (time does not depend on values).
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heisd.bench.observations import load_observations
from heisd.bench.provenance import checkout_root, git_commit, machine, versions
from heisd.bench.stats import ratio_of_sums
from heisd.codec import ActionCodec
from heisd.engine import Engine
from heisd.policies.bundle import load_policy, parse_dtype
from heisd.policies.config import DecoderConfig, OpenVLAConfig, ProprioConfig
from heisd.policies.openvla import OpenVLA
from heisd.policies.reference import as_transformers, generate
from heisd.policies.target import OpenVLAPolicy
from heisd.policies.tokenizer import WordTokenizer
from heisd.telemetry import MemorySink
from heisd.types import Observation, Proprioception

INSTRUCTION = "pick up the alphabet soup and place it in the basket"
WARM_UP = 20


def random_policy(dtype: str, n_layers: int, hidden_size: int, n_heads: int) -> OpenVLAPolicy:
    """Random weights in the bundled shape."""
    tokenizer = WordTokenizer.build([INSTRUCTION])
    vocab_size = tokenizer.n_text_tokens + 256
    decoder = DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=8 * round(hidden_size / 3),
        n_layers=n_layers,
        n_heads=n_heads,
    )
    model = OpenVLA(OpenVLAConfig(decoder=decoder, proprio=ProprioConfig(), action_vocab_size=vocab_size))
    model.seal_head()
    codec = ActionCodec.from_stats(vocab_size, [-1.0] * 6 + [0.0], [1.0] * 7)
    return OpenVLAPolicy(model, tokenizer, codec, dtype=parse_dtype(dtype))


def random_observation(rng: np.random.Generator, policy: OpenVLAPolicy) -> Observation:
    """Noise in the shape of an observation."""
    size = policy.config.vision.image_size if policy.config.vision else 1
    images = {camera: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for camera in policy.config.cameras}
    quat = np.array([1.0, 0.0, 0.0, 0.0])
    state = Proprioception(rng.normal(size=3), quat, np.zeros(2), np.zeros(2), rng.normal(size=7), np.zeros(7))
    return Observation(images, state, INSTRUCTION, 0.0)


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and process-CPU milliseconds of a call, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu), value


def measure(policy: OpenVLAPolicy, llama: Any, n_steps: int, recorded: Sequence[Observation] = ()) -> dict[str, Any]:
    """Interleave the two decoders on the same observations, in random order within each step."""
    rng, sink = np.random.default_rng(0), MemorySink()
    engine = Engine(policy, sink=sink)

    def reference(seen: Observation) -> list[int]:
        tokens = generate(llama, policy.encode(seen).prefix, policy.codec.length)
        policy.codec.decode(np.asarray(tokens))
        return tokens

    rows, n_different = [], 0
    for step in range(WARM_UP + n_steps):
        seen = recorded[step * len(recorded) // (WARM_UP + n_steps)] if recorded else random_observation(rng, policy)
        calls = {"ours": lambda seen=seen: engine.act(seen).tokens.tolist(), "hf": lambda seen=seen: reference(seen)}
        order = list(calls) if rng.random() < 0.5 else list(calls)[::-1]
        took = {name: timed(calls[name]) for name in order}
        if step >= WARM_UP:
            rows.append([took["ours"][0], took["hf"][0], took["ours"][1], took["hf"][1]])
            n_different += sum(a != b for a, b in zip(took["ours"][2], took["hf"][2], strict=True))
    return summary(np.array(rows), n_different, sink)


def summary(rows: np.ndarray, n_different: int, sink: MemorySink) -> dict[str, Any]:
    """Ratios of sums, stage times of the last ``len(rows)`` records."""
    result: dict[str, Any] = {"n_steps": len(rows), "differing_tokens": n_different}
    for clock, ours, theirs in (("wall", rows[:, 0], rows[:, 1]), ("cpu", rows[:, 2], rows[:, 3])):
        ratio = ratio_of_sums(theirs, ours)
        assert ratio is not None
        result[clock] = {
            "ours_ms": float(ours.mean()),
            "transformers_ms": float(theirs.mean()),
            "speedup": ratio.value,
            "ci95": ratio.ci95,
        }
    records = sink.records[-len(rows) :]
    stages = {name: [record.stage_ms[name] for record in records] for name in records[0].stage_ms}
    result["stages_p50_ms"] = {name: float(np.median(values)) for name, values in stages.items()}
    result["stages_min_ms"] = {name: float(np.min(values)) for name, values in stages.items()}
    best = result["stages_p50_ms"]
    result["decode_over_vision_plus_prefill"] = best["decode"] / (best["encode"] + best["prefill"])
    return result


def main() -> None:
    """Parse, measure, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy")
    parser.add_argument("--observations", type=Path, help="recorded ones, spread evenly over the steps; else noise")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.policy:
        policy = load_policy(args.policy, args.dtype)
    else:
        policy = random_policy(args.dtype, args.layers, args.hidden, args.heads)
    llama = as_transformers(policy.model.language_model)
    recorded = load_observations(args.observations) if args.observations else []
    result = measure(policy, llama, args.steps, recorded)
    given = {key: value.name if isinstance(value, Path) else value for key, value in vars(args).items()}
    commit = git_commit(checkout_root(Path.cwd()))
    made = {"policy_sha256": policy.policy_hash, "versions": versions(), "machine": machine(), "commit": commit}
    print(json.dumps(given | result | made, indent=2))


if __name__ == "__main__":
    main()
