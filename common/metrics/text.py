"""Metrics of generated text: BLEU with its signature, exact match, token accuracy."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from common.utils.errors import DataError


class BleuScore(NamedTuple):
    """A BLEU score and what it was computed with.

    Attributes:
        score: 0 to 100.
        signature: sacreBLEU's signature: references, case, tokenizer, smoothing, version.
    """

    score: float
    signature: str


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    lowercase: bool = False,
    tokenize: str = "13a",
) -> BleuScore:
    """BLEU of detokenised text with one reference each (Post 2018, 1804.08771).

    Args:
        hypotheses: What the model wrote.
        references: What it should have written, in the same order.
        lowercase: ``case:lc`` instead of ``case:mixed``.
        tokenize: sacreBLEU's tokenizer; ``13a`` is WMT's.

    Raises:
        DataError: if the sides have different lengths, or are empty.
    """
    from sacrebleu.metrics import BLEU

    _check_sides(hypotheses, references)
    bleu = BLEU(lowercase=lowercase, tokenize=tokenize)
    score = bleu.corpus_score(list(hypotheses), [list(references)]).score
    return BleuScore(float(score), str(bleu.get_signature()))


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of hypotheses that are their reference, character for character.

    Raises:
        DataError: if the sides have different lengths, or are empty.
    """
    _check_sides(hypotheses, references)
    same = sum(ours == theirs for ours, theirs in zip(hypotheses, references, strict=True))
    return same / len(references)


def token_accuracy(
    logits: Float[Tensor, "*N V"], target: Int[Tensor, "*N"], ignore_index: int = -100
) -> Float[Tensor, ""]:
    """The share of targets whose token has the highest logit; ``ignore_index`` does not count."""
    counts = target != ignore_index
    right = (logits.argmax(-1) == target) & counts
    return right.sum() / counts.sum().clamp(min=1)


def _check_sides(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses for {len(references)} references; expected one each"
        )
    if not references:
        raise DataError("there is nothing to compare: no hypothesis and no reference")
