"""A flow-matching policy as a directory: the files of any bundle, in a format of its own.

``config.json``, ``model.safetensors``, ``tokenizer.json``, ``norm_stats.json`` and a manifest with every file's hash.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heisd.codec import N_BINS, ActionCodec
from heisd.errors import BadArtifact
from heisd.files import read_json
from heisd.policies import manifest as manifests
from heisd.policies.bundle import FILES, find_policy, load_weights, parse_dtype, read_config, require_room, write_bundle
from heisd.policies.flow.config import FlowConfig
from heisd.policies.flow.network import FlowNetwork
from heisd.policies.flow.policy import MAX_CHUNKS, FlowPolicy
from heisd.policies.norm_stats import codec_from_stats, stats_of_codec
from heisd.policies.tokenizer import WordTokenizer

# Actions are numbers here. Where history and store want tokens, a number is the bin it falls in: a vocabulary of bins.
FLOW_VOCABULARY = N_BINS


def save_flow(
    directory: Path,
    model: FlowNetwork,
    tokenizer: WordTokenizer,
    codec: ActionCodec,
    *,
    unnorm_key: str = "heisd",
    store_dtype: str = "float32",
    command: str = "",
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle. The manifest comes last, so a bundle that lacks one was never finished.

    Raises BadInput, before anything is written or removed, for one that is too large, UnknownName for the dtype.
    """
    dtype = parse_dtype(store_dtype)
    require_room(directory, model, dtype)
    story = {"command": command, "seed": seed, "data": dict(data or {}), "scores": dict(scores or {})}
    stats = stats_of_codec(codec, unnorm_key)
    return write_bundle(directory, model, tokenizer, stats, dtype, story, bundle_format=manifests.FLOW_FORMAT)


def load_flow(
    name_or_dir: str | Path, dtype: str = "float32", *, unnorm_key: str | None = None, max_chunks: int = MAX_CHUNKS
) -> FlowPolicy:
    """A runnable policy from a bundled name or a bundle directory.

    Raises UnknownName for a name that isn't there, BadArtifact for files that are damaged or of another kind of policy.
    """
    directory, torch_dtype = find_policy(name_or_dir), parse_dtype(dtype)
    manifest = manifests.verify(directory, FILES, manifests.FLOW_FORMAT)
    config = read_config(directory, FlowConfig)
    model = load_weights(FlowNetwork(config, is_fresh=False), directory / "model.safetensors")
    tokenizer = WordTokenizer.load(directory / "tokenizer.json")
    if tokenizer.n_text_tokens > config.decoder.vocab_size:
        raise BadArtifact(f"{directory}: its tokenizer has more words than the policy's vocabulary")
    codec = codec_from_stats(read_json(directory / "norm_stats.json"), unnorm_key, FLOW_VOCABULARY)
    return FlowPolicy(
        model, tokenizer, codec, dtype=torch_dtype, max_chunks=max_chunks, policy_hash=manifest.policy_hash
    )
