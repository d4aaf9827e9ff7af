"""Greedy and beam search over any model that reads one token at a time.

The model keeps what it has read in a state (key-value caches, the encoded source), so a step
costs one token, not the whole prefix. Sentences that are finished leave the batch.

Sources: beam search as in Vaswani et al. 2017 (arXiv 1706.03762), section 6.1; length penalty of
Wu et al. 2016 (arXiv 1609.08144), equation 14.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class SearchState(Protocol):
    """What a model remembers of the rows it decodes."""

    def reorder(self, rows: Int[Tensor, "R"], sentences: Int[Tensor, "B"] | None = None) -> None:
        """Let row r continue what row ``rows[r]`` was; only ``sentences`` stay, if given."""


@runtime_checkable
class SequenceModel(Protocol):
    """A model the searches below can drive; ``Transformer`` is one."""

    def prepare(self, source: Int[Tensor, "B S"], max_len: int) -> Any:
        """Read the sources once; returns a ``SearchState`` with room for ``max_len`` tokens."""

    def step(self, tokens: Int[Tensor, "R"], state: Any) -> Float[Tensor, "R V"]:
        """Read one token per row; return the logits of the next, which a search may overwrite.

        R is a multiple of B: each group of R / B rows continues one source.
        """


def length_limits(
    source: Int[Tensor, "B S"], pad_id: int, extra: int = 50, at_most: int | None = None
) -> list[int]:
    """The paper's limit for each sentence: its length + 50 tokens, capped by ``at_most``."""
    limits = [length + extra for length in (source != pad_id).sum(dim=1).tolist()]
    return limits if at_most is None else [min(limit, at_most) for limit in limits]


def length_penalty_factor(length: int, alpha: float) -> float:
    """lp(Y) = ((5 + |Y|) / 6)^alpha, by which a hypothesis' log-probability is divided."""
    return ((5 + length) / 6) ** alpha


def top_log_probs(
    logits: Float[Tensor, "R V"], k: int, block: int = 64
) -> tuple[Float[Tensor, "R K"], Int[Tensor, "R K"]]:
    """The k largest log-probabilities of each row and their tokens (all V where V < k).

    Only the k blocks with the largest maxima can hold the k largest logits, so that the slow
    selection sees k blocks instead of the whole vocabulary. Float32 logits are overwritten.
    """
    rows, vocab_size = logits.shape
    logits = logits.float()
    blocks = vocab_size // block
    if k < blocks:
        whole = logits[:, : blocks * block].unflatten(1, (blocks, block))
        best = whole.amax(dim=-1).topk(k).indices
        inside = torch.arange(block, device=logits.device)
        behind = torch.arange(blocks * block, vocab_size, device=logits.device)
        tokens = torch.cat(
            [(best[:, :, None] * block + inside).flatten(1), behind.expand(rows, -1)], dim=1
        )
        top, chosen = logits.gather(1, tokens).topk(k)
        tokens = tokens.gather(1, chosen)
    else:
        top, tokens = logits.topk(min(k, vocab_size))
    largest = top[:, :1]
    log_sum = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True).log_() + largest
    return top - log_sum, tokens


@torch.inference_mode()
def greedy_decode(
    model: SequenceModel,
    source: Int[Tensor, "B S"],
    *,
    bos_id: int,
    eos_id: int,
    max_len: int | Sequence[int],
) -> list[list[int]]:
    """Take the most probable token at each step.

    Args:
        model: In evaluation mode (dropout is not turned off here).
        source: The sentences to decode from.
        bos_id: First token the decoder reads.
        eos_id: Token that ends a sentence.
        max_len: The most tokens to generate, for all sentences or for each
            (see ``length_limits``).

    Returns:
        The tokens of each sentence without start and end symbol. Of equally probable tokens the
        one with the lowest number is taken.

    Raises:
        ValueError: ``max_len`` is below 1 or has another length than ``source``.
    """
    limits = _limits(max_len, len(source))
    if not limits:
        return []
    state = model.prepare(source, max(limits))
    decoded: list[list[int]] = [[] for _ in limits]
    active = list(range(len(limits)))
    tokens = source.new_full((len(source),), bos_id)
    while True:
        tokens = model.step(tokens, state).argmax(dim=-1)
        going = []
        for row, token in enumerate(tokens.tolist()):
            sentence = active[row]
            if token != eos_id:
                decoded[sentence].append(token)
                if len(decoded[sentence]) < limits[sentence]:
                    going.append(row)
        if not going:
            return decoded
        if len(going) < len(active):
            rows = torch.tensor(going, device=source.device)
            state.reorder(rows, rows)
            tokens = tokens[rows]
            active = [active[row] for row in going]


