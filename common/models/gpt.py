"""GPT-2: a stack of causal self-attention layers that predicts the next token.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3:
normalisation before each sub-layer and once after the last, and residual projections that begin
smaller the deeper the stack. What the report leaves out (the tanh form of GELU, learned
positions, one matrix for tokens and output, N(0, 0.02)) is as in GPT (Radford et al. 2018).
"""

from typing import cast

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.models.attention import MultiHeadAttention, scaled_dot_product
from common.models.dropout import Dropout
from common.models.kv_cache import KVCache, LayerSlots
from common.models.layers import FeedForward, Residual
from common.models.positions import LearnedPositions

INIT_STD = 0.02


class GPT(nn.Module):
    """Decoder-only Transformer; the defaults are the smallest model of the paper's Table 2.

    Args:
        vocab_size: Number of tokens V.
        d_model: Width D.
        num_heads: Attention heads H.
        num_layers: Layers.
        max_len: Longest context in tokens.
        dropout: On the embeddings, the attention weights and each sub-layer's output.
        activation: Of the feed-forward networks, see ``FeedForward``.

    Raises:
        ConfigError: d_model is not divisible by num_heads.
    """

    def __init__(
        self,
        vocab_size: int = 50257,
        d_model: int = 768,
        num_heads: int = 12,
        num_layers: int = 12,
        max_len: int = 1024,
        dropout: float = 0.1,
        activation: str = "gelu_tanh",
    ) -> None:
        super().__init__()
        self.max_len = max_len
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = LearnedPositions(max_len, d_model)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            GPTBlock(d_model, num_heads, dropout, activation) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self._initialise()

    def _initialise(self) -> None:
        """N(0, 0.02); two projections a layer add to the residual stream: 1 / sqrt(2 layers)."""
        nn.init.normal_(self.embedding.weight, std=INIT_STD)
        nn.init.normal_(self.positions.table, std=INIT_STD)
        residual_std = INIT_STD * (2 * len(self.blocks)) ** -0.5
        for block in self.layers:
            attention, feed_forward = block.attention, block.feed_forward
            for linear in (attention.in_proj, feed_forward.linear1):
                nn.init.normal_(linear.weight, std=INIT_STD)
            for linear in (attention.out_proj, feed_forward.linear2):
                nn.init.normal_(linear.weight, std=residual_std)

    @property
    def layers(self) -> "list[GPTBlock]":
        """The members of ``blocks``."""
        return cast("list[GPTBlock]", list(self.blocks))

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The parameter that turns a hidden state into logits: the embedding's own."""
        return self.embedding.weight

    def hidden(
        self, tokens: Int[Tensor, "B T"], cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """States after the last normalisation; times ``output_weight`` they are the logits.

        Args:
            tokens: At most ``max_len`` of them, with what is cached.
            cache: Of ``new_cache``; these tokens follow those it has seen, and are added to it.

        Raises:
            DataError: there are more tokens than positions.
        """
        start = 0 if cache is None else cache.length
        x = self.dropout(self.positions(self.embedding(tokens), start))
        if cache is None:
            for block in self.layers:
                x = block(x)
        else:
            for block, slots in zip(self.layers, cache.advance(tokens.shape[1]), strict=True):
                x = block(x, slots)
        return self.norm(x)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits of the token after each one of ``tokens``."""
        return F.linear(self.hidden(tokens), self.output_weight)

    def new_cache(self, rows: int) -> KVCache:
        """Room for the keys and values of ``rows`` texts of up to ``max_len`` tokens."""
        weight = self.output_weight
        heads = self.layers[0].attention.num_heads
        width = weight.shape[1] // heads
        return KVCache(len(self.blocks), rows, 1, heads, width, self.max_len, like=weight)

    def next_logits(
        self, tokens: Int[Tensor, "B T"], cache: KVCache | None = None
    ) -> Float[Tensor, "B V"]:
        """Logits of the one token that follows; arguments as for ``hidden``."""
        return F.linear(self.hidden(tokens, cache)[:, -1], self.output_weight)


class GPTBlock(nn.Module):
    """Causal self-attention and a feed-forward network of four times the width, pre-norm."""

    def __init__(self, d_model: int, num_heads: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, num_heads, dropout)
        self.feed_forward = FeedForward(d_model, 4 * d_model, activation)
        self.attention_residual = Residual(d_model, dropout, norm="pre")
        self.feed_forward_residual = Residual(d_model, dropout, norm="pre")

    def forward(
        self, x: Float[Tensor, "B T D"], slots: LayerSlots | None = None
    ) -> Float[Tensor, "B T D"]:
        """The new states; with ``slots`` the positions also see what was read before them."""
        residual = self.attention_residual
        inner = residual.enter(x)
        if slots is None:
            attended, _ = self.attention(inner, causal=True)
        else:
            attended = _attend_to_cache(self.attention, inner, slots)
        x = residual.leave(x, attended)

        residual = self.feed_forward_residual
        return residual.leave(x, self.feed_forward(residual.enter(x)))


def _attend_to_cache(
    attention: MultiHeadAttention, x: Float[Tensor, "B T D"], slots: LayerSlots
) -> Float[Tensor, "B T D"]:
    heads = attention.num_heads
    projected = rearrange(
        attention.in_proj(x), "b t (three h e) -> three b h t e", three=3, h=heads
    )
    slots.new.copy_(projected[1:])
    attended, _ = scaled_dot_product(
        projected[0],
        rearrange(slots.keys, "(b h) e n -> b h n e", h=heads),
        rearrange(slots.values, "(b h) n e -> b h n e", h=heads),
        causal=True,
        dropout=attention.dropout if attention.training else 0.0,
    )
    return attention.out_proj(rearrange(attended, "b h t e -> b t (h e)"))
