"""Instructions -> prompt ids, with the prompt OpenVLA was trained on. Ids start with BOS."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from heisd.errors import BadArtifact

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROMPT_START = "In: What action should the robot take to"
PROMPT_END = "?\nOut:"
_PAD, _BOS, _UNKNOWN = "[PAD]", "<s>", "[UNK]"
_LLAMA_BOS = 1
_TRAILING_BLANK = 29871  # Llama's empty token, with which OpenVLA's training prompts ended


def prompt(instruction: str) -> str:
    """The published prompt around an instruction (lower-cased, blanks collapsed)."""
    return f"{PROMPT_START} {' '.join(instruction.lower().split())}{PROMPT_END}"


class PromptTokenizer(Protocol):
    """Anything that turns an instruction into prompt ids."""

    def encode(self, instruction: str) -> list[int]:
        """Prompt ids, BOS first."""
        ...


class WordTokenizer:
    """One id per word; each fixed phrase of the prompt is ONE id, because every position costs decoder time.

    Ids: 0 padding, 1 BOS, 2 unknown word, 3 and 4 the fixed phrases, then the words in alphabetical order.
    Action ids follow behind :attr:`n_text_tokens`, at the end of the policy's vocabulary.
    """

    def __init__(self, serialised: str) -> None:
        self._tokenizer = _parse(serialised)

    @classmethod
    def build(cls, instructions: Iterable[str]) -> "WordTokenizer":
        """A tokenizer that knows every word of ``instructions``."""
        from tokenizers import AddedToken, Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.normalizers import Lowercase
        from tokenizers.pre_tokenizers import WhitespaceSplit

        fixed = [_PAD, _BOS, _UNKNOWN, PROMPT_START, PROMPT_END]
        words = sorted({word for text in instructions for word in text.lower().split()})
        vocabulary = {token: i for i, token in enumerate([*fixed, *words])}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=_UNKNOWN))
        tokenizer.normalizer = Lowercase()
        tokenizer.pre_tokenizer = WhitespaceSplit()
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in fixed])
        return cls(tokenizer.to_str())

    @classmethod
    def load(cls, path: Path) -> "WordTokenizer":
        """Read a ``tokenizer.json``; BadArtifact when it isn't one."""
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, BadArtifact) as error:
            raise BadArtifact(f"{path}: {error}") from None

    def dumps(self) -> str:
        """The contents of ``tokenizer.json``."""
        return str(self._tokenizer.to_str(pretty=True))

    @property
    def n_text_tokens(self) -> int:
        """Number of ids this tokenizer can produce (the policy's vocabulary adds 256 action ids)."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, instruction: str) -> list[int]:
        """Prompt ids, BOS first. Unknown words become one shared id."""
        return [1, *self._tokenizer.encode(prompt(instruction)).ids]


class PublishedTokenizer:
    """The ``tokenizer.json`` inside a published OpenVLA directory.

    Read with ``tokenizers`` and not through ``AutoTokenizer``: the file alone says how text is cut, while newer
    ``transformers`` rebuild Llama tokenizers from the vocabulary with rules of their own.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        try:
            self._tokenizer = _parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, BadArtifact) as error:
            raise BadArtifact(f"{path}: {error}") from None

    def encode(self, instruction: str) -> list[int]:
        """Prompt ids, BOS first, ending with the empty token as in OpenVLA's training data."""
        ids = [int(i) for i in self._tokenizer.encode(prompt(instruction)).ids]
        if ids[0] != _LLAMA_BOS:
            ids.insert(0, _LLAMA_BOS)
        return ids if ids[-1] == _TRAILING_BLANK else [*ids, _TRAILING_BLANK]


def _parse(serialised: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(serialised)
    except Exception as error:  # noqa: BLE001  (the library raises bare Exception on malformed JSON)
        raise BadArtifact(f"not a tokenizer file: {error}") from None
