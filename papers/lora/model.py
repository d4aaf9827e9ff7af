"""A GPT-2 whose weights are given and of which only low-rank adapters are trained (section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from common.config import RunContext, option
from common.data.info import DatasetInfo
from common.utils.checkpoint import load_weights
from papers.gpt2.model import LanguageModelTask, ModelConfig
from papers.lora.adapters import add_adapters


@dataclass
class LoRAConfig:
    """Which matrices are adapted, and with how many parameters."""

    rank: int = option("r; 0: no adapters, everything is trained (fine-tuning)", 4, ge=0)
    alpha: float = option("adapters count alpha / r times", 32.0, gt=0)
    targets: list[str] = option(
        "patterns of the layers' names: *.query *.key *.value *.out_proj *.linear1 *.linear2",
        ["*.query", "*.value"],
    )


class LoRATask(LanguageModelTask):
    """Language modelling with adapters on a base that stays as it is.

    Args:
        config: The base's values.
        lora: The adapters'.
        base: The base's weights; None where the weights of all come from a run.
    """

    def __init__(
        self, config: ModelConfig, lora: LoRAConfig, base: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(config)
        self.lora = lora
        self._base = base

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        super().configure(info, context)
        if self._base is not None:
            load_weights(self.model, self._base, "the base")
            self._base = None
        if self.lora.rank:
            add_adapters(self.model, self.lora.targets, self.lora.rank, self.lora.alpha)
