"""What a sentence for a robot says, whatever its wording: its words without those that carry no meaning of their own.

"Grab the milk and put it into the basket" and "pick up the milk and place it in the basket" say the same. The words
that tasks differ in (things, places, colours, sides) are left as they are; no word is guessed to be like another.
"""

import re

# Words of one line say the same in an instruction to a robot arm; the first stands for all of them.
_SAME = (
    ("pick", "grab", "grasp", "take", "lift", "get", "fetch"),
    ("put", "place", "set", "lay", "position"),
    ("push", "move", "shift"),
    ("turn", "switch"),
    ("close", "shut"),
    ("in", "into", "inside", "within"),
    ("on", "onto", "upon"),
    ("next", "beside", "near", "alongside"),
)
_EMPTY = frozenset(
    ("a", "an", "the", "it", "its", "this", "that", "is", "of", "to", "up", "and", "then", "from", "at", "please")
)
_WORD = re.compile(r"[a-z0-9]+")
_POSSESSIVE = re.compile(r"['\u2019]s\b")
_STANDS_FOR = {word: group[0] for group in _SAME for word in group}


def meaning(instruction: str) -> frozenset[str]:
    """The words that matter, each in the form that stands for its like."""
    words = _WORD.findall(_POSSESSIVE.sub("", instruction.lower()))
    return frozenset(_STANDS_FOR.get(word, word) for word in words if word not in _EMPTY)
