"""BLEU against sacreBLEU's own published behaviour, and simple text metrics by hand."""

import math

import pytest
import torch

from common.metrics import corpus_bleu, exact_match, token_accuracy
from common.utils.errors import DataError


def test_bleu_of_a_copy_is_100_and_says_how_it_was_computed() -> None:
    text = ["Ein Hund läuft durch den Schnee.", "Zwei Männer stehen am Herd."]
    bleu = corpus_bleu(text, text)
    assert bleu.score == pytest.approx(100.0)
    assert "case:mixed" in bleu.signature
    assert "tok:13a" in bleu.signature
    assert "case:lc" in corpus_bleu(text, text, lowercase=True).signature


def test_bleu_is_the_geometric_mean_times_the_brevity_penalty() -> None:
    """By hand: 5 of 6 words, precisions 5/5, 4/4, 3/3, 2/2, brevity exp(1 - 6/5)."""
    bleu = corpus_bleu(["a b c d e"], ["a b c d e f"])
    assert bleu.score == pytest.approx(100 * math.exp(1 - 6 / 5), rel=1e-6)


def test_case_counts_only_when_asked() -> None:
    hypotheses, references = ["the cat sat on the mat"], ["The Cat sat on the mat"]
    assert corpus_bleu(hypotheses, references).score < 100
    assert corpus_bleu(hypotheses, references, lowercase=True).score == pytest.approx(100)


def test_exact_match_counts_whole_strings() -> None:
    assert exact_match(["a", "b", "c "], ["a", "b", "c"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", [corpus_bleu, exact_match])
def test_sides_of_unequal_length_are_refused(metric) -> None:
    with pytest.raises(DataError, match="2 hypotheses for 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(DataError, match="nothing to compare"):
        metric([], [])


def test_token_accuracy_leaves_out_what_does_not_count() -> None:
    logits = torch.eye(4)[None]
    target = torch.tensor([[0, 1, 3, -100]])
    assert token_accuracy(logits, target).item() == pytest.approx(2 / 3)
    assert token_accuracy(logits, torch.full((1, 4), -100)).item() == 0.0
