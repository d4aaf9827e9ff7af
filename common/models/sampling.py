"""Sampling from a language model: temperature, top-k, nucleus (top-p), with a key-value cache.

The filters are pure functions of logits; what they rule out becomes -inf. They are applied in the
order temperature, top-k, top-p, so that the nucleus is one of the k.

Sources: top-k of Fan et al. 2018 (arXiv 1805.04833), section 5.4; nucleus sampling of Holtzman
et al. 2020 (arXiv 1904.09751), section 3.1.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.utils.errors import ConfigError, DataError


@runtime_checkable
class CachedModel(Protocol):
    """A model that can be sampled from; ``GPT`` is one."""

    max_len: int

    def new_cache(self, rows: int) -> Any:
        """An empty memory for ``rows`` texts of up to ``max_len`` tokens."""
        ...

    def next_logits(self, tokens: Int[Tensor, "B T"], cache: Any = None) -> Float[Tensor, "B V"]:
        """Logits of what follows ``tokens``, which follow those that ``cache`` has seen."""
        ...


def top_k_filter(logits: Float[Tensor, "*B V"], k: int) -> Float[Tensor, "*B V"]:
    """Keep the ``k`` largest logits, and what is equal to the last of them."""
    if k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def top_p_filter(logits: Float[Tensor, "*B V"], p: float) -> Float[Tensor, "*B V"]:
    """Keep the most probable tokens until their probabilities sum up to ``p``; at least one."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # of all tokens that are more probable
    ruled_out = (before >= p).scatter(-1, order, before >= p)
    ruled_out.scatter_(-1, order[..., :1], False)
    return logits.masked_fill(ruled_out, -torch.inf)


def filter_logits(
    logits: Float[Tensor, "*B V"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "*B V"]:
    """The logits of the distribution that is sampled from.

    Args:
        logits: The model's.
        temperature: Divides the logits; towards 0 the most probable token takes everything.
        top_k: Keep so many tokens; None keeps all.
        top_p: Keep the most probable tokens of together this probability; None keeps all.
    """
    logits = logits / temperature
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    return logits


@torch.inference_mode()
def sample(
    model: CachedModel,
    prompt: Int[Tensor, "B T"],
    tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B _"]:
    """Go on with a text, one token after the other.

    Each token is drawn given the last ``model.max_len`` tokens. As long as the whole text fits,
    keys and values are remembered; from there on every position moves with each token, so nothing
    that was computed before still holds, and the context is read anew.

    Args:
        model: In evaluation mode (dropout is not turned off here).
        prompt: What to go on with; at least one token.
        tokens: How many to add.
        temperature: As for ``filter_logits``; 0 takes the most probable token.
        top_k: As for ``filter_logits``.
        top_p: As for ``filter_logits``.
        generator: What the draws come from; PyTorch's own by default.

    Returns:
        The prompt and what follows it.

    Raises:
        ConfigError: a value is out of its range.
        DataError: the prompt is empty.
    """
    _check(temperature, top_k, top_p)
    if prompt.shape[1] == 0:
        raise DataError("the prompt has no token; give at least one")
    text = prompt
    cache = model.new_cache(len(prompt))
    unread = prompt
    for _ in range(tokens):
        if text.shape[1] <= model.max_len:
            logits = model.next_logits(unread, cache)
        else:
            logits = model.next_logits(text[:, -model.max_len :])
        if temperature == 0.0:
            unread = logits.argmax(dim=-1, keepdim=True)
        else:
            kept = filter_logits(logits.float(), temperature, top_k, top_p)
            unread = torch.multinomial(kept.softmax(dim=-1), 1, generator=generator)
        text = torch.cat([text, unread], dim=1)
    return text


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if temperature < 0:
        raise ConfigError(f"temperature is {temperature}, expected 0 (greedy) or more")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}, expected at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p is {top_p}, expected more than 0 and at most 1")
