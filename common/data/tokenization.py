"""Tokenizers that lose nothing: ``decode(encode(text))`` is ``text`` in Unicode's form NFC.

Two ways to learn one vocabulary: byte-level pair encoding (Sennrich et al. 2016, 1508.07909, on
bytes as in GPT-2), and single characters with bytes for those never seen. Both learn the same
vocabulary from the same texts, and neither knows an unknown token.

The special tokens have the first ids and no spelling: a text that contains ``<eos>`` is a text.

    tokenizer = train_bpe(sentences, vocab_size=8000)
    tokenizer.decode(tokenizer.encode("Grüße!"))
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.utils.errors import ConfigError, DataError
from common.utils.files import atomic_write_text

if TYPE_CHECKING:
    import tokenizers

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")

_FORMAT = 1
_BYTES = 256


class Tokenizer:
    """Text to token ids and back. Made by ``train_bpe``, ``train_chars`` or ``load``.

    Attributes:
        special_tokens: Names of the tokens with ids 0, 1, ...; they stand for no text.
    """

    def __init__(self, core: "tokenizers.Tokenizer", text: str) -> None:
        self._core = core
        self._text = text
        self.special_tokens: tuple[str, ...] = tuple(json.loads(text)["special_tokens"])

    @classmethod
    def from_json(cls, text: str, origin: str = "tokenizer") -> "Tokenizer":
        """The tokenizer that ``to_json`` wrote.

        Args:
            text: The JSON.
            origin: Where it came from, for messages.

        Raises:
            DataError: if it is anything else.
        """
        import tokenizers

        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise DataError(f"{origin} has format {content['format']!r}, expected {_FORMAT}")
            if not set(SPECIAL_TOKENS) <= set(content["special_tokens"]):
                raise DataError(f"{origin} lacks some of the special tokens {SPECIAL_TOKENS}")
            return cls(tokenizers.Tokenizer.from_str(json.dumps(content["tokenizer"])), text)
        except DataError:
            raise
        except Exception as error:  # the library raises nothing more particular
            reason = str(error).splitlines()[0]
            raise DataError(f"{origin} is no tokenizer of this project: {reason}") from None

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a file that ``save`` wrote.

        Raises:
            DataError: if it cannot be read, or is anything else.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the tokenizer {path}: {error}") from None
        return cls.from_json(text, str(path))

    def save(self, path: Path | str) -> None:
        """Write ``tokenizer.json``, all or nothing."""
        atomic_write_text(Path(path), self._text)

    def to_json(self) -> str:
        """Everything there is to know about it; the content of its file."""
        return self._text

    @property
    def sha256(self) -> str:
        """Hash of the file ``save`` writes, in hex."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included; the rows an embedding needs."""
        return self._core.get_vocab_size() + len(self.special_tokens)

    @property
    def pad_id(self) -> int:
        return self.special_tokens.index("<pad>")

    @property
    def bos_id(self) -> int:
        return self.special_tokens.index("<bos>")

    @property
    def eos_id(self) -> int:
        return self.special_tokens.index("<eos>")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special ones.

        Raises:
            DataError: if it is no valid Unicode text.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, in parallel.

        Raises:
            DataError: if one of them is no valid Unicode text; it names the first.
        """
        try:
            return [coded.ids for coded in self._core.encode_batch_fast(list(texts))]
        except TypeError:
            index, text = next((i, t) for i, t in enumerate(texts) if not _is_text(t))
            raise DataError(f"text {index} is {text!a}, expected valid Unicode text") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ids stand for; special ones are left out."""
        return self._core.decode(list(ids))

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The texts that many lists of ids stand for."""
        return self._core.decode_batch([list(ids) for ids in batch])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for by itself, for axis labels; special ones by their names."""
        special = self.special_tokens
        return [special[i] if i < len(special) else self._core.decode([i]) for i in ids]


def train_bpe(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = SPECIAL_TOKENS
) -> Tokenizer:
    """Learn byte-level pair encoding; every text can be encoded, seen or not.

    Args:
        texts: What to learn from: the training split and nothing else.
        vocab_size: Ids in all, special ones and the 256 bytes included. Fewer are used if the
            texts have no more pairs that occur twice.
        special_tokens: Names of the first ids; ``<pad>``, ``<bos>`` and ``<eos>`` among them.

    Raises:
        ConfigError: if ``vocab_size`` has no room for the bytes.
    """
    from tokenizers import Tokenizer as Core
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    least = _BYTES + len(special_tokens)
    if vocab_size < least:
        raise ConfigError(f"vocab_size is {vocab_size}, expected at least {least} for all bytes")
    core = Core(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special_tokens),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return _behind_special_tokens(core, special_tokens)


def train_chars(texts: Iterable[str], special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """One token for every character of ``texts``; others are spelt as their UTF-8 bytes.

    Args:
        texts: What to learn from: the training split and nothing else.
        special_tokens: Names of the first ids; ``<pad>``, ``<bos>`` and ``<eos>`` among them.
    """
    from tokenizers import Tokenizer as Core
    from tokenizers import decoders, models, normalizers

    nfc = normalizers.NFC()
    characters = sorted({char for text in texts for char in nfc.normalize_str(text)})
    names = [*characters, *(f"<0x{byte:02X}>" for byte in range(_BYTES))]
    vocabulary = {name: number for number, name in enumerate(names)}
    core = Core(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    core.normalizer = nfc
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _behind_special_tokens(core, special_tokens)


def _behind_special_tokens(
    core: "tokenizers.Tokenizer", special_tokens: Sequence[str]
) -> Tokenizer:
    """Move the ids of all text behind those of the special tokens.

    The library would look for special tokens in the text, and would let a merge that happens to
    spell ``<eos>`` take its id. It never hears of them.
    """
    if not set(SPECIAL_TOKENS) <= set(special_tokens):
        raise ConfigError(f"special_tokens are {special_tokens}, expected {SPECIAL_TOKENS} in it")
    content: dict[str, Any] = json.loads(core.to_str())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {
        token: number + len(special_tokens)
        for token, number in sorted(vocabulary.items(), key=lambda item: item[1])
    }
    whole = {"format": _FORMAT, "special_tokens": list(special_tokens), "tokenizer": content}
    return Tokenizer.from_json(json.dumps(whole, ensure_ascii=False, indent=1) + "\n")


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
