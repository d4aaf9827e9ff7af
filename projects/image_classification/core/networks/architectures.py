"""A network by its name, with as many outputs, channels and pixels as the data: without weights."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from common.models import head_of, is_timm_name
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean, nearest
from projects.image_classification.core.model_config import ModelConfig
from projects.image_classification.core.networks.layers import adapt_first_convolution, set_dropout
from projects.image_classification.core.networks.small import MODEL_REGISTRY

_WITH_AUXILIARY = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Shape:
    """What the data asks of a network.

    Attributes:
        num_classes: K.
        channels: C, 1 or 3.
        height: H, in pixels.
        width: W, in pixels.
    """

    num_classes: int
    channels: int
    height: int
    width: int


def build_architecture(settings: ModelConfig, shape: Shape) -> nn.Module:
    """The network that ``settings`` names, with random weights.

    Raises:
        ConfigError: if nothing has that name, or it cannot be built for this shape.
    """
    check_name(settings)
    if settings.type == "base":
        return build_torchvision(settings.architecture, shape)
    if settings.type == "timm":
        return build_timm(settings.architecture, shape)
    builder = MODEL_REGISTRY[settings.custom_architecture]
    model = builder(num_classes=shape.num_classes, in_channels=shape.channels, norm=settings.norm)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.custom_architecture '{settings.custom_architecture}' gives a "
            f"{type(model).__name__}, expected a torch.nn.Module"
        )
    return model


def build_torchvision(name: str, shape: Shape, pretrained: bool = False) -> nn.Module:
    """A classifier of torchvision.

    Args:
        name: Its name there.
        shape: What the data asks.
        pretrained: Whether published weights will be put in: they expect some models to bring the
            pixels to another scale.
    """
    import torchvision

    options: dict[str, Any] = {"num_classes": shape.num_classes}
    if name in _WITH_AUXILIARY:
        options |= {"aux_logits": False, "init_weights": not pretrained}
        options["transform_input"] = pretrained and shape.channels == 3
    if name.startswith("vit_"):
        options["image_size"] = _square(name, shape)
    if name == "maxvit_t":
        options["input_size"] = (shape.height, shape.width)
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    adapt_first_convolution(model, shape.channels)
    return model


def build_timm(name: str, shape: Shape, **options: Any) -> nn.Module:
    """A classifier of timm; ``options`` are those of ``timm.create_model``."""
    import timm

    published = timm.models.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options.setdefault("img_size", (shape.height, shape.width))
    given = {key: value for key, value in options.items() if value is not None}
    try:
        model: nn.Module = timm.create_model(
            name, num_classes=shape.num_classes, in_chans=shape.channels, **given
        )
    except TypeError as error:  # a few networks do not know one of these
        unknown = next((key for key in ("img_size", "drop_rate") if key in str(error)), "")
        if given.get(unknown) is None:
            raise
        model = build_timm(name, shape, **{**options, unknown: None})
        if unknown == "drop_rate":
            set_dropout(model, head_of(model, shape.num_classes), given[unknown])
    return model


def check_name(settings: ModelConfig) -> None:
    """Refuse a name that nothing has, naming the nearest of this type, or the type that has it.

    Raises:
        ConfigError: see above.
    """
    name = settings.name
    here = _names(settings.type)
    is_known = is_timm_name(name) if settings.type == "timm" else name in here
    if is_known:
        return
    key = "custom_architecture" if settings.type == "custom" else "architecture"
    problem = f"model.{key} is '{name}'"
    for kind in ("base", "timm", "custom"):
        if kind != settings.type and (
            is_timm_name(name) if kind == "timm" else name in _names(kind)
        ):
            word = {"base": "a torchvision", "timm": "a timm", "custom": "a custom"}[kind]
            other = "custom_architecture" if kind == "custom" else "architecture"
            more = f" model.{other}={name}" if other != key else ""
            raise ConfigError(f"{problem}, which is {word} name: set model.type={kind}{more}")
    if settings.type == "timm" and ":" in name:
        raise ConfigError(
            f"{problem}; only timm's own names are taken. Fetch other repositories with "
            "tools/download_hf_model.py and set model.weights=FILE"
        )
    hint = did_you_mean(name, here)
    if nearest(name, here) is None and settings.type != "custom":
        elsewhere = nearest(name, _names("base" if settings.type == "timm" else "timm"))
        hint += f"; nearest of the other type: '{elsewhere}'" if elsewhere else ""
    raise ConfigError(f"{problem}, and model.type={settings.type} has no such network; {hint}")


def _names(kind: str) -> list[str]:
    if kind == "custom":
        return sorted(MODEL_REGISTRY)
    if kind == "timm":
        import timm

        names: list[str] = timm.list_models()
        return names
    import torchvision

    classifiers: list[str] = torchvision.models.list_models(module=torchvision.models)
    return classifiers


def _square(name: str, shape: Shape) -> int:
    if shape.height != shape.width:
        raise ConfigError(
            f"model.architecture={name} takes square images; preprocessing.image_size is "
            f"{shape.height} x {shape.width}"
        )
    return shape.height
