"""The section ``model`` of the configuration. Importing it does not load PyTorch."""

from dataclasses import dataclass

from common.config import option
from common.utils.errors import ConfigError


@dataclass
class ModelConfig:
    """Which network, what it starts from, and which of it trains how fast.

    Its number of classes, channels and pixels are the data's (``data``, ``preprocessing``).
    """

    type: str = option(
        "base: torchvision's classifiers; timm: timm's; custom: a registered one",
        "base",
        choices=("base", "timm", "custom"),
    )
    architecture: str = option("base, timm: its name there, e.g. resnet18", "resnet18")
    custom_architecture: str = option(
        "custom: simple_cnn, tiny_net, or what @register_model named", "simple_cnn"
    )
    pretrained: bool = option("base, timm: start from published weights (fetched once)", False)
    weights: str | None = option("start from this file: .pt, .pth or .safetensors", None)
    dropout: float | None = option(
        "before the last layer; null: as the architecture has it", None, ge=0, lt=1
    )
    norm: str = option("custom: batch or group normalisation", "batch", choices=("batch", "group"))
    freeze: str | list[str] = option(
        "none, backbone (all but the last layer), or a list of name prefixes such as [layer1]",
        "none",
    )
    unfreeze_epoch: int | None = option(
        "so many epochs with the frozen part, then all trains; null: frozen for good", None, ge=1
    )
    head_lr_multiplier: float = option("how much faster the last layer learns", 1.0, gt=0)
    layer_decay: float = option(
        "each layer learns at so much of the rate of the one behind it (2106.08254); 1: alike",
        1.0,
        gt=0,
        le=1,
    )

    @property
    def name(self) -> str:
        """The architecture, whichever kind it is."""
        return self.custom_architecture if self.type == "custom" else self.architecture

    def __post_init__(self) -> None:
        if isinstance(self.freeze, str) and self.freeze not in ("none", "backbone"):
            raise ConfigError(
                f"model.freeze is '{self.freeze}'; expected none, backbone, or a list of prefixes "
                f"such as [{self.freeze}]"
            )
        if self.unfreeze_epoch is not None and self.freeze in ("none", []):
            raise ConfigError(
                f"model.unfreeze_epoch is {self.unfreeze_epoch}, but model.freeze is none; set "
                "model.freeze=backbone"
            )
        if self.pretrained and self.weights is not None:
            raise ConfigError(
                "model.pretrained and model.weights are both set; a network starts from one of them"
            )
        if self.pretrained and self.type == "custom":
            raise ConfigError(
                "model.pretrained is set, but nobody has published weights of "
                f"'{self.custom_architecture}'; set model.pretrained=false or model.weights=FILE"
            )
