"""What ``model.freeze`` and ``model.unfreeze_epoch`` mean for a network."""

from loguru import logger
from torch import nn

from common.models import heads_of
from common.training.callbacks import Unfreeze
from common.training.freezing import freeze, is_named
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean
from projects.image_classification.core.model_config import ModelConfig


def freeze_parts(model: nn.Module, settings: ModelConfig, num_classes: int) -> None:
    """Freeze what ``settings.freeze`` names; batch normalisation in it stops to learn, too.

    Raises:
        ConfigError: if a prefix names nothing, or nothing would be left to train.
    """
    if settings.freeze in ("none", []):
        return
    named = [name for name, _ in model.named_parameters()]
    heads = heads_of(model, num_classes)
    if settings.freeze == "backbone":
        names = [name for name in named if not is_named(name, heads)]
        if not settings.pretrained and settings.weights is None:
            logger.warning(
                "model.freeze=backbone freezes random weights; set model.pretrained=true or "
                "model.weights=FILE"
            )
    else:
        names = list(settings.freeze)
        for prefix in names:
            if not any(is_named(name, [prefix]) for name in named):
                parts = {".".join(n.split(".")[:depth]) for n in named for depth in (1, 2, 3)}
                raise ConfigError(
                    f"model.freeze names '{prefix}', and {settings.name} has no such part; "
                    f"{did_you_mean(prefix, parts)}"
                )
    freeze(model, names)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"model.freeze={settings.freeze} leaves nothing of the network to train")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    logger.info(f"model.freeze: {trained:,} of {total:,} parameters train")


def unfreezing(settings: ModelConfig) -> list[Unfreeze]:
    """The callbacks that ``settings.unfreeze_epoch`` asks for."""
    return [] if settings.unfreeze_epoch is None else [Unfreeze(settings.unfreeze_epoch)]
