"""Scaled dot-product attention and multi-head attention.

Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv 1706.03762), section 3.2.

Masks are boolean and say what to *keep*: True means "may attend". A query that may attend to
nothing gets the output 0 and finite gradients, never NaN.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from common.utils.errors import ConfigError


def causal_mask(
    queries: int, keys: int, device: torch.device | str | None = None
) -> Bool[Tensor, "T S"]:
    """True where a query may look: the last query sees all keys, each earlier one a key less."""
    everything = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return everything.tril(keys - queries)


def scaled_dot_product(
    query: Float[Tensor, "B H T E"],
    key: Float[Tensor, "B H S E"],
    value: Float[Tensor, "B H S E"],
    *,
    keep: Bool[Tensor, "#B #H #T S"] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T S"] | None]:
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V, equation 1 of the paper.

    Args:
        query: What each position asks.
        key: What each position is found by.
        value: What each position answers.
        keep: True where a query may attend to a key; combined with ``causal``.
        causal: Query i of T sees keys up to S - T + i, so it also holds behind a cache.
        dropout: Probability with which an attention weight is dropped; the caller passes 0
            outside training.
        need_weights: Compute the weights explicitly and return them. Without it PyTorch's fused
            kernels do the same sum and the (T, S) matrix may never exist.

    Returns:
        The output, and the weights before dropout (None unless asked for).
    """
    length, keys = query.shape[-2], key.shape[-2]
    is_causal = causal and length > 1  # one query behind a cache sees every key
    if is_causal and (keep is not None or length != keys or need_weights):
        past = causal_mask(length, keys, query.device)[None, None]
        keep = past if keep is None else keep & past
        is_causal = False

    if not need_weights:
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=keep, dropout_p=dropout, is_causal=is_causal
        )
        return output, None

    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if keep is None:
        weights = scores.softmax(dim=-1)
    else:
        # A finite fill keeps a row with nothing to attend to free of NaN, also in its gradient.
        scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1).masked_fill(~keep, 0.0)
    return F.dropout(weights, dropout) @ value, weights


class KeyValue(NamedTuple):
    """Projected keys and values of a sequence, split into heads."""

    key: Float[Tensor, "B H S E"]
    value: Float[Tensor, "B H S E"]


class MultiHeadAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1 .. head_h) W^O, section 3.2.2 of the paper.

    W^Q, W^K and W^V lie below each other in ``in_proj`` (the layout of ``torch.nn`` and timm), so
    that self-attention is one matrix product.

    Args:
        d_model: Width D of the model; each head has d_model / num_heads.
        num_heads: Number of heads H (the paper's h).
        dropout: Probability with which an attention weight is dropped while training.

    Raises:
        ConfigError: d_model is not divisible by num_heads.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ConfigError(
                f"d_model is {d_model} and num_heads is {num_heads}: "
                f"d_model must be a multiple of num_heads"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        for weight in (*self.in_proj.weight.chunk(3), self.out_proj.weight):
            nn.init.xavier_uniform_(weight)
        for bias in (self.in_proj.bias, self.out_proj.bias):
            nn.init.zeros_(bias)

    def project_memory(self, memory: Float[Tensor, "B S D"]) -> KeyValue:
        """Keys and values of another sequence, to be computed once and attended to many times."""
        d_model = memory.shape[-1]
        projected = F.linear(memory, self.in_proj.weight[d_model:], self.in_proj.bias[d_model:])
        return KeyValue(
            *rearrange(projected, "b s (two h e) -> two b h s e", two=2, h=self.num_heads)
        )

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        keep: Bool[Tensor, "#B #H #T S"] | None = None,
        causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H _ _"] | None]:
        """Attend from ``query`` to ``memory``, or to itself where that is None.

        Args:
            query: Queries.
            memory: The other sequence.
            keep: True where a query may attend to a key.
            causal: A query sees no later key.
            need_weights: Also return the weights (see ``scaled_dot_product``).
        """
        if memory is None:
            queries, key, value = rearrange(
                self.in_proj(query), "b t (three h e) -> three b h t e", three=3, h=self.num_heads
            )
        else:
            key, value = self.project_memory(memory)
            d_model = query.shape[-1]
            queries = rearrange(
                F.linear(query, self.in_proj.weight[:d_model], self.in_proj.bias[:d_model]),
                "b t (h e) -> b h t e",
                h=self.num_heads,
            )
        attended, weights = scaled_dot_product(
            queries,
            key,
            value,
            keep=keep,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
            need_weights=need_weights,
        )
        return self.out_proj(rearrange(attended, "b h t e -> b t (h e)")), weights