@torch.inference_mode()
def beam_search(
    model: SequenceModel,
    source: Int[Tensor, "B S"],
    *,
    bos_id: int,
    eos_id: int,
    beam_size: int = 4,
    length_penalty: float = 0.6,
    max_len: int | Sequence[int],
) -> list[list[int]]:
    """Keep the ``beam_size`` most probable hypotheses at each step.

    A hypothesis that ends leaves its place, and the best one that ended, by log-probability
    divided by lp(Y), is kept; |Y| counts the end symbol. A sentence is done when no living
    hypothesis can still beat it, even at the length its limit allows, so stopping early never
    changes the result. Where nothing has ended at the limit, the most probable hypothesis is
    returned as it stands. With ``beam_size=1`` this is greedy search.

    Args:
        model: In evaluation mode (dropout is not turned off here).
        source: The sentences to decode from.
        bos_id: First token the decoder reads.
        eos_id: Token that ends a sentence.
        beam_size: Hypotheses kept per sentence (the paper: 4).
        length_penalty: The exponent alpha (the paper: 0.6); 0 compares plain log-probabilities.
        max_len: The most tokens to generate, for all sentences or for each
            (see ``length_limits``).

    Returns:
        The best hypothesis of each sentence without start and end symbol. Equal scores are
        ordered by hypothesis, then by token.

    Raises:
        ValueError: ``beam_size`` or ``max_len`` is below 1, ``length_penalty`` below 0, or
            ``max_len`` has another length than ``source``.
    """
    if beam_size < 1 or length_penalty < 0:
        raise ValueError(
            f"beam_size is {beam_size} and length_penalty is {length_penalty}: "
            f"expected at least 1 and at least 0"
        )
    limits = _limits(max_len, len(source))
    if not limits:
        return []
    state = model.prepare(source, max(limits))
    searches = [_SentenceBeam(bos_id, eos_id, beam_size, length_penalty, limit) for limit in limits]
    active = searches
    while True:
        beams = [hypothesis for search in active for hypothesis in search.beam]
        tokens = torch.tensor([tokens[-1] for _, _, tokens in beams], device=source.device)
        scores = torch.tensor([score for score, _, _ in beams], device=source.device)
        log_probs, candidates = top_log_probs(model.step(tokens, state), beam_size)
        # The best of a sentence are among the best of each of its places in the beam.
        totals = (log_probs + scores[:, None]).view(len(active), -1)
        top_scores, places = totals.topk(beam_size)
        top_tokens = candidates.view(len(active), -1).gather(1, places)
        parents = places // candidates.shape[1]

        found = torch.stack([parents, top_tokens], dim=-1).tolist()
        for search, values, indices in zip(active, top_scores.tolist(), found, strict=True):
            search.advance(values, indices)
        going = [i for i, search in enumerate(active) if not search.done]
        if not going:
            return [search.best for search in searches]
        rows = [i * beam_size + parent for i in going for _, parent, _ in active[i].beam]
        shrinks = len(going) < len(active)
        if shrinks or rows != list(range(len(rows))):
            state.reorder(
                torch.tensor(rows, device=source.device),
                torch.tensor(going, device=source.device) if shrinks else None,
            )
        active = [active[i] for i in going]


class _Hypothesis(NamedTuple):
    score: float  # log-probability of its tokens
    parent: int  # its place in the beam one step before
    tokens: list[int]  # with the start symbol


class _SentenceBeam:
    """The search of one sentence: its living hypotheses and the best one that has ended."""

    def __init__(self, bos_id: int, eos_id: int, beam_size: int, alpha: float, limit: int) -> None:
        self.eos_id = eos_id
        self.alpha = alpha
        self.limit = limit
        self.done = False
        self.best: list[int] = []
        self.best_score = -math.inf
        # An empty place has the score -inf; at first only one is taken.
        self.beam = [
            _Hypothesis(-math.inf if place else 0.0, 0, [bos_id]) for place in range(beam_size)
        ]

    def advance(self, scores: list[float], candidates: list[list[int]]) -> None:
        """Take the top candidates, each a place in the beam and a token to put behind it."""
        living = []
        for score, (parent, token) in sorted(zip(scores, candidates, strict=True), key=_best_first):
            if score == -math.inf:
                break
            tokens = self.beam[parent].tokens
            if token != self.eos_id:
                living.append(_Hypothesis(score, parent, [*tokens, token]))
            elif self._penalised(score, len(tokens)) > self.best_score:
                self.best, self.best_score = tokens[1:], self._penalised(score, len(tokens))
        if not living:
            self.done = True
            return

        first = living[0]
        length = len(first.tokens) - 1
        if length == self.limit:
            self.done = True
            if self.best_score == -math.inf:
                self.best = first.tokens[1:]
            return
        # A log-probability only falls; at best it stays, and the limit is the kindest divisor.
        self.done = self._penalised(first.score, self.limit) <= self.best_score
        empty = first._replace(score=-math.inf)
        self.beam = living + [empty] * (len(self.beam) - len(living))

    def _penalised(self, score: float, length: int) -> float:
        return score / length_penalty_factor(length, self.alpha)


def _best_first(candidate: tuple[float, list[int]]) -> tuple[float, list[int]]:
    score, place_and_token = candidate
    return -score, place_and_token


def _limits(max_len: int | Sequence[int], sentences: int) -> list[int]:
    limits = [max_len] * sentences if isinstance(max_len, int) else list(max_len)
    if len(limits) != sentences:
        raise ValueError(f"max_len has {len(limits)} limits for {sentences} sentences")
    if any(limit < 1 for limit in limits):
        raise ValueError(f"max_len is {min(limits)} for a sentence: expected at least 1")
    return limits
