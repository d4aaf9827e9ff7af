"""The translation task of "Attention Is All You Need" (Vaswani et al. 2017, arXiv 1706.03762).

The architecture of section 3 is ``common.models.Transformer``; what this file adds is section 5:
label-smoothed cross-entropy over target tokens (5.4), and the peak of the learning rate (5.3).
"""

from dataclasses import asdict, dataclass

from jaxtyping import Float, Int
from torch import Tensor

from common.config import RunContext, Source, option
from common.data.info import DatasetInfo
from common.losses import linear_cross_entropy
from common.models import Transformer
from common.training import StepOutput, Task
from common.utils.errors import ConfigError


@dataclass
class ModelConfig:
    """The values of Table 3; the defaults are the paper's base model."""

    d_model: int = option("width of the model", 512, ge=1)
    num_heads: int = option("attention heads (h)", 8, ge=1)
    num_encoder_layers: int = option("encoder layers (N)", 6, ge=1)
    num_decoder_layers: int = option("decoder layers (N)", 6, ge=1)
    d_ff: int = option("inner width of the feed-forward layers", 2048, ge=1)
    dropout: float = option("P_drop", 0.1, ge=0, lt=1)
    attention_dropout: float = option(
        "dropout of attention weights (not in the paper)", 0.0, ge=0, lt=1
    )
    activation_dropout: float = option(
        "dropout inside feed-forward (not in the paper)", 0.0, ge=0, lt=1
    )
    norm: str = option("post as in the paper, or pre", "post", choices=("post", "pre"))
    positions: str = option("position encoding", "sinusoidal", choices=("sinusoidal", "learned"))
    tie_embeddings: bool = option("one matrix for source, target and output (3.4)", True)
    max_len: int = option("longest sequence in tokens", 1024, ge=2)
    vocab_size: int | None = option("tokens; from the tokenizer", None, ge=1)

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"model.d_model {self.d_model} is not divisible by model.num_heads {self.num_heads}"
            )


def peak_learning_rate(d_model: int, warmup_steps: int) -> float:
    """The largest rate of equation 3, reached after the warm-up: ``(d_model * warmup)^-0.5``."""
    return (d_model * warmup_steps) ** -0.5


class TranslationTask(Task):
    """Predict every target token from the source and the target tokens before it.

    Args:
        config: The model's values; ``vocab_size`` is filled in from the data.
        label_smoothing: The paper's epsilon_ls (5.4).
    """

    model: Transformer

    def __init__(self, config: ModelConfig, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.config = config
        self.label_smoothing = label_smoothing

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        size = context.resolve("model.vocab_size", info.vocab_size, Source.DATA)
        values = asdict(self.config) | {"vocab_size": size}
        self.model = Transformer(**values, pad_id=0)

    def forward(
        self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Logits of the token after each one of ``target``."""
        return self.model(source, target)

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """Smoothed loss summed over target tokens; ``nll`` is the loss without smoothing.

        Args:
            batch: ``source`` (B, S), ending in <eos>, and ``target`` (B, T), from <bos> to <eos>.
        """
        return self._loss(batch, self.label_smoothing)

    def eval_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """The same without smoothing: the loss is the log of the perplexity."""
        return self._loss(batch, 0.0)

    def _loss(self, batch: dict[str, Tensor], smoothing: float) -> StepOutput:
        source, target = batch["source"], batch["target"]
        hidden = self.model.hidden(source, target[:, :-1])
        loss, tokens, nll = linear_cross_entropy(
            hidden.flatten(0, 1),
            self.model.output_weight,
            target[:, 1:].flatten(),
            smoothing=smoothing,
            ignore_index=self.model.pad_id,
        )
        return StepOutput(loss, tokens, {"nll": nll})
