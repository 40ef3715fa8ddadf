"""The values that cross from one stage to the next. numpy only: importing this never imports torch.

Shape letters: H, W image height and width; T tokens of one action (7); N nodes of a draft tree;
V vocabulary. Frames: ``world`` is LIBERO's world frame (metres, z up); ``ee`` the end effector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]
ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Proprioception:
    """What the robot knows of itself at one control step."""

    eef_pos_m: FloatArray  # (3,) end-effector position, world frame
    eef_quat_xyzw: FloatArray  # (4,) as robosuite reports it; its sign is NOT canonicalised
    gripper_qpos_m: FloatArray  # (2,) the two finger joints (one positive, one negative)
    gripper_qvel_m_s: FloatArray  # (2,)
    joint_pos_rad: FloatArray  # (7,)
    joint_vel_rad_s: FloatArray  # (7,)


@dataclass(frozen=True, slots=True)
class Observation:
    """One control step as every policy sees it. Images are upright (rotated once, at the simulator)."""

    images: Mapping[str, ImageArray]  # camera name ("agentview", "wrist") -> (H, W, 3) u8 RGB
    proprio: Proprioception
    instruction: str
    time_s: float  # simulated seconds since the policy took over (after settling)


class TokenOrigin(StrEnum):
    """Where a token of an executed action came from (every token has exactly one origin)."""

    DECODED = "decoded"  # produced by the target, one by one
    ACCEPTED = "accepted"  # proposed and equal to the target's own greedy token
    RELAXED = "relaxed"  # proposed, different from the target's, kept by a named lossy rule
    COMPENSATED = "compensated"  # produced by KERV's filter
    SKIPPED = "skipped"  # executed without asking the language model


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Tokens to check in one forward: a trie given by parent pointers, parents before children.

    Node ``i`` sits ``depth[i]`` positions after the last token of the cache (roots have depth 0) and
    attends to the cache, to its ancestors and to itself. A chain is ``parents = [-1, 0, 1, …]``.
    """

    tokens: IntArray  # (N,) vocabulary ids
    parents: IntArray  # (N,) index of the parent node, -1 for a root

    def __post_init__(self) -> None:
        tokens, parents = np.asarray(self.tokens), np.asarray(self.parents)
        if tokens.ndim != 1 or tokens.shape != parents.shape:
            raise ValueError(f"tokens {tokens.shape} and parents {parents.shape} must be equal-length vectors")
        if not all(-1 <= parent < i for i, parent in enumerate(parents.tolist())):
            raise ValueError("every parent must come before its child (and -1 marks a root)")

    @classmethod
    def chain(cls, tokens: IntArray) -> "TokenTree":
        """A single path: each token is the child of the one before it."""
        ids = np.asarray(tokens, dtype=np.int64)
        return cls(ids, np.arange(len(ids), dtype=np.int64) - 1)

    @property
    def depth(self) -> IntArray:
        """(N,) distance of every node from its root."""
        depth: list[int] = []
        for parent in self.parents.tolist():
            depth.append(depth[parent] + 1 if parent >= 0 else 0)
        return np.asarray(depth, dtype=np.int64)

    def ancestor_mask(self) -> BoolArray:
        """(N, N) True where row ``i`` may attend to column ``j`` (its ancestors and itself)."""
        n = len(self.parents)
        rows: list[int] = []  # bit j of row i: may attend; arithmetic on plain integers beats that on small arrays
        for i, parent in enumerate(self.parents.tolist()):
            rows.append((rows[parent] if parent >= 0 else 0) | 1 << i)
        n_bytes = (n + 7) // 8
        packed = np.frombuffer(b"".join(row.to_bytes(n_bytes, "little") for row in rows), np.uint8)
        return np.unpackbits(packed.reshape(n, n_bytes), axis=1, count=n, bitorder="little").view(np.bool_)


@dataclass(frozen=True, slots=True)
class Scores:
    """The target's opinion after one forward: greedy next tokens behind the prefix and every tree node."""

    next_token: int  # greedy token after the last cached position
    node_next: IntArray  # (N,) greedy token after each tree node
    margin: float  # top-1 minus top-2 logit behind ``next_token``
    # Where the runner-up is so near that a forward of another shape might have chosen it: behind the prompt (told by
    # the forward that read it), and behind these nodes of the tree. A policy that never says so promises that its
    # forwards of one row and of many agree.
    next_is_close: bool = False
    close_nodes: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Draft:
    """One proposer's guesses at the next tokens of an action. ``chains[0]`` is its best guess.

    Every chain starts at the first token that is not settled yet. A chain's weight is its score plus the sum of
    its ``log_probs``; weights of several proposers are compared when a tree has no room for all of them.
    """

    chains: tuple[tuple[int, ...], ...]  # K chains of 1 to T vocabulary ids
    source: str  # registry name of the proposer
    scores: tuple[float, ...]  # (K,) not increasing; like a log-probability: larger is likelier to be kept
    log_probs: tuple[tuple[float, ...], ...] | None = None  # as ``chains``: log-probability of each token, if known
    evidence: Mapping[str, float] = field(default_factory=dict)  # what else its author knows, for the router

    def best(self) -> "Draft":
        """Its best guess alone."""
        log_probs = None if self.log_probs is None else self.log_probs[:1]
        return Draft(self.chains[:1], self.source, self.scores[:1], log_probs, self.evidence)

    @classmethod
    def of(cls, tokens: IntArray, source: str, scores: FloatArray | None = None) -> "Draft":
        """(K, L) ids, best row first, and (K,) scores (zeros if left out) as a draft."""
        rows = np.asarray(tokens, dtype=np.int64).tolist()
        values = [0.0] * len(rows) if scores is None else np.asarray(scores, dtype=np.float64).tolist()
        return cls(tuple(map(tuple, rows)), source, tuple(values))


