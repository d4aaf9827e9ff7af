"""The network and the loss that the sections ``model`` and ``loss`` describe, sized by the data.

An argument that the data decides and a section leaves out is filled in, and stands in the run's
``config.yaml`` with DATA as its source: channels and size of the images in ``model``, the number of
classes and their counts (for ``common.losses.adaptive_margins``) in ``loss``.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loguru import logger
from torch import nn

from common.config import RunContext, Source, instantiate
from common.config.targets import resolve_target
from common.config.tree import plain
from common.data.info import DatasetInfo
from common.losses.angular import AngularMarginHead
from common.training import EmbeddingTask, load_published
from common.utils.errors import ConfigError
from projects.product_matching.core.config import TARGET, Config
from projects.product_matching.core.matching.matcher_files import check_networks

EMBEDDING_DIM = "embedding_dim"
_PAIR_LOSSES = ("SupervisedNTXentLoss", "MultiSimilarityLoss", "TripletMarginLoss")


def build_task(config: Config, *, has_weights: bool) -> EmbeddingTask:
    """The task of a run; ``fill_sections`` has been called.

    Args:
        config: The run's.
        has_weights: Whether weights are put in afterwards: none that are published are fetched then.
    """

    def network(info: DatasetInfo) -> nn.Module:
        built = build_network(config.model)
        if not has_weights:
            load_published(built)
        return built

    return EmbeddingTask(
        network,
        lambda dimension, info: build_loss(config.loss, dimension),
        center_lr_multiplier=config.loss_lr_multiplier,
    )


def build_network(section: Mapping[str, Any]) -> nn.Module:
    """The network: images ``(B, C, H, W)`` to embeddings ``(B, D)``, with D as ``embedding_dim``.

    Raises:
        ConfigError: if the section builds something else, or cannot be built.
    """
    check_networks(plain(section))
    network = _built(section, "model")
    dimension = getattr(network, EMBEDDING_DIM, None)
    if not isinstance(network, nn.Module) or not isinstance(dimension, int):
        raise ConfigError(
            f"model.{TARGET} is {section[TARGET]}, which has no {EMBEDDING_DIM}; expected a network of "
            "embeddings such as common.models.EmbeddingNetwork"
        )
    return network


def build_loss(section: Mapping[str, Any], embedding_dim: int) -> nn.Module:
    """The loss of embeddings ``(B, D)`` and labels ``(B,)``.

    Raises:
        ConfigError: if the section builds something else, or cannot be built.
    """
    extra = {EMBEDDING_DIM: embedding_dim} if EMBEDDING_DIM in _parameters(section) else {}
    loss = _built(section, "loss", **extra)
    if not isinstance(loss, nn.Module):
        raise ConfigError(f"loss.{TARGET} is {section[TARGET]}, which is no loss")
    return loss


def fill_sections(
    config: Config, context: RunContext, shape: tuple[int, int, int], counts: list[int]
) -> None:
    """Write what the data decides into ``model`` and ``loss``, where nobody set it.

    Args:
        config: Changed through ``context``.
        context: Of the same configuration.
        shape: Channels, height and width of the images.
        counts: Training images of each class.

    Raises:
        ConfigError: if what is set contradicts the data.
    """
    channels, *size = shape
    of_images = {"in_channels": channels, "img_size": size}
    _fill(config.model, "model", of_images, context, by="the images")
    of_classes = {"num_classes": len(counts), "counts": counts}
    _fill(config.loss, "loss", of_classes, context, by="the labels that are trained on")


def has_subcenters(loss: nn.Module) -> bool:
    """Whether the loss gives classes several centres, so that it can tell what is mislabelled."""
    return isinstance(loss, AngularMarginHead) and loss.num_centers > 1


def warn_of_lone_images(config: Config) -> None:
    """Say that a loss finds its pairs in the batch, and batches have none but by chance."""
    name = str(config.loss[TARGET]).rpartition(".")[2]
    if name in _PAIR_LOSSES and config.data.per_class < 2:
        logger.warning(
            f"{name} finds its pairs in the batch, and data.per_class is {config.data.per_class}: "
            "most images may have none; set data.per_class=4 or another divisor of data.batch_size"
        )


def published_statistics(
    section: Mapping[str, Any], channels: int = 3
) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of the images that published weights were trained on, if any are used.

    Args:
        section: The network's.
        channels: Of the images; for grey ones it is the average, as in ``TimmBackbone``.
    """
    for node, _ in _nodes(section, ""):
        if node.get("pretrained") is True and isinstance(node.get("model_name"), str):
            from timm.models import get_pretrained_cfg

            found = get_pretrained_cfg(node["model_name"])
            if found is not None:
                return _of_channels(found.mean, channels), _of_channels(found.std, channels)
    return None


def _of_channels(values: Sequence[float], channels: int) -> list[float]:
    return list(values) if channels == len(values) else [sum(values) / len(values)] * channels


def _built(section: Mapping[str, Any], key: str, **extra: Any) -> Any:
    try:
        return instantiate(dict(section), **extra)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {section[TARGET]}: {error}") from None


def _fill(
    section: Mapping[str, Any], key: str, facts: Mapping[str, Any], context: RunContext, by: str
) -> None:
    for node, place in list(_nodes(section, key)):
        accepted = _parameters(node)
        for name, value in facts.items():
            if name in accepted:
                node.setdefault(name, None)  # a key of the section, no fact beside it
                context.resolve(f"{place}.{name}", value, Source.DATA, by=by)


def _nodes(tree: Any, key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every section with a target, and its key."""
    if isinstance(tree, dict):
        if TARGET in tree:
            yield tree, key
        for name, value in tree.items():
            yield from _nodes(value, f"{key}.{name}")


def _parameters(node: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(resolve_target(node[TARGET])).parameters
