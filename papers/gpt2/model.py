"""The language model of GPT-2 (Radford et al. 2019, section 2) as a task.

The architecture is ``common.models.GPT``; the loss is equation 1 of the paper, the log-probability
of each token given those before it, as a mean over tokens.
"""

from dataclasses import asdict, dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from common.config import RunContext, Source, option
from common.data.info import DatasetInfo
from common.models import GPT
from common.training import StepOutput, Task
from common.utils.errors import ConfigError


@dataclass
class ModelConfig:
    """The values of Table 2; the defaults are its first row, known as GPT-2 small."""

    d_model: int = option("width of the model", 768, ge=1)
    num_heads: int = option("attention heads", 12, ge=1)
    num_layers: int = option("layers", 12, ge=1)
    dropout: float = option(
        "on embeddings, attention weights and sub-layers' outputs", 0.1, ge=0, lt=1
    )
    activation: str = option(
        "GELU in GPT-2's tanh form, or the exact one", "gelu_tanh", choices=("gelu_tanh", "gelu")
    )
    max_len: int | None = option("longest context; from data.block_size", None, ge=1)
    vocab_size: int | None = option("tokens; from the tokenizer", None, ge=1)

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"model.d_model {self.d_model} is not divisible by model.num_heads {self.num_heads}"
            )


class LanguageModelTask(Task):
    """Predict every token of a window from those before it.

    Args:
        config: The model's values; vocabulary and context are filled in from the data.
    """

    model: GPT

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        values = asdict(self.config) | {
            "vocab_size": context.resolve("model.vocab_size", info.vocab_size, Source.DATA),
            "max_len": context.resolve("model.max_len", info.input_shape[0], Source.DATA),
        }
        self.model = GPT(**values)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits of the token after each one of ``tokens``."""
        return self.model(tokens)

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """Cross-entropy in nats, a mean over tokens.

        Args:
            batch: ``tokens`` (B, T + 1).
        """
        tokens = batch["tokens"]
        logits, target = self.model(tokens[:, :-1]), tokens[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return StepOutput(loss, target.numel(), is_mean=True)
