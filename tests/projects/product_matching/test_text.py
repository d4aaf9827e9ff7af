"""Titles as vectors: what scikit-learn says, what a file holds, what a transformer computes."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer

from common.data.embedded import digit_products
from common.utils.checkpoint import load_checkpoint, save_checkpoint
from common.utils.errors import CheckpointError, ConfigError, DataError
from projects.product_matching.core.config import TextConfig
from projects.product_matching.core.text.encoders import build_text_encoder, text_encoder_of

TITLES = digit_products.make()["train"]["title"]


def _config(**values: Any) -> TextConfig:
    return TextConfig(**{"mode": "union", **values})


def _many_words(count: int) -> list[str]:
    """Titles of words that are all different at random."""
    letters = np.random.default_rng(0).integers(97, 123, (count, 4, 7))
    return [" ".join("".join(map(chr, word)) for word in title) for title in letters]


@pytest.mark.parametrize("analyzer", ["word", "char_wb"])
def test_tfidf_is_what_scikit_learn_computes(analyzer: str) -> None:
    encoder = build_text_encoder(_config(analyzer=analyzer, ngrams=[1, 2]), TITLES)
    peer = TfidfVectorizer(
        analyzer=analyzer, ngram_range=(1, 2), strip_accents="unicode", sublinear_tf=True
    )
    expected = peer.fit_transform(TITLES).toarray()
    np.testing.assert_allclose(encoder.encode(TITLES).numpy(), expected, atol=1e-6)


def test_case_and_accents_do_not_matter_and_titles_that_say_nothing_match_nothing() -> None:
    encoder = build_text_encoder(_config(), TITLES)
    rows = encoder.encode(["item seven", "ITEM séven", "", "?!", "日本"])
    assert torch.equal(rows[0], rows[1])
    assert rows.norm(dim=1).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0, 0.0])
    assert encoder.encode([]).shape == (0, rows.shape[1])


def test_many_terms_are_projected_and_cosines_stay() -> None:
    titles = _many_words(500)
    halves = [f"{title[:15]} {other}" for title, other in itertools.pairwise(titles)]
    config = _config(max_features=20_000)
    encoder = build_text_encoder(config, titles)
    found = encoder.encode([*titles[:200], *halves[:200]])
    assert found.shape == (400, 1024)
    peer = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 4),
        max_features=20_000,
        strip_accents="unicode",
        sublinear_tf=True,
    ).fit(titles)
    exact = peer.transform([*titles[:200], *halves[:200]])
    assert exact.shape[1] > 10_000
    error = (found @ found.T).numpy() - (exact @ exact.T).toarray()
    assert np.sqrt((error**2).mean()) < 0.04
    assert abs(error.mean()) < 0.004


@pytest.mark.parametrize("titles", [TITLES, _many_words(300)], ids=["plain", "projected"])
def test_a_file_of_plain_values_brings_the_encoder_back(titles: list[str], tmp_path: Path) -> None:
    encoder = build_text_encoder(_config(), titles)
    save_checkpoint(encoder.state(), tmp_path / "titles.pt")
    back = text_encoder_of(load_checkpoint(tmp_path / "titles.pt"))
    asked = [*titles[:20], "something else", ""]
    assert torch.equal(back.encode(asked), encoder.encode(asked))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoder": "tfid"}, "did you mean 'tfidf'"),
        ({"analyzer": "eval"}, "analyzer is 'eval'"),
        ({"ngrams": [3, 2]}, "ngrams is"),
        ({"ngrams": [1, 10**9]}, "ngrams is"),
        ({"vocabulary": None}, "no vocabulary"),
        ({"vocabulary": ["a", "a"]}, "names a term twice"),
        ({"vocabulary": ["a", 1]}, "more than text"),
        ({"idf": torch.ones(3)}, "no weight for each"),
        ({"idf": None}, "no weight for each"),
    ],
)
def test_a_changed_file_is_refused(change: dict[str, Any], expected: str) -> None:
    state = build_text_encoder(_config(), TITLES).state()
    with pytest.raises(CheckpointError, match=expected):
        text_encoder_of(state | change)


def test_weights_and_projections_that_are_none_are_refused() -> None:
    state = build_text_encoder(_config(), _many_words(300)).state()
    signs = state["projection"]
    far = signs["columns"].clone()
    far[5] = 10**7  # SciPy would read outside of its memory
    short = signs["ends"][:-1]
    broken = [
        state | {"idf": state["idf"] * torch.nan},
        state | {"projection": None},
        state | {"projection": {}},
        state | {"projection": signs | {"columns": far}},
        state | {"projection": signs | {"ends": short}},
        state | {"projection": signs | {"values": signs["values"] * torch.inf}},
    ]
    for each in broken:
        with pytest.raises(CheckpointError, match="the TF-IDF of titles is damaged"):
            text_encoder_of(each)


def test_titles_without_a_word_are_one_line() -> None:
    with pytest.raises(DataError, match="none of 3 titles has a word to learn from"):
        build_text_encoder(_config(), ["", "?!", " "])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "item", "seven", "with", "a", "lot"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(
        vocab={word: number for number, word in enumerate(words)}, do_lower_case=True
    ).save_pretrained(folder)
    torch.manual_seed(0)
    network = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
        )
    )
    network.save_pretrained(folder)
    return folder


def test_a_transformer_gives_the_mean_over_the_tokens_of_a_title(bert: Path) -> None:
    import transformers

    config = _config(encoder="transformers", model=str(bert), batch_size=2)
    titles = ["item seven", "", "lot " * 40, "a lot with seven", "item"]
    found = build_text_encoder(config, []).encode(titles)
    network = transformers.BertModel.from_pretrained(bert).eval()
    number = {"item": 5, "seven": 6, "with": 7, "a": 8, "lot": 9}
    for title, row in zip(titles, found, strict=True):
        ids = [2, *[number[word] for word in title.split()][:14], 3]
        with torch.inference_mode():
            states = network(torch.tensor([ids])).last_hidden_state[0]
        expected = F.normalize(states.mean(0), dim=0) if title else torch.zeros(16)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_a_matcher_keeps_the_name_of_a_transformer_and_knows_another(
    bert: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    copy.mkdir()
    for file in bert.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    state = build_text_encoder(_config(encoder="transformers", model=str(copy)), []).state()
    assert torch.equal(
        text_encoder_of(state).encode(["a lot"]),
        build_text_encoder(_config(encoder="transformers", model=str(bert)), []).encode(["a lot"]),
    )
    weights = load_file(copy / "model.safetensors")
    weights["pooler.dense.bias"] += 1.0
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="are not those the matcher was made with"):
        text_encoder_of(state)
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no model that can be read"):
        text_encoder_of(state)


def test_a_transformer_without_the_library_names_the_extra(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs transformers: uv pip install -e .*\[text\]"):
        build_text_encoder(_config(encoder="transformers", model=str(bert)), [])
