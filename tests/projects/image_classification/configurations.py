"""Configurations as ``get_model`` reads them, without the rest of the schema."""

from types import SimpleNamespace
from typing import Any

from projects.image_classification.core.model_config import ModelConfig


def configuration(
    size: tuple[int, int] = (64, 64),
    mode: str = "RGB",
    classes: int = 5,
    names: list[str] | None = None,
    trainer_type: str = "standard",
    **model: Any,
) -> Any:
    return SimpleNamespace(
        model=ModelConfig(**model),
        data=SimpleNamespace(num_classes=classes, class_names=names),
        preprocessing=SimpleNamespace(image_size=list(size), mode=mode),
        training=SimpleNamespace(trainer_type=trainer_type),
    )
