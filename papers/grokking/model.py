"""A small decoder-only Transformer that completes ``a o b =`` (Power et al. 2022, 2201.02177, A.1.2).

Two layers of width 128 with four heads: about 400,000 parameters beside the embeddings. Loss and
accuracy are those of the answer alone. What is made of ``common.models`` are attention, the
feed-forward network, the residual sum and the positions; a layer is put together here.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.config import RunContext, Source, option
from common.data import DatasetInfo
from common.models import LearnedPositions, MultiHeadAttention
from common.models.layers import FeedForward, Residual
from common.training import Task
from common.utils.errors import ConfigError

QUESTION = 4  # tokens of "a o b ="


@dataclass
class ModelConfig:
    """The defaults are the paper's (A.1.2)."""

    d_model: int = option("width of the model", 128, ge=1)
    num_heads: int = option("attention heads", 4, ge=1)
    num_layers: int = option("layers", 2, ge=1)
    vocab_size: int | None = option("elements, operator and equals sign; from the data", None)

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"model.d_model {self.d_model} is not divisible by model.num_heads {self.num_heads}"
            )


class CausalLayer(nn.Module):
    """Self-attention that sees no later token and a feed-forward network four times as wide."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, num_heads)
        self.attention_residual = Residual(d_model, dropout=0.0, norm="pre")
        self.feed_forward = FeedForward(d_model, 4 * d_model)
        self.feed_forward_residual = Residual(d_model, dropout=0.0, norm="pre")

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        residual = self.attention_residual
        attended, _ = self.attention(residual.enter(x), causal=True)
        x = residual.leave(x, attended)
        residual = self.feed_forward_residual
        return residual.leave(x, self.feed_forward(residual.enter(x)))


class EquationTask(Task):
    """Predict the answer of an equation from what stands before it.

    Args:
        config: The model's values; ``vocab_size`` is filled in from the data.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        size = context.resolve("model.vocab_size", info.vocab_size, Source.DATA)
        width = self.config.d_model
        self.embedding = nn.Embedding(size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.positions = LearnedPositions(QUESTION, width)
        self.layers = nn.ModuleList(
            CausalLayer(width, self.config.num_heads) for _ in range(self.config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, size, bias=False)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits of the token after each of ``tokens``, of which there are at most four."""
        return self.head(self._hidden(tokens))

    def compute_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy and accuracy of the answers.

        Args:
            batch: ``equation`` (B, 5), the tokens ``a o b = c``.
        """
        question, answer = batch["equation"][:, :QUESTION], batch["equation"][:, QUESTION]
        logits = self.head(self._hidden(question)[:, -1])
        accuracy = (logits.argmax(dim=-1) == answer).float().mean()
        return {"loss": F.cross_entropy(logits, answer), "accuracy": accuracy}

    def _hidden(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        x = self.positions(self.embedding(tokens))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)
