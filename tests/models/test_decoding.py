"""Greedy and beam search against exhaustive and naive searches, and what finished rows cost."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from common.models import (
    Transformer,
    beam_search,
    decoding,
    greedy_decode,
    length_limits,
    length_penalty_factor,
)
from common.models.decoding import top_log_probs

PAD, BOS, EOS = 0, 1, 2
SYMBOLS = {"bos_id": BOS, "eos_id": EOS}


def peaked_transformer(vocab_size: int, seed: int, sharpness: float = 3.0) -> Transformer:
    """A random model sure enough of itself that its best sentences differ in length."""
    torch.manual_seed(seed)
    model = Transformer(vocab_size, 16, 2, 1, 2, 32, norm="pre").eval()
    with torch.no_grad():
        model.decoder_norm.weight.mul_(sharpness)
        for layer in model.decoder:  # past and source matter, so that confusing rows shows
            layer.attention.out_proj.weight.mul_(4)
            layer.cross_attention.out_proj.weight.mul_(4)
    return model


def sentences(vocab_size: int, *lengths: int) -> Tensor:
    rows = [torch.randint(3, vocab_size, (length,)) for length in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


@torch.no_grad()
def log_probabilities(model: Transformer, source: Tensor, ended: list[list[int]]) -> list[float]:
    """Of each of ``ended`` (which ends with the end symbol), in one uncached pass."""
    targets = nn.utils.rnn.pad_sequence(
        [torch.tensor([BOS, *tokens]) for tokens in ended], batch_first=True, padding_value=-1
    )
    inputs, outputs = targets[:, :-1].clamp(min=PAD), targets[:, 1:]
    log_probs = model(source.expand(len(ended), -1), inputs).log_softmax(-1)
    scores = log_probs.gather(-1, outputs.clamp(min=0)[..., None]).squeeze(-1)
    return scores.where(outputs >= 0, 0.0).sum(-1).tolist()


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_sequences(alpha: float) -> None:
    vocab_size, longest = 5, 4  # with the end symbol
    others = [token for token in range(vocab_size) if token != EOS]
    every = [
        [*tokens, EOS]
        for length in range(longest)
        for tokens in itertools.product(others, repeat=length)
    ]
    lengths = set()
    for seed in range(6):
        model = peaked_transformer(vocab_size, seed)
        source = sentences(vocab_size, 3, 5)
        options = {"beam_size": 350, "length_penalty": alpha, "max_len": longest}
        found = beam_search(model, source, **SYMBOLS, **options)
        for row, tokens in zip(source, found, strict=True):
            penalised = {
                tuple(y[:-1]): score / length_penalty_factor(len(y), alpha)
                for y, score in zip(
                    every, log_probabilities(model, row[row != PAD][None], every), strict=True
                )
            }
            assert tuple(tokens) == max(penalised, key=penalised.__getitem__)
            lengths.add(len(tokens))
    assert len(lengths) > 1


@torch.no_grad()
def naive_beam_search(
    model: Transformer, source: Tensor, beam_size: int, alpha: float, limit: int
) -> list[int]:
    """One sentence, no cache, no early stop, every candidate sorted."""
    living: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, limit + 1):
        target = torch.tensor([[BOS, *tokens] for _, tokens in living])
        logits = model(source.expand(len(living), -1), target)[:, -1]
        candidates = [
            (score + log_prob, [*tokens, token])
            for (score, tokens), row in zip(living, logits.log_softmax(-1).tolist(), strict=True)
            for token, log_prob in enumerate(row)
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        ended += [
            (score / length_penalty_factor(length, alpha), tokens[:-1])
            for score, tokens in candidates[:beam_size]
            if tokens[-1] == EOS
        ]
        living = [candidate for candidate in candidates if candidate[1][-1] != EOS][:beam_size]
    return max(ended)[1] if ended else living[0][1]


@pytest.mark.parametrize(("beam_size", "alpha"), [(2, 0.6), (3, 0.0), (4, 0.6), (5, 1.5)])
def test_batched_cached_search_that_stops_early_equals_a_naive_one(
    beam_size: int, alpha: float
) -> None:
    source_lengths, limits = (3, 5, 2, 4, 7, 6, 1, 9), [4, 12, 9, 1, 12, 12, 12, 12]
    found_lengths = set()
    for seed in (2, 3):
        model = peaked_transformer(12, seed, sharpness=1.5)
        source = sentences(12, *source_lengths)
        found = beam_search(
            model, source, **SYMBOLS, beam_size=beam_size, length_penalty=alpha, max_len=limits
        )
        for row, tokens, limit in zip(source, found, limits, strict=True):
            naive = naive_beam_search(model, row[row != PAD][None], beam_size, alpha, limit)
            assert tokens == naive
        found_lengths |= {len(tokens) for tokens in found}
    assert len(found_lengths) > 2


def test_an_ended_hypothesis_gives_its_place_to_the_next_best() -> None:
    # The beam of two is [end (.5), 0 (.3)] at first. 3 (.2) is third, but 0 leads on with 1 only
    # in halves, and 3 surely: .2 beats .15.
    chain = Chain([0.5, 0.0, 0.5, 0.0], [0.3, 0.0, 0.5, 0.2], NOTHING, [0.0, 0.0, 1.0, 0.0])
    options = {"beam_size": 2, "length_penalty": 8.0, "max_len": 2}
    assert beam_search(chain, source_of(1), **SYMBOLS, **options) == [[3]]


@pytest.mark.parametrize("search", [greedy_decode, beam_search])
def test_how_often_the_host_looks_changes_no_token(
    search: Callable[..., list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = peaked_transformer(30, seed=3, sharpness=1.0)
    source = sentences(30, *range(1, 17))
    limits = length_limits(source, PAD, extra=10)
    expected = search(model, source, **SYMBOLS, max_len=limits)
    monkeypatch.setattr(
        decoding, "_steps_until_a_look", lambda _, length, limits: min(7, max(limits) - length)
    )
    assert search(model, source, **SYMBOLS, max_len=limits) == expected
    assert len({len(tokens) for tokens in expected}) > 3


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_beam_of_one_is_greedy_search(alpha: float) -> None:
    model = peaked_transformer(30, seed=3, sharpness=1.0)
    source = sentences(30, *range(1, 17))
    limits = length_limits(source, PAD, extra=10)
    greedy = greedy_decode(model, source, **SYMBOLS, max_len=limits)
    beam = beam_search(model, source, **SYMBOLS, beam_size=1, length_penalty=alpha, max_len=limits)
    assert beam == greedy
    assert len({len(tokens) for tokens in greedy}) > 3


@pytest.mark.parametrize("search", [greedy_decode, beam_search])
def test_a_batch_of_one_equals_a_batch_of_many(search: Callable[..., list[list[int]]]) -> None:
    model = peaked_transformer(30, seed=4, sharpness=1.0)
    source = sentences(30, 4, 1, 9, 6, 2, 12)
    limits = length_limits(source, PAD, extra=3)
    together = search(model, source, **SYMBOLS, max_len=limits)
    for row, tokens, limit in zip(source, together, limits, strict=True):
        assert search(model, row[row != PAD][None], **SYMBOLS, max_len=limit) == [tokens]


class Chain:
    """A first-order Markov chain: the next token depends on the last one alone."""

    def __init__(self, *probabilities: list[float]) -> None:
        self.logits = torch.tensor(probabilities).log()
        self.rows: list[int] = []

    def prepare(self, source: Tensor, max_len: int) -> "Chain":
        return self

    def reorder(self, rows: Tensor, sentences: Tensor | None = None) -> None:
        pass

    def step(self, tokens: Tensor, state: "Chain") -> Tensor:
        self.rows.append(len(tokens))
        return self.logits[tokens]


NOTHING = [0.25, 0.25, 0.25, 0.25]


def source_of(count: int) -> Tensor:
    return torch.full((count, 1), 3)


def test_greedy_falls_for_the_first_step_and_a_beam_does_not() -> None:
    # From the start symbol: token 0 (.6) leads to the end with .4, token 3 (.4) with .9.
    chain = Chain([0.3, 0.0, 0.4, 0.3], [0.6, 0.0, 0.0, 0.4], NOTHING, [0.1, 0.0, 0.9, 0.0])
    assert greedy_decode(chain, source_of(1), **SYMBOLS, max_len=9) == [[0]]
    assert beam_search(chain, source_of(1), **SYMBOLS, beam_size=2, max_len=9) == [[3]]


def test_the_length_penalty_can_prefer_a_longer_sentence() -> None:
    # log .5 at once, or .5 * .5 * .9 two tokens later.
    chain = Chain([0.0, 0.0, 0.1, 0.9], [0.5, 0.0, 0.5, 0.0], NOTHING, [0.0, 0.0, 1.0, 0.0])
    for alpha, expected in ((0.0, []), (3.0, [0, 3])):
        options = {"beam_size": 3, "length_penalty": alpha, "max_len": 5}
        assert beam_search(chain, source_of(1), **SYMBOLS, **options) == [expected]


@pytest.mark.parametrize(("vocab_size", "k"), [(3, 5), (64, 4), (1000, 5), (1024, 16), (700, 10)])
def test_top_log_probs_equal_those_of_the_whole_vocabulary(vocab_size: int, k: int) -> None:
    logits = torch.randn(50, vocab_size)
    values, tokens = top_log_probs(logits.clone(), k)
    expected = logits.log_softmax(-1).topk(min(k, vocab_size))
    assert torch.equal(tokens, expected.indices)
    torch.testing.assert_close(values, expected.values)


def test_length_penalty_factor_is_the_formula_of_wu_et_al() -> None:
    assert length_penalty_factor(1, 0.6) == 1.0
    assert length_penalty_factor(13, 0.6) == pytest.approx(3**0.6)
    assert length_penalty_factor(13, 0.0) == 1.0


def test_the_search_stops_when_no_hypothesis_can_still_win() -> None:
    # The end has .9 at once; whatever lives has at most log .1 and can only fall.
    chain = Chain([1.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.9, 0.0], NOTHING, NOTHING)
    assert beam_search(chain, source_of(2), **SYMBOLS, beam_size=2, max_len=50) == [[], []]
    assert len(chain.rows) == 1
    # With a strong penalty a living hypothesis of 50 tokens could still win: it is followed.
    assert beam_search(
        chain, source_of(1), **SYMBOLS, beam_size=2, length_penalty=2.0, max_len=50
    ) == [[]]
    assert len(chain.rows) == 1 + 50


@pytest.mark.parametrize(("search", "per_sentence"), [(greedy_decode, 1), (beam_search, 4)])
def test_finished_sentences_leave_the_batch(
    search: Callable[..., list[list[int]]], per_sentence: int
) -> None:
    never = Chain([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], NOTHING, NOTHING)
    found = search(never, source_of(3), **SYMBOLS, max_len=[1, 4, 2])
    assert found == [[0], [0, 0, 0, 0], [0, 0]]
    assert never.rows == [rows * per_sentence for rows in (3, 2, 1, 1)]


@pytest.mark.parametrize("search", [greedy_decode, beam_search])
def test_equally_probable_tokens_are_ordered_by_number(
    search: Callable[..., list[list[int]]],
) -> None:
    chain = Chain([0.5, 0.0, 0.0, 0.5], [0.5, 0.0, 0.0, 0.5], NOTHING, [0.5, 0.0, 0.0, 0.5])
    assert search(chain, source_of(2), **SYMBOLS, max_len=3) == [[0, 0, 0]] * 2


def test_limits_are_the_papers_and_can_be_capped() -> None:
    source = torch.tensor([[5, 6, 7], [5, PAD, PAD]])
    assert length_limits(source, PAD) == [53, 51]
    assert length_limits(source, PAD, extra=10, at_most=12) == [12, 11]


@pytest.mark.parametrize("search", [greedy_decode, beam_search])
def test_an_empty_batch_gives_nothing_and_wrong_limits_are_refused(
    search: Callable[..., list[list[int]]],
) -> None:
    chain = Chain(NOTHING, NOTHING, NOTHING, NOTHING)
    assert search(chain, source_of(0), **SYMBOLS, max_len=5) == []
    with pytest.raises(ValueError, match="max_len has 2 limits for 3 sentences"):
        search(chain, source_of(3), **SYMBOLS, max_len=[1, 2])
    with pytest.raises(ValueError, match="max_len is 0"):
        search(chain, source_of(1), **SYMBOLS, max_len=0)


def test_no_beam_and_a_negative_penalty_are_refused() -> None:
    for options in ({"beam_size": 0}, {"length_penalty": -0.5}):
        with pytest.raises(ValueError, match="expected at least 1 and at least 0"):
            beam_search(Chain(NOTHING), source_of(1), **SYMBOLS, **options, max_len=5)


def test_the_score_of_an_empty_place_never_wins() -> None:
    # More places than candidates: the spare ones must not bring sentences of their own.
    chain = Chain([0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], NOTHING, NOTHING)
    assert beam_search(chain, source_of(1), **SYMBOLS, beam_size=8, max_len=5) == [[0]]
    assert math.isinf(chain.logits.min())
