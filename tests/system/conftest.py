"""A policy bundle small enough to write and load in a moment; its answers are random, its plumbing is real."""

import subprocess

import pytest
from processes import command, environment


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    """Directory of a random two-layer policy with the bundled policy's inputs and outputs."""
    from heisd.codec import ActionCodec
    from heisd.policies.bundle import save_policy
    from heisd.policies.config import ConvTowerConfig, DecoderConfig, OpenVLAConfig, ProprioConfig
    from heisd.policies.openvla import OpenVLA
    from heisd.policies.tokenizer import WordTokenizer

    tokenizer = WordTokenizer.build(["pick up the milk and place it in the basket"])
    vocab = tokenizer.n_text_tokens + 256
    config = OpenVLAConfig(
        vision=ConvTowerConfig(channels=(16, 32, 32, 64)),
        decoder=DecoderConfig(vocab_size=vocab, hidden_size=64, intermediate_size=128, n_layers=2, n_heads=2),
        proprio=ProprioConfig(),
        action_vocab_size=vocab,
    )
    codec = ActionCodec(vocab_size=vocab, q01=(-1.0,) * 7, q99=(1.0,) * 7, mask=(True,) * 6 + (False,))
    return save_policy(tmp_path_factory.mktemp("tiny") / "tiny", OpenVLA(config), tokenizer, codec)


@pytest.fixture
def heisd(tmp_path):
    """Run ``heisd`` as a process of its own, outside the checkout, one thread; returns the finished process."""

    def run(*arguments, **options):
        return subprocess.run(command(*arguments), cwd=tmp_path, env=environment(), capture_output=True, text=True,
                              check=False, **options)  # fmt: skip

    return run
