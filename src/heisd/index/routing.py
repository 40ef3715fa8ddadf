"""Instruction -> task shard: the first level of the look-up (RT-Cache, HeiSD section 3.2).

HeiSD's released code hashes the instruction into a collection name, so one changed word finds nothing. Here the same
words (letter case and blanks aside) find their shard, and other wording finds the one most similar in meaning
(:mod:`heisd.index.wording`) above a declared threshold, or none.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from heisd.errors import BadInput
from heisd.index.wording import meaning

TEXT_THRESHOLD = 0.6  # least similarity at which another wording is taken for the same task
_OTHER_WORDS = math.nextafter(1.0, 0.0)  # most that another wording can be: the same words may say something else
_COMMON_WEIGHT = 0.25  # of a word that every task has: it says little about which one is meant


@dataclass(frozen=True, slots=True)
class Route:
    """Which shard answers an instruction."""

    shard: int
    text_similarity: float  # 1.0: the same sentence; another wording is always less


class Router:
    """Finds the shard of an instruction.

    Similarity is a weighted Jaccard index of the two sets of meaningful words: a word weighs 0.25 + log(n / df), with
    n shards of which df contain it, so that "milk" counts and "basket" may hardly do. A word no shard has weighs as
    much as one that a single shard has: "banana" is not "milk", however alike the rest of the sentence is.
    """

    def __init__(self, instructions: Sequence[str], threshold: float = TEXT_THRESHOLD) -> None:
        if not 0.0 < threshold <= 1.0:
            raise BadInput(f"a text threshold lies in (0, 1]; got {threshold}")
        self.threshold = threshold
        self._exact = {normal_form(text): i for i, text in enumerate(instructions)}
        if len(self._exact) != len(instructions):
            raise BadInput("two shards have the same instruction; a task is its instruction")
        self._words = [meaning(text) for text in self._exact]
        n = len(instructions)
        counts = Counter(word for words in self._words for word in words)
        self._weights = {word: _COMMON_WEIGHT + math.log(n / df) for word, df in counts.items()}
        self._unknown_weight = _COMMON_WEIGHT + math.log(max(n, 3))

    def route(self, instruction: str) -> Route | None:
        """The shard of these words, else the most similar one above the threshold (the first of equals), else None."""
        text = normal_form(instruction)
        if text in self._exact:
            return Route(self._exact[text], 1.0)
        asked = meaning(text)
        scores = [self._similarity(asked, words) for words in self._words]
        best = max(range(len(scores)), key=scores.__getitem__, default=None)
        if best is None or scores[best] < self.threshold:
            return None
        return Route(best, min(scores[best], _OTHER_WORDS))

    def _similarity(self, asked: frozenset[str], known: frozenset[str]) -> float:
        either = self._weigh(asked | known)
        return self._weigh(asked & known) / either if either else 0.0

    def _weigh(self, words: frozenset[str]) -> float:
        # Summed in a fixed order: the iteration order of sets of words changes between processes.
        return sum(self._weights.get(word, self._unknown_weight) for word in sorted(words))


def normal_form(instruction: str) -> str:
    """Lower case, single blanks, no full stop at the end."""
    return " ".join(instruction.lower().split()).rstrip(". ")
