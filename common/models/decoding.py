"""Greedy and beam search over any model that reads one token at a time.

The model keeps what it has read in a state (key-value caches, the encoded source), so a step
costs one token, not the whole prefix. Sentences that are finished leave the batch. Everything a
step decides stays on the device; the host looks at it after every step on a CPU, else after
every eighth.

Sources: beam search as in Vaswani et al. 2017 (arXiv 1706.03762), section 6.1; length penalty of
Wu et al. 2016 (arXiv 1609.08144), equation 14.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class SearchState(Protocol):
    """What a model remembers of the rows it decodes."""

    def reorder(self, rows: Int[Tensor, "R"], sentences: Int[Tensor, "B"] | None = None) -> None:
        """Let row r continue what row ``rows[r]`` of its sentence was; only ``sentences`` stay."""


@runtime_checkable
class SequenceModel(Protocol):
    """A model the searches below can drive; ``Transformer`` is one."""

    def prepare(self, source: Int[Tensor, "B S"], max_len: int) -> Any:
        """Read the sources once; returns a ``SearchState`` with room for ``max_len`` tokens."""

    def step(self, tokens: Int[Tensor, "R"], state: Any) -> Float[Tensor, "R V"]:
        """Read one token per row; return the logits of the next.

        R is a multiple of B: each group of R / B rows continues one source.
        """


_STEPS_BETWEEN_LOOKS = 8  # where the host would have to wait for the device


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

    Only the k blocks with the largest maxima can hold the k largest, so that the slow selection
    sees k blocks instead of the whole vocabulary.
    """
    rows, vocab_size = logits.shape
    log_probs = logits.log_softmax(dim=-1, dtype=torch.float32)
    blocks = vocab_size // block
    if k >= blocks:
        top = log_probs.topk(min(k, vocab_size))
        return top.values, top.indices
    whole = log_probs[:, : blocks * block].unflatten(1, (blocks, block))
    best = whole.amax(dim=-1).topk(k).indices
    inside = torch.arange(block, device=logits.device)
    behind = torch.arange(blocks * block, vocab_size, device=logits.device)
    tokens = torch.cat(
        [(best[:, :, None] * block + inside).flatten(1), behind.expand(rows, -1)], dim=1
    )
    values, chosen = log_probs.gather(1, tokens).topk(k)
    return values, tokens.gather(1, chosen)


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
    length = 0
    while True:
        steps = _steps_until_a_look(source.device, length, [limits[i] for i in active])
        length += steps
        read = []
        for _ in range(steps):
            tokens = model.step(tokens, state).argmax(dim=-1)
            read.append(tokens)
        going = []
        for row, (i, new) in enumerate(zip(active, torch.stack(read, 1).tolist(), strict=True)):
            new = new[: limits[i] - len(decoded[i])]
            if eos_id in new:
                decoded[i] += new[: new.index(eos_id)]
            else:
                decoded[i] += new
                if length < limits[i]:
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
    """Keep the ``beam_size`` most probable unfinished hypotheses at each step.

    A hypothesis that ends while it is among the ``beam_size`` best candidates is set aside, and
    of those the best by log-probability divided by lp(Y) is kept; |Y| counts the end symbol. The
    places in the beam go to the best candidates that did not end. A sentence is done when no
    living hypothesis can still beat what was set aside, even at the length its limit allows, so
    stopping early never changes the result. Where nothing has ended at the limit, the most
    probable hypothesis is returned as it stands. A beam of one is greedy search: its first end
    is its end.

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
    if beam_size == 1:
        return greedy_decode(model, source, bos_id=bos_id, eos_id=eos_id, max_len=limits)
    if not limits:
        return []
    state = model.prepare(source, max(limits))
    decoded: list[list[int]] = [[] for _ in limits]
    beams = _Beams(limits, beam_size, eos_id, length_penalty, source.device)
    active = list(range(len(limits)))
    tokens = source.new_full((len(source) * beam_size,), bos_id)
    while True:
        for _ in range(_steps_until_a_look(source.device, beams.length, beams.limits)):
            tokens, rows = beams.advance(model.step(tokens, state))
            state.reorder(rows)
        done = beams.done.tolist()
        if any(done):
            for row in (row for row, is_done in enumerate(done) if is_done):
                decoded[active[row]] = beams.best(row)
            going = [row for row, is_done in enumerate(done) if not is_done]
            if not going:
                return decoded
            sentences = torch.tensor(going, device=source.device)
            rows = beams.keep(sentences)
            state.reorder(rows, sentences)
            tokens = tokens[rows]
            active = [active[row] for row in going]


class _Beams:
    """The hypotheses of B sentences, K for each: what is alive and the best that has ended.

    A hypothesis is its place in the beam and, for each step, the token and the parent's place one
    step before.
    """

    def __init__(
        self, limits: list[int], beam_size: int, eos_id: int, alpha: float, device: torch.device
    ) -> None:
        self.length = 0
        self.limits = limits
        self.beam_size = beam_size
        self.eos_id = eos_id
        self.alpha = alpha
        self._history: list[Tensor] = []  # per step (2, B, K): tokens and parents
        # An empty place has the score -inf; at first only one is taken.
        self._scores = torch.full((len(limits), beam_size), -math.inf, device=device)
        self._scores[:, 0] = 0.0
        # Of the best that has ended: its penalised score, length, and place one step before.
        self._best_score = torch.full((len(limits),), -math.inf, device=device)
        self._best = torch.zeros(2, len(limits), dtype=torch.long, device=device)
        self._limit = torch.tensor(limits, device=device)
        self._kindest = torch.tensor(
            [length_penalty_factor(limit, alpha) for limit in limits], device=device
        )
        self._base = torch.arange(len(limits), device=device)[:, None] * beam_size

    def advance(self, logits: Float[Tensor, "R V"]) -> tuple[Int[Tensor, "R"], Int[Tensor, "R"]]:
        """Choose the next tokens; returns them and the row that each new row continues."""
        sentences, size = self._scores.shape
        # A row ends in one way only, so these hold its best candidates that do not end as well.
        log_probs, tokens = top_log_probs(logits, size + 1)
        width = log_probs.shape[1]
        tokens, order = tokens.sort(dim=1)  # equal scores: the lowest token first
        totals = log_probs.gather(1, order) + self._scores.view(-1, 1)
        totals, places = totals.view(sentences, -1).sort(dim=1, descending=True, stable=True)
        totals, places = totals[:, : 2 * size], places[:, : 2 * size]
        tokens = tokens.view(sentences, -1).gather(1, places)
        parents = places // width
        ended = tokens == self.eos_id

        self.length += 1
        score, place = totals[:, :size].masked_fill(~ended[:, :size], -math.inf).max(dim=1)
        score = score / length_penalty_factor(self.length, self.alpha)
        better = (score > self._best_score) & (self._limit >= self.length)
        self._best_score = score.where(better, self._best_score)
        found = torch.stack(
            [torch.full_like(place, self.length), parents.gather(1, place[:, None])[:, 0]]
        )
        self._best = found.where(better, self._best)

        living = ended.sort(dim=1, stable=True).indices[:, :size]
        self._scores = totals.masked_fill(ended, -math.inf).gather(1, living)
        tokens, parents = tokens.gather(1, living), parents.gather(1, living)
        self._history.append(torch.stack([tokens, parents]))
        return tokens.view(-1), (self._base[:sentences] + parents).view(-1)

    @property
    def done(self) -> Bool[Tensor, "B"]:
        """True where the limit is reached or the best that has ended cannot be beaten."""
        # A log-probability only falls; at best it stays, and the limit is the kindest divisor.
        beaten = self._scores[:, 0] / self._kindest <= self._best_score
        return beaten | (self._limit <= self.length)

    def best(self, sentence: int) -> list[int]:
        """The result of a sentence that is done."""
        length, place = self._best[:, sentence].tolist()
        found = []
        if math.isinf(self._best_score[sentence]):  # nothing has ended: the best as it stands
            length, place = self.limits[sentence] + 1, 0
        history = (
            torch.stack(self._history[: length - 1])[:, :, sentence].tolist() if length > 1 else []
        )
        for tokens, parents in reversed(history):
            found.append(tokens[place])
            place = parents[place]
        return found[::-1]

    def keep(self, sentences: Int[Tensor, "B"]) -> Int[Tensor, "R"]:
        """Only these stay; returns their rows."""
        rows = (self._base[sentences] + torch.arange(self.beam_size, device=sentences.device)).view(
            -1
        )
        self.limits = [self.limits[i] for i in sentences.tolist()]
        self._history = [step[:, sentences] for step in self._history]
        self._scores, self._best_score = self._scores[sentences], self._best_score[sentences]
        self._best = self._best[:, sentences]
        self._limit, self._kindest = self._limit[sentences], self._kindest[sentences]
        return rows


def _steps_until_a_look(device: torch.device, length: int, limits: list[int]) -> int:
    """How many steps to make before the host looks at what came of them."""
    return 1 if device.type == "cpu" else min(_STEPS_BETWEEN_LOOKS, max(limits) - length)


def _limits(max_len: int | Sequence[int], sentences: int) -> list[int]:
    limits = [max_len] * sentences if isinstance(max_len, int) else list(max_len)
    if len(limits) != sentences:
        raise ValueError(f"max_len has {len(limits)} limits for {sentences} sentences")
    if any(limit < 1 for limit in limits):
        raise ValueError(f"max_len is {min(limits)} for a sentence: expected at least 1")
    return limits
