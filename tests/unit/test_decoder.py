"""The decoder in its three forms (trained, packed, transformers) and the trees it scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_policies as tiny
from heisd.errors import BadInput
from heisd.policies.config import DecoderConfig
from heisd.policies.decoder import LlamaDecoder
from heisd.policies.initialise import smooth_rows
from heisd.policies.reference import as_transformers
from heisd.policies.runtime import DecoderRuntime
from heisd.types import TokenTree

POLICY = tiny.policy()
V = POLICY.codec.vocab_size


@pytest.mark.parametrize("n_heads", [2, 8])
def test_logits_equal_those_of_transformers(n_heads: int) -> None:
    torch.manual_seed(1)
    config = DecoderConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=170,
        n_layers=3,
        n_heads=n_heads,
        rope_theta=5_000.0,
        rms_eps=1e-5,
    )
    decoder = LlamaDecoder(config)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 19, 64)
    with torch.inference_mode():
        expected = as_transformers(decoder)(inputs_embeds=x).logits
        torch.testing.assert_close(decoder(x), expected, atol=2e-5, rtol=2e-5)


def test_packed_form_equals_trained_form_row_by_row_and_at_once() -> None:
    decoder = tiny.network(3).language_model
    runtime = DecoderRuntime(decoder, capacity=32, dtype=torch.float32)
    x = torch.randn(12, 32)
    with torch.inference_mode():
        expected = decoder(x[None])[0]
        cache = runtime.new_cache()
        at_once = runtime.forward(x, runtime.rows(0, 12), cache.data, 12)
        torch.testing.assert_close(at_once, expected, atol=1e-5, rtol=1e-5)
        cache = runtime.new_cache()
        single = [runtime.forward(x[i : i + 1], runtime.rows(i, 1), cache.data, 1) for i in range(12)]
        torch.testing.assert_close(torch.cat(single), expected, atol=1e-5, rtol=1e-5)


def test_only_wanted_rows_are_finished_and_they_are_the_last() -> None:
    decoder = tiny.network(3).language_model
    runtime = DecoderRuntime(decoder, capacity=32, dtype=torch.float32)
    x = torch.randn(9, 32)
    with torch.inference_mode():
        logits = runtime.forward(x, runtime.rows(0, 9), runtime.new_cache().data, 2)
        torch.testing.assert_close(logits, decoder(x[None])[0, -2:], atol=1e-5, rtol=1e-5)


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    n = draw(st.integers(1, 14))
    parents = [draw(st.integers(-1, i - 1)) for i in range(n)]
    tokens = [draw(st.integers(V - 256, V - 1)) for _ in range(n)]
    return TokenTree(np.array(tokens), np.array(parents))


def _path(tree: TokenTree, node: int) -> list[int]:
    path = [node]
    while tree.parents[path[0]] >= 0:
        path.insert(0, int(tree.parents[path[0]]))
    return path


@settings(max_examples=25, deadline=None)
@given(trees(), st.integers(0, 100))
def test_every_node_of_a_tree_sees_exactly_its_own_path(tree: TokenTree, seed: int) -> None:
    """Tree forward == one chain forward a node; fused prefill == prefill, then extend."""
    context = POLICY.encode(tiny.observation(np.random.default_rng(seed)))
    _, fused = POLICY.prefill(context, tree)
    cache, plain = POLICY.prefill(context)
    extended = POLICY.extend(cache, tree)
    assert fused.next_token == plain.next_token == extended.next_token
    np.testing.assert_array_equal(fused.node_next, extended.node_next)
    for node in range(len(tree.tokens)):
        chain = POLICY.extend(cache, TokenTree.chain(tree.tokens[_path(tree, node)]))
        assert chain.node_next[-1] == extended.node_next[node]


@settings(max_examples=25, deadline=None)
@given(trees(), st.data())
def test_keep_leaves_the_cache_as_if_only_the_path_had_been_read(tree: TokenTree, data: st.DataObject) -> None:
    node = data.draw(st.integers(0, len(tree.tokens) - 1))
    path = _path(tree, node)
    context = POLICY.encode(tiny.observation(np.random.default_rng(5)))
    cache, _ = POLICY.prefill(context)
    for token in tree.tokens[path]:
        POLICY.extend(cache, TokenTree.chain(np.array([token])))
        cache.keep([0])
    expected, length, token = cache.data[:, :, :, : cache.length].clone(), cache.length, cache.next_token
    cache, _ = POLICY.prefill(context, tree)
    cache.keep(path)
    assert (cache.length, cache.next_token) == (length, token)
    torch.testing.assert_close(cache.data[:, :, :, :length], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", [[1, 2], [0, 2], [3], [0, 1, 2, 3]])
def test_keep_refuses_what_is_no_path(path: list[int]) -> None:
    tree = TokenTree(np.array([V - 1, V - 2, V - 3]), np.array([-1, -1, 1]))
    cache, _ = POLICY.prefill(POLICY.encode(tiny.observation(np.random.default_rng(0))), tree)
    length = cache.length
    bad = path if path != [1, 2] else [2, 1]
    with pytest.raises(BadInput, match="no path"):
        cache.keep(bad)
    assert cache.length == length


def test_a_tree_that_does_not_fit_is_refused() -> None:
    cache, _ = POLICY.prefill(POLICY.encode(tiny.observation(np.random.default_rng(0))))
    with pytest.raises(BadInput, match="max_tree_nodes"):
        POLICY.extend(cache, TokenTree.chain(np.full(500, V - 1)))


def test_neighbouring_rows_start_out_alike_and_distant_ones_do_not() -> None:
    torch.manual_seed(0)
    rows = smooth_rows(256, 512)
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(rows[100], rows[101], dim=0) > 0.95
    assert abs(float(similarity(rows[100], rows[180], dim=0))) < 0.3
