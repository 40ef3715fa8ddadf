"""First weights of a flow-matching policy from a token policy that was trained on the same cameras and words."""

import logging

import torch

from heisd.errors import BadInput
from heisd.policies.bundle import load_policy
from heisd.policies.flow.network import FlowNetwork
from heisd.policies.tokenizer import WordTokenizer

log = logging.getLogger(__name__)

_EMBEDDING = "language_model.embed_tokens.weight"


@torch.no_grad()
def borrow(model: FlowNetwork, name_or_dir: str, tokenizer: WordTokenizer) -> int:
    """Copy every tensor that has the same name and shape in a token policy's network; returns how many.

    Its language model is causal and reads BOS and proprioception too, so its layers are a start and no more. The
    embedding of words is taken where both tokenizers are the same. Raises BadInput when no vision tower fits,
    UnknownName or BadArtifact for the policy.
    """
    policy = load_policy(name_or_dir)
    found = policy.model.named_parameters()
    theirs = {name.replace("language_model.model.", "language_model."): p.detach() for name, p in found}
    ours = dict(model.named_parameters())
    words = ours[_EMBEDDING]
    if isinstance(policy.tokenizer, WordTokenizer) and policy.tokenizer.dumps() == tokenizer.dumps():
        theirs[_EMBEDDING] = theirs[_EMBEDDING][: len(words)]  # the rows behind are action tokens
    else:
        del theirs[_EMBEDDING]
    fitting = [name for name, p in ours.items() if name in theirs and theirs[name].shape == p.shape]
    if not any(name.startswith("vision_backbone.") for name in fitting):
        raise BadInput(f"{name_or_dir} has no vision tower of this recipe's shape; leave --eyes out, or choose another")
    for name in fitting:
        ours[name].copy_(theirs[name])
    log.info("%d of %d tensors begin as those of %s", len(fitting), len(ours), name_or_dir)
    return len(fitting)
