"""Text to token ids and back: the characters of a text, or the tokenizer of a published model.

GPT-2 reads byte pairs (section 2.2); small models learn more from a small text character by
character. Both kinds lie in a run as ``tokenizer.json``: ``{"characters": "..."}``, or the file of
the `tokenizers` library, as model repositories have it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from loguru import logger
from numpy.typing import NDArray
from tokenizers import Tokenizer as BytePairs

from common.utils.errors import DataError
from common.utils.files import atomic_write_text

TokenArray = NDArray[np.integer]

_TEXTS = 10_000  # encoded at a time


class TextTokenizer(Protocol):
    """What data and generation need of either kind."""

    text: str
    vocab_size: int

    def encode(self, texts: Iterable[str], drop_unknown: bool = False) -> TokenArray:
        """The tokens of texts, one after the other, in as few bytes as the vocabulary allows."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...


class Characters:
    """Every character is a token; they are numbered in the order of Unicode.

    Args:
        characters: The vocabulary.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        self.text = json.dumps({"characters": self.characters}, ensure_ascii=False)
        self.vocab_size = len(self.characters)
        self._codes = _code_points(self.characters)

    def encode(self, texts: Iterable[str], drop_unknown: bool = False) -> TokenArray:
        """The tokens of texts.

        Args:
            texts: They are joined.
            drop_unknown: Leave out characters that are not in the vocabulary.

        Raises:
            DataError: naming characters that are not in the vocabulary.
        """
        codes = _code_points("".join(texts))
        ids = np.searchsorted(self._codes, codes).clip(max=self.vocab_size - 1)
        known = self._codes[ids] == codes
        if not known.all():
            unknown = "".join(sorted({chr(code) for code in np.unique(codes[~known])}))
            share = 1 - known.mean()
            if not drop_unknown:
                raise DataError(
                    f"the vocabulary of {self.vocab_size} characters lacks {unknown[:40]!r} "
                    f"({share:.2%} of the text); leave them out, or learn from a text with them"
                )
            logger.info(f"left out {share:.2%} of the characters, unknown: {unknown[:40]!r}")
        return ids[known].astype(_smallest(self.vocab_size))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return "".join(self.characters[i] for i in ids)


class Pretrained:
    """The byte pairs of a published model.

    Args:
        text: The content of its ``tokenizer.json``.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._core = BytePairs.from_str(text)
        self.vocab_size = self._core.get_vocab_size()

    def encode(self, texts: Iterable[str], drop_unknown: bool = False) -> TokenArray:
        """The tokens of texts; a special token's name stands for it. No text is unknown."""
        kind = _smallest(self.vocab_size)
        tokens = bytearray()  # grows in place: a large corpus is never held twice
        for chunk in _chunks(texts):
            for coded in self._core.encode_batch_fast(chunk, add_special_tokens=False):
                tokens += np.asarray(coded.ids, dtype=kind).tobytes()
        return np.frombuffer(tokens, dtype=kind)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self._core.decode(list(ids), skip_special_tokens=False)


def load_tokenizer(path: Path) -> TextTokenizer:
    """Read a ``tokenizer.json`` of either kind.

    Raises:
        DataError: if it cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        return Characters(content["characters"]) if "characters" in content else Pretrained(text)
    except Exception as error:  # the library raises nothing more particular
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot read the tokenizer {path}: {reason}") from None


def save_tokenizer(tokenizer: TextTokenizer, path: Path) -> None:
    """Write what ``load_tokenizer`` reads, all or nothing."""
    atomic_write_text(path, tokenizer.text)


def fingerprint(tokenizer: TextTokenizer) -> str:
    """SHA-256 of the file, in hex."""
    return hashlib.sha256(tokenizer.text.encode()).hexdigest()


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, _TEXTS)):
        yield chunk


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _smallest(vocab_size: int) -> type[np.integer]:
    return np.uint16 if vocab_size <= 2**16 else np.int32