@dataclass(frozen=True, slots=True, eq=False)
class ChunkDraft:
    """One proposer's guesses at the next actions of a chunk policy. ``chunks[0]`` is its best guess."""

    chunks: FloatArray  # (C, H, T) float32, normalised (``ActionCodec.normalise_chunk``)
    source: str  # registry name of the proposer
    scores: tuple[float, ...]  # (C,) not increasing: larger is likelier to be kept
    evidence: Mapping[str, float] = field(default_factory=dict)  # what else its author knows, for the router


class StopReason(StrEnum):
    """Why a verification kept no more draft tokens, or draft actions of a chunk, than it did."""

    COMPLETE = "complete"  # the action, or all of the chunk that may be executed, is complete
    NO_DRAFT = "no draft"  # there was nothing to check
    DRAFT_ENDED = "draft ended"  # everything was kept, but the draft is shorter than the action
    MISMATCH = "mismatch"  # the next token is not the target's (exact rule)
    OVER_TOLERANCE = "over tolerance"  # too many bins from the target's token, or an action too far from its endpoint
    OVER_BLOCK_BOUNDS = "over block bounds"  # position or rotation block too far from the target's
    BLOCK_UNFINISHED = "block unfinished"  # a block that differs and that the draft does not complete
    GRIPPER = "gripper"  # the gripper token is not the target's, or the gripper is about to move


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verification settled: the kept draft tokens and, while the action has room, the target's next one."""

    tokens: tuple[int, ...]  # (n,) newly settled vocabulary ids; n >= 1
    origins: tuple[TokenOrigin, ...]  # (n,)
    deviation_bins: tuple[int, ...]  # (n,) bins between each token and the target's own token at its place
    path: tuple[int, ...]  # nodes of the tree to commit: ``cache.keep(path)``
    n_accepted: int  # draft tokens kept; the target's own token is never counted
    reason: StopReason
    source: str  # proposer of the kept chain; "" when nothing was kept


@dataclass(frozen=True, slots=True, eq=False)
class ChunkVerdict:
    """What a verification says about the drafts of a chunk: the one it keeps most of, and how much."""

    chunk: FloatArray  # (H, T) normalised: the draft
    n_accepted: int  # leading actions that may be executed
    reason: StopReason
    source: str  # proposer of the draft


@dataclass(frozen=True, slots=True)
class Action:
    """One robot action in the environment's convention."""

    values: FloatArray  # (7,) [dx, dy, dz, drx, dry, drz, gripper] in [-1, 1]; gripper +1 closes
    tokens: IntArray  # (T,) vocabulary ids it was decoded from; of a chunk policy: the bins its numbers fall in
    origins: tuple[TokenOrigin, ...]  # (T,)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What one round of a chunk policy did. Steps that take the next action of the chunk in hand have none."""

    n_actions: int  # of its chunk that are executed before the next round
    n_prefills: int = 0  # passes of the language model over the prefix
    n_expert_passes: int = 0  # of the action expert: Euler steps, and one for a verification
    n_chunks: int = 0  # checked by the verification: candidates times noise levels
    n_judged: int = 0  # draft actions that could have been accepted
    n_accepted: int = 0
    stop: str = StopReason.NO_DRAFT  # why no more were
    source: str = ""  # proposer of the draft that was judged best, or executed unchecked
    prefix_age_steps: int = 0  # control steps since the observation behind the keys and values that were read
    n_frozen: int = 0  # leading actions of its chunk that were settled before: executed while the round is computed
    vouched_for: str = ""  # of an audit, a full round: the proposer all of whose actions were good beside this chunk

    @property
    def is_rejected(self) -> bool:
        """Whether drafts were checked and none of their actions was good enough."""
        return self.n_chunks > 0 and self.n_accepted == 0


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """A round as proposers are told of it."""

    chunk: FloatArray  # (H, T) normalised, whole; its first ``record.n_actions`` are executed
    origin: TokenOrigin
    record: RoundRecord


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Telemetry of one control step, written by the engine."""

    step: int
    latency_ms: float  # full clock: observation handed over to action handed back
    stage_ms: Mapping[str, float]  # encode, prefill, decode, act …; record once the step is over
    lm_forwards: int
    origins: Mapping[str, int]  # TokenOrigin -> number of tokens
    margins: tuple[float, ...] = field(default=())  # logit margins of the decoded tokens
    verifications: tuple[tuple[int, int], ...] = ()  # (first token's position, guessed tokens kept) of each check
    n_drafted: int = 0  # guessed tokens that were checked: rows of all trees
    kept_by_source: Mapping[str, int] = field(default_factory=dict)  # proposer -> guessed tokens kept
    route: str = "speculate"  # how the action came about, and why (heisd.route)
    reason: str = "always"
    score: float = float("nan")  # what the route's threshold was compared with
    round: RoundRecord | None = None  # of a chunk policy, at the steps on which it was asked
    asked: Mapping[str, int] = field(default_factory=dict)  # proposer -> how often it was asked in this step
    looked: bool = True  # whether the vision towers ran
    # proposer -> what went wrong in it since the record before -> how often
    faults: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def n_accepted(self) -> int:
        """Guessed tokens kept, of a chunk policy drafted actions; the target's own next token is never counted."""
        return sum(kept for _, kept in self.verifications) if self.round is None else self.round.n_accepted

    @property
    def n_verifications(self) -> int:
        """Forwards that checked guesses."""
        return len(self.verifications) if self.round is None else int(self.round.n_chunks > 0)
