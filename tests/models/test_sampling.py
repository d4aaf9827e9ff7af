"""Sampling: each filter against transformers' own, and the text against drawing it by hand."""

import pytest
import torch

from common.models import GPT, filter_logits, sample, top_k_filter, top_p_filter
from common.utils.errors import ConfigError, DataError


def logits(rows: int = 16, vocab: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * 3


def model(max_len: int = 12) -> GPT:
    torch.manual_seed(0)
    return GPT(30, 32, 4, 2, max_len, dropout=0.5).eval()


@pytest.mark.parametrize("k", [1, 5, 50, 80])
def test_top_k_keeps_what_transformers_keeps(k: int) -> None:
    process = pytest.importorskip("transformers").generation
    expected = process.TopKLogitsWarper(k)(None, logits().clone())
    assert top_k_filter(logits(), k).equal(expected)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_keeps_what_transformers_keeps(p: float) -> None:
    process = pytest.importorskip("transformers").generation
    expected = process.TopPLogitsWarper(p)(None, logits().clone())
    assert top_p_filter(logits(), p).equal(expected)


def test_all_filters_follow_each_other_as_in_transformers() -> None:
    process = pytest.importorskip("transformers").generation
    expected = process.TemperatureLogitsWarper(0.7)(None, logits().clone())
    expected = process.TopKLogitsWarper(20)(None, expected)
    expected = process.TopPLogitsWarper(0.8)(None, expected)
    assert filter_logits(logits(), 0.7, 20, 0.8).equal(expected)


def test_the_nucleus_is_the_smallest_set_of_at_least_p() -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    kept = top_p_filter(probabilities.log(), 0.6).isfinite()
    assert kept.tolist() == [[False, True, False, True]]
    assert top_p_filter(probabilities.log(), 1.0).isfinite().all()


@pytest.mark.parametrize("length", [3, 12, 15])
def test_a_greedy_text_is_the_one_computed_anew_at_every_token(length: int) -> None:
    gpt = model()
    prompt = torch.randint(30, (2, length))
    expected = prompt
    for _ in range(20):  # past the context, whose last 12 tokens are then all there is
        with torch.no_grad():
            following = gpt(expected[:, -12:])[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, following], 1)
    assert sample(gpt, prompt, 20, temperature=0.0).equal(expected)


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    gpt = model()
    prompt = torch.tensor([[1, 2, 3]]).expand(4000, 3)
    with torch.no_grad():
        expected = gpt(prompt[:1])[0, -1].div(0.5).softmax(-1)
    drawn = sample(gpt, prompt, 1, temperature=0.5, generator=torch.Generator().manual_seed(0))
    frequencies = drawn[:, -1].bincount(minlength=30) / 4000
    torch.testing.assert_close(frequencies, expected, atol=0.02, rtol=0)


def test_the_same_generator_gives_the_same_text() -> None:
    gpt, prompt = model(), torch.zeros(1, 2, dtype=torch.long)

    def text(seed: int) -> torch.Tensor:
        return sample(gpt, prompt, 30, top_k=20, generator=torch.Generator().manual_seed(seed))

    assert text(1).equal(text(1))
    assert not text(1).equal(text(2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample(model(), torch.zeros(1, 1, dtype=torch.long), 1, **values)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="no token"):
        sample(model(), torch.zeros(1, 0, dtype=torch.long), 1)
