"""Tokenizers: lossless for any text, the same each time they are trained, whole or not there."""

import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from common.data.tokenization import SPECIAL_TOKENS, Tokenizer, train_bpe, train_chars
from common.utils.errors import ConfigError, DataError
from common.utils.files import sha256_file

SENTENCES = [
    "Two young, White males are outside near many bushes.",
    "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    "Mehrere Männer mit Schutzhelmen bedienen ein Antriebsradsystem.",
    "A man in a blue shirt is standing on a ladder cleaning a window.",
    "Ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster.",
] * 3

TRAINERS = {
    "bpe": lambda: train_bpe(SENTENCES, 400),
    "bytes": lambda: train_bpe([], 259),
    "chars": lambda: train_chars(SENTENCES),
}


@pytest.fixture(params=TRAINERS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TRAINERS[request.param]()


def random_texts(number: int) -> list[str]:
    """Texts of assigned characters: words, spaces of all kinds, marks, emoji, controls."""
    generator = random.Random(0)
    pools = [
        [chr(c) for c in range(32, 127)],
        list("äöüßéèñçøåłœñΑΩαωБЯбя日本語한국어العربيةहिन्दीไทย"),
        list(" \t\n\r\v\f\u00a0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff\x00\x1f\x7f\x85"),
        [chr(c) for c in (*range(0x300, 0x340), 0x327, 0x345, 0x591, 0x3099, 0x1161, 0x11A8)],
        list("😀👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪"),
        ["<eos>", "<pad>", "<bos>", "<0xC3>", "Ġ", "Ã", "</s>", "[MASK]", "▁", "##ing"],
    ]
    anything = [
        chr(c)
        for c in range(sys.maxunicode + 1)
        if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")
    ]
    texts = []
    for _ in range(number):
        pool = generator.choice([*pools, anything])
        pieces = generator.choices(pool, k=generator.randint(0, 20))
        pieces += generator.choices(generator.choice(pools), k=generator.randint(0, 5))
        generator.shuffle(pieces)
        texts.append("".join(pieces))
    return texts


def test_every_text_comes_back_in_normal_form(tokenizer: Tokenizer):
    texts = ["", " ", "\n\n", "e\u0301 = é", "<eos>", *SENTENCES, *random_texts(3000)]
    coded = tokenizer.encode_batch(texts)
    for text, ids, decoded in zip(texts, coded, tokenizer.decode_batch(coded), strict=True):
        assert decoded == unicodedata.normalize("NFC", text)
        assert tokenizer.decode(ids) == decoded
        assert all(len(SPECIAL_TOKENS) <= i < tokenizer.vocab_size for i in ids)


def test_one_text_is_encoded_as_among_others(tokenizer: Tokenizer):
    texts = random_texts(50)
    assert [tokenizer.encode(text) for text in texts] == tokenizer.encode_batch(texts)


def test_special_tokens_come_first_and_stand_for_no_text(tokenizer: Tokenizer):
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    ids = tokenizer.encode("Ein Mann")
    padded = [tokenizer.bos_id, *ids, tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(padded) == "Ein Mann"
    assert tokenizer.pieces(padded)[0] == "<bos>"
    assert "".join(tokenizer.pieces(padded)[1:-2]) == "Ein Mann"


def test_a_text_that_spells_a_special_token_stays_text():
    texts = ["a <eos> b <eos> <eos>"] * 100
    for tokenizer in (train_bpe(texts, 300), train_chars(texts)):
        ids = tokenizer.encode("<eos><pad>")
        assert not {0, 1, 2} & set(ids)
        assert tokenizer.decode(ids) == "<eos><pad>"
    assert len(train_bpe(texts, 300).encode("<eos>")) <= 3, "it was frequent enough to be merged"


def test_pair_encoding_learns_and_characters_are_single():
    sentence = SENTENCES[1]
    assert len(train_bpe(SENTENCES, 600).encode(sentence)) < 0.5 * len(sentence)
    assert train_bpe(SENTENCES, 400).vocab_size == 400
    chars = train_chars(SENTENCES)
    assert len(chars.encode(sentence)) == len(sentence)
    assert len(chars.encode("Ж")) == 2, "an unseen character is spelt as its bytes"


def test_other_special_tokens_may_be_added():
    tokenizer = train_bpe(SENTENCES, 300, ("<mask>", *SPECIAL_TOKENS))
    assert tokenizer.special_tokens == ("<mask>", "<pad>", "<bos>", "<eos>")
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (1, 300)
    with pytest.raises(ConfigError, match="special_tokens"):
        train_chars(SENTENCES, ("<pad>",))


def test_a_saved_tokenizer_is_the_same_again(tokenizer: Tokenizer, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    texts = random_texts(300)
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert loaded.sha256 == tokenizer.sha256 == sha256_file(path)
    assert Tokenizer.from_json(tokenizer.to_json()).vocab_size == tokenizer.vocab_size
    assert list(tmp_path.iterdir()) == [path]


def numbered_texts() -> list[str]:
    return [f"{i} tokens of {i * i % 97} and {i * 7919 % 1009}" for i in range(4000)]


def test_training_in_another_process_gives_the_same_bytes():
    """With another hash seed and another number of threads."""
    script = (
        "from common.data.tokenization import train_bpe, train_chars\n"
        "from tests.data.test_tokenization import numbered_texts as texts\n"
        "print(train_bpe(texts(), 1500).sha256, train_chars(texts()).sha256)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    theirs = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    bpe, chars = train_bpe(numbered_texts(), 1500), train_chars(numbered_texts())
    assert theirs.split() == [bpe.sha256, chars.sha256]


def damaged(tmp_path: Path) -> dict[str, str]:
    whole = train_chars(["abc"]).to_json()
    content = json.loads(whole)
    return {
        "empty": "",
        "truncated": whole[: len(whole) // 2],
        "a list": "[]",
        "another format": json.dumps(content | {"format": 99}),
        "no padding": json.dumps(content | {"special_tokens": ["<bos>", "<eos>"]}),
        "no model": json.dumps(content | {"tokenizer": {"version": "1.0"}}),
    }


@pytest.mark.parametrize("kind", damaged(Path()))
def test_a_damaged_file_is_refused_in_one_line(kind: str, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(damaged(tmp_path)[kind])
    with pytest.raises(DataError, match=r"tokenizer\.json") as caught:
        Tokenizer.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary"):
        with pytest.raises(DataError, match=f"cannot read the tokenizer .*{name}"):
            Tokenizer.load(tmp_path / name)


@pytest.mark.parametrize("bad", ["a\ud800b", None, 3])
def test_what_is_no_text_is_named(bad: object):
    with pytest.raises(DataError, match=r"text 2 is .*expected valid Unicode"):
        train_chars(["abc"]).encode_batch(["a", "b", bad, None])  # type: ignore[list-item]


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size is 258, expected at least 259"):
        train_bpe(SENTENCES, 258)
