"""Modules without numbers: nothing is drawn for them, and nothing heavy is loaded to draw it."""

import subprocess
import sys

import torch
from torch import nn

from heisd.policies.empty import empty_weights

# Triton's LLVM beside the one of a software OpenGL that has drawn already: a segmentation fault.
BUILD = """
import sys
from heisd.policies.config import DecoderConfig
from heisd.policies.decoder import LlamaDecoder
from heisd.policies.empty import empty_weights
config = DecoderConfig(vocab_size=300, hidden_size=16, intermediate_size=32, n_layers=1, n_heads=2)
with empty_weights():
    LlamaDecoder(config)
print([name for name in ("torch._dynamo", "triton") if name in sys.modules])
"""


def test_shapes_without_numbers_and_only_inside():
    with empty_weights():
        inside = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2), nn.RMSNorm(2), nn.LayerNorm(2))
    assert {parameter.device.type for parameter in inside.parameters()} == {"meta"}
    assert inside[0].weight.shape == (4, 3)
    outside = nn.Linear(3, 2)
    assert outside.weight.device.type == "cpu"
    assert torch.isfinite(outside.weight).all()
    filled = {name: torch.zeros(value.shape) for name, value in inside.state_dict().items()}
    inside.load_state_dict(filled, assign=True)
    assert inside(torch.tensor([1])).shape == (1, 2)


def test_no_compiler_is_loaded():
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
