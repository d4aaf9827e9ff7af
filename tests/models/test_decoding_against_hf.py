"""The same tokens as Hugging Face ``generate`` from a MarianMT with our weights."""

import pytest
import torch

from common.models import beam_search, greedy_decode

pytest.importorskip("transformers")

from benchmarks.decoding import (
    BOS,
    PAD,
    hf_generate,
    marian_like,
    our_generate,
    random_sources,
    talkative_transformer,
)

VOCAB_SIZE, EOS = 40, 2


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(5)
    ours = talkative_transformer(VOCAB_SIZE, 32, 4, 2, sharpness=2.0)
    with torch.no_grad():
        ours.output_weight[EOS] *= 3  # sentences end early, one way or another
    return ours, marian_like(ours)


@torch.no_grad()
def test_both_compute_the_same_logits(models) -> None:
    ours, theirs = models
    source, target = random_sources(5, VOCAB_SIZE, 3, 9), torch.randint(3, VOCAB_SIZE, (5, 7))
    expected = theirs(source, (source != PAD).long(), decoder_input_ids=target).logits
    torch.testing.assert_close(ours(source, target), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("beam_size", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 6])
def test_sentences_of_fixed_length_are_the_same(models, batch_size: int, beam_size: int) -> None:
    ours, theirs = models
    torch.manual_seed(105)
    source = random_sources(batch_size, VOCAB_SIZE, 3, 9)
    found = our_generate(ours, source, 20, beam_size)
    assert found == hf_generate(theirs, source, 20, beam_size)
    assert len({token for tokens in found for token in tokens}) > 3


@pytest.mark.parametrize("beam_size", [1, 2, 4, 5])
def test_sentences_that_end_are_the_same(models, beam_size: int) -> None:
    """Summed log-probabilities, and a limit that none reaches: there the rules agree."""
    ours, theirs = models
    torch.manual_seed(105)
    source = random_sources(12, VOCAB_SIZE, 3, 9)
    beams = {"num_beams": beam_size, "length_penalty": 0.0, "early_stopping": "never"}
    output = theirs.generate(
        source,
        attention_mask=(source != PAD).long(),
        max_new_tokens=60,
        do_sample=False,
        eos_token_id=EOS,
        **(beams if beam_size > 1 else {}),
    )
    expected = [tokens[: tokens.index(EOS)] for tokens in output[:, 1:].tolist()]
    options = {"bos_id": BOS, "eos_id": EOS, "max_len": 60}
    if beam_size == 1:
        found = greedy_decode(ours, source, **options)
    else:
        found = beam_search(ours, source, beam_size=beam_size, length_penalty=0.0, **options)
    assert found == expected
    assert len({len(tokens) for tokens in found}) > 2
