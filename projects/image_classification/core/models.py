"""The network that a configuration asks for, sized by the data, with its weights, ready to train.

model = get_model(config, device)
task = ClassificationTask(lambda info: model, loss, **training_options(config, model))
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import nn

from common.models import head_of
from common.training.pretrained import (
    put_weights,
    read_weights_file,
    timm_weights_file,
    torchvision_weights,
)
from common.utils.errors import ConfigError, DownloadError
from projects.image_classification.core.model_config import ModelConfig
from projects.image_classification.core.networks.architectures import (
    Shape,
    build_architecture,
    build_timm,
    build_torchvision,
    check_name,
)
from projects.image_classification.core.networks.freezing import freeze_parts, unfreezing
from projects.image_classification.core.networks.input_size import check_input
from projects.image_classification.core.networks.layers import set_dropout
from projects.image_classification.core.networks.small import MODEL_REGISTRY, register_model

__all__ = [
    "MODEL_REGISTRY",
    "get_model",
    "register_model",
    "shape_of",
    "training_options",
    "unfreezing",
]

_CHANNELS = {"L": 1, "RGB": 3}


def get_model(
    config: Any, device: torch.device | str | None = None, *, has_weights: bool = False
) -> nn.Module:
    """Build the network of a configuration.

    Args:
        config: Has ``model`` (``ModelConfig``), ``data.num_classes``, ``preprocessing.image_size``
            and ``.mode``, and may have ``data.class_names`` and ``training.trainer_type``.
        device: Where it goes; as it is made (on the CPU) if left out.
        has_weights: Its weights will come from a checkpoint: none are fetched or read here.

    Returns:
        A module from normalised images ``(B, C, H, W)`` to logits ``(B, K)``.

    Raises:
        ConfigError: if there is no such architecture, or the images do not fit it.
        CheckpointError: if ``model.weights`` cannot be read or is another architecture's.
        DownloadError: if published weights cannot be had.
    """
    settings: ModelConfig = config.model
    shape = shape_of(config)
    check_name(settings)
    check_input(settings, shape)
    if has_weights:
        model = _without_weights(settings, shape)
    else:
        model = _with_weights(settings, shape, getattr(config.data, "class_names", None) or ())
    if settings.dropout is not None and settings.type != "timm":
        set_dropout(model, head_of(model, shape.num_classes), settings.dropout)
    freeze_parts(model, settings, shape.num_classes)
    if getattr(getattr(config, "training", None), "trainer_type", None) == "dp":
        from common.training.privacy.out_of_place import make_out_of_place

        size = (2, shape.channels, shape.height, shape.width)
        make_out_of_place(model, torch.randn(size, generator=torch.Generator().manual_seed(0)))
    return model if device is None else model.to(device)


def shape_of(config: Any) -> Shape:
    """What the data of a configuration asks of a network.

    Raises:
        ConfigError: if a number is not known yet.
    """
    classes, size = config.data.num_classes, config.preprocessing.image_size
    mode = config.preprocessing.mode
    if classes is None or classes < 2:
        raise ConfigError(f"data.num_classes is {classes}; expected at least 2")
    if not size:
        raise ConfigError("preprocessing.image_size is not set; give [height, width]")
    if mode not in _CHANNELS:
        raise ConfigError(f"preprocessing.mode is {mode}; expected RGB or L")
    height, width = (size, size) if isinstance(size, int) else size
    return Shape(classes, _CHANNELS[mode], height, width)


def training_options(config: Any, model: nn.Module) -> dict[str, Any]:
    """What ``ClassificationTask`` needs to know about how the parts of ``model`` train."""
    settings: ModelConfig = config.model
    return {
        "layer_decay": settings.layer_decay,
        "head": head_of(model, config.data.num_classes),
        "head_lr_multiplier": settings.head_lr_multiplier,
        "train_frozen": settings.unfreeze_epoch is not None,
    }


def _without_weights(settings: ModelConfig, shape: Shape) -> nn.Module:
    """The network as it is once weights are in it, with random ones."""
    if settings.type == "base":
        return build_torchvision(settings.architecture, shape, pretrained=settings.pretrained)
    if settings.type == "timm" and settings.dropout is not None:
        return build_timm(settings.architecture, shape, drop_rate=settings.dropout)
    return build_architecture(settings, shape)


def _with_weights(settings: ModelConfig, shape: Shape, class_names: Any) -> nn.Module:
    name, source = settings.architecture, settings.weights
    drop = {} if settings.dropout is None else {"drop_rate": settings.dropout}
    if settings.type == "timm":
        if settings.pretrained:
            with _advised():
                overlay = {"file": str(timm_weights_file(name))}
            model = build_timm(name, shape, pretrained=True, pretrained_cfg_overlay=overlay, **drop)
            logger.info(f"{name}: published weights from {overlay['file']}")
            return model
        model = build_timm(name, shape, **drop)
    elif settings.type == "base" and settings.pretrained:
        model = build_torchvision(name, shape, pretrained=True)
        with _advised():
            weights, source = torchvision_weights(name)
        if name.startswith("vit_"):
            weights = _resized_positions(model, weights)
        put_weights(model, weights, source, shape.num_classes)
        return model
    else:
        model = build_architecture(settings, shape)
    if source is not None:
        weights, known = read_weights_file(Path(source).expanduser())
        put_weights(model, weights, source, shape.num_classes, class_names, known)
    return model


@contextmanager
def _advised() -> Iterator[None]:
    """What goes wrong with published weights, with the keys of the configuration that help."""
    try:
        yield
    except (ConfigError, DownloadError) as error:
        raise type(error)(
            f"model.pretrained: {error}; set model.pretrained=false, or model.weights=FILE with "
            "weights you have"
        ) from None


def _resized_positions(model: nn.Module, weights: dict[str, Any]) -> dict[str, Any]:
    """Position embeddings of a torchvision ViT for this number of pixels."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    resized: dict[str, Any] = interpolate_embeddings(model.image_size, model.patch_size, weights)
    return resized
