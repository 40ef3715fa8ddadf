"""For people who extend heisd: does my part keep its contract?

from heisd.testing import check_proposer, check_target
check_proposer(MyProposer(codec), codec)
check_target(my_policy, observations)  # of tokens; of chunks: check_chunk_policy
"""

from heisd.testing.chunks import check_chunk_policy
from heisd.testing.proposer import check_proposer
from heisd.testing.synthetic import SyntheticContext, synthetic_episode, synthetic_observations
from heisd.testing.target import check_target

__all__ = [
    "SyntheticContext",
    "check_chunk_policy",
    "check_proposer",
    "check_target",
    "synthetic_episode",
    "synthetic_observations",
]
