"""The layers a Transformer is stacked from: feed-forward network, residual sum, encoder, decoder.

Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv 1706.03762), sections 3.1 and 3.3.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from common.models.attention import MultiHeadAttention
from common.models.dropout import Dropout


class FeedForward(nn.Module):
    """FFN(x) = max(0, x W_1 + b_1) W_2 + b_2, equation 2 of the paper.

    Args:
        d_model: Width D.
        d_ff: Width of the inner layer.
        activation: "relu" as in the paper, "gelu", or "gelu_tanh", its approximation in GPT-2.
        dropout: Probability of dropping an activation of the inner layer.
    """

    def __init__(
        self, d_model: int, d_ff: int, activation: str = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        # In place: a linear layer's gradient does not need its output.
        self.activation = (
            nn.ReLU(inplace=True)
            if activation == "relu"
            else nn.GELU(approximate="tanh" if activation == "gelu_tanh" else "none")
        )
        self.dropout = Dropout(dropout)
        self.linear2 = nn.Linear(d_ff, d_model)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class Residual(nn.Module):
    """The residual sum around a sub-layer: LayerNorm(x + Sublayer(x)), section 3.1.

    With ``norm="pre"`` it is x + Sublayer(LayerNorm(x)). Dropout falls on the sub-layer's output
    before the sum (section 5.4). ``enter`` gives the sub-layer its input, ``leave`` adds its
    output.
    """

    def __init__(self, d_model: int, dropout: float, norm: str, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, eps=eps)
        self.dropout = Dropout(dropout)
        self.pre = norm == "pre"

    def enter(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.norm(x) if self.pre else x

    def leave(
        self, x: Float[Tensor, "*B D"], output: Float[Tensor, "*B D"]
    ) -> Float[Tensor, "*B D"]:
        x = x + (self.dropout(output) if self.training else output)
        return x if self.pre else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each in a residual sum."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: FeedForward,
        attention_residual: Residual,
        feed_forward_residual: Residual,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward
        self.attention_residual = attention_residual
        self.feed_forward_residual = feed_forward_residual

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        keep: Bool[Tensor, "B 1 1 S"] | None = None,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B H S S"] | None]:
        """The new states, and the attention weights if they are needed."""
        residual = self.attention_residual
        attended, weights = self.attention(residual.enter(x), keep=keep, need_weights=need_weights)
        x = residual.leave(x, attended)

        residual = self.feed_forward_residual
        return residual.leave(x, self.feed_forward(residual.enter(x))), weights


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, and a feed-forward network."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
        feed_forward: FeedForward,
        attention_residual: Residual,
        cross_residual: Residual,
        feed_forward_residual: Residual,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.cross_attention = cross_attention
        self.feed_forward = feed_forward
        self.attention_residual = attention_residual
        self.cross_residual = cross_residual
        self.feed_forward_residual = feed_forward_residual

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"],
        memory_keep: Bool[Tensor, "B 1 1 S"] | None = None,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], Tensor | None, Tensor | None]:
        """The new states, and the weights of self- and cross-attention if they are needed."""
        residual = self.attention_residual
        attended, weights = self.attention(
            residual.enter(x), causal=True, need_weights=need_weights
        )
        x = residual.leave(x, attended)

        residual = self.cross_residual
        attended, cross_weights = self.cross_attention(
            residual.enter(x), memory, keep=memory_keep, need_weights=need_weights
        )
        x = residual.leave(x, attended)

        residual = self.feed_forward_residual
        x = residual.leave(x, self.feed_forward(residual.enter(x)))
        return x, weights, cross_weights
