"""Translate sentences and score them: beam search in batches, detokenised BLEU (section 6.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.config import option
from common.data.orders import BucketedBatches
from common.data.pairs import pad_batch
from common.data.tokenization import Tokenizer
from common.metrics import corpus_bleu, exact_match
from common.models import beam_search, greedy_decode, length_limits
from papers.attention_is_all_you_need.model import TranslationTask

_PLACES = 2000  # source places decoded at a time, per hypothesis


@dataclass
class DecodeConfig:
    """How a translation is searched for (6.1)."""

    beam_size: int = option("hypotheses kept per sentence; 1 is greedy", 4, ge=1)
    length_penalty: float = option("alpha of the length penalty ((5 + |Y|) / 6)^alpha", 0.6, ge=0)
    extra_length: int = option(
        "a translation has at most this many tokens more than its source", 50, ge=1
    )


def translate(
    task: TranslationTask, tokenizer: Tokenizer, sentences: Sequence[str], config: DecodeConfig
) -> list[str]:
    """Translate sentences; they come back in the order they were given.

    Sentences of similar length are decoded together; the result does not depend on it.
    """
    if not sentences:
        return []
    task.eval()
    model, device = task.model, next(task.parameters()).device
    encoded = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(sentences)]
    encoded = [
        ids[: model.max_len - 1] + ids[-1:] if len(ids) > model.max_len else ids for ids in encoded
    ]
    symbols = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    results = [""] * len(sentences)
    places = max(_PLACES // config.beam_size, 1)
    for rows in BucketedBatches([len(ids) for ids in encoded], places, shuffle=False)(0):
        source = pad_batch([encoded[i] for i in rows], tokenizer.pad_id).to(device)
        limits = length_limits(source, tokenizer.pad_id, config.extra_length, model.max_len - 1)
        if config.beam_size == 1:
            outputs = greedy_decode(model, source, max_len=limits, **symbols)
        else:
            outputs = beam_search(
                model,
                source,
                beam_size=config.beam_size,
                length_penalty=config.length_penalty,
                max_len=limits,
                **symbols,
            )
        for row, output in zip(rows, outputs, strict=True):
            results[row] = tokenizer.decode(output)
    return results


def score(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], str]:
    """Exact match, and BLEU of detokenised text with and without case.

    Returns:
        The metrics by name, and the signature of ``test/bleu``.
    """
    mixed = corpus_bleu(hypotheses, references)
    lowercase = corpus_bleu(hypotheses, references, lowercase=True)
    metrics = {
        "test/bleu": mixed.score,
        "test/bleu_lc": lowercase.score,
        "test/exact_match": exact_match(hypotheses, references),
    }
    return metrics, mixed.signature
