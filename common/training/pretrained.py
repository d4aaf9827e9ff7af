"""Weights to start from: published ones, or a file; what fitted is said, what did not is named.

    backbone = TimmBackbone("resnet50", pretrained=True)
    load_published(backbone)

Published weights of timm come through the data store (so they are fetched once, verified, and read
without a network afterwards), those of torchvision through ``torch.hub``'s cache. Nothing is
unpickled but tensors and plain values.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from loguru import logger
from torch import Tensor, nn

from common.data import download_model
from common.data.transfer import first_line, is_offline, look_up
from common.models import (
    TimmBackbone,
    adapted_channels,
    first_convolution,
    heads_of,
    without_heads,
)
from common.utils.checkpoint import check_weights, load_checkpoint
from common.utils.errors import CheckpointError, ConfigError, DataError, DownloadError

_PREFIXES = ("module.", "_orig_mod.", "model.", "state_dict.")
_TIMEOUT = 20.0  # seconds without a byte
_SHOWN = 5


def load_published(model: nn.Module) -> None:
    """Put the published weights into every ``TimmBackbone`` of a model that awaits them.

    Those built with ``pretrained=False``, and those a state dict was loaded into, stay as they are.

    Raises:
        CheckpointError: if a file does not fit.
        ConfigError: if nobody has published weights of a network.
        DownloadError: if they are not in the store and cannot be fetched.
    """
    for backbone in model.modules():
        if isinstance(backbone, TimmBackbone) and backbone.awaits_weights:
            path = timm_weights_file(backbone.model_name)
            backbone.load_file(path)
            logger.info(f"{backbone.model_name}: published weights from {path}")


def timm_weights_file(name: str) -> Path:
    """The file of a timm architecture's published weights, in the store.

    Raises:
        ConfigError: if nobody has published any.
        DownloadError: if they are not in the store and cannot be fetched.
    """
    from timm.models import get_pretrained_cfg

    published = get_pretrained_cfg(name)
    if not published or not published.hf_hub_id:
        raise ConfigError(_unpublished(name))
    try:
        file = published.hf_hub_filename or "model.safetensors"
        return Path(download_model(published.hf_hub_id, file))
    except (DownloadError, DataError) as error:
        raise DownloadError(f"published weights of '{name}': {error}") from None


def torchvision_weights(name: str) -> tuple[dict[str, Tensor], str]:
    """The published weights of a torchvision architecture, and their address.

    Raises:
        ConfigError: if there are none.
        DownloadError: if they are not in ``torch.hub``'s cache and cannot be fetched.
    """
    from torchvision.models import get_model_weights

    published = list(get_model_weights(name))
    if not published:
        raise ConfigError(_unpublished(name))
    weights = get_model_weights(name).DEFAULT
    url = weights.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    before = socket.getdefaulttimeout()
    try:
        if not cached.is_file():
            if is_offline():
                raise DownloadError("the environment forbids requests (HF_HUB_OFFLINE)")
            look_up(url)
            logger.info(f"fetching {url}")
        socket.setdefaulttimeout(_TIMEOUT)
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True), url
    except (OSError, DownloadError) as error:
        raise DownloadError(
            f"published weights of '{name}': {url} cannot be had: {first_line(error)}"
        ) from None
    except Exception as error:  # the unpickler of damaged bytes raises whatever it meets
        raise DownloadError(
            f"published weights of '{name}': {url} cannot be had: what came or lies at {cached} is "
            f"damaged ({first_line(error)[:80]}); delete it and try again"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def read_weights_file(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file under the network's own names, and the class names it knows.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth``: a run's checkpoint (of which the moving
            average is taken, if it has one), a state dict, or one below ``model`` or
            ``state_dict``.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _own_names(load_file(path)), []
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read weights from {path}: {first_line(error)}") from None
    content: Any = load_checkpoint(path)
    classes: list[str] = []
    if isinstance(content, dict):
        classes = _class_names(content.get("config"))
        average = content.get("callbacks", {})
        average = average.get("EMA", {}).get("shadow", {}) if isinstance(average, dict) else {}
        inner = next((content[k] for k in ("model", "state_dict") if k in content), content)
        if isinstance(inner, Mapping):
            content = {**inner, **average}
    tensors = content if isinstance(content, Mapping) else {}
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name; expected the weights of a network")
    return _own_names(tensors), classes


def put_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    num_classes: int,
    class_names: Sequence[str] = (),
    known_classes: Sequence[str] = (),
) -> None:
    """Copy weights into a network: all of its backbone, and its head if the classes are the same.

    A head of other classes begins anew, and a first convolution of other channels is adapted; both
    are said.

    Args:
        model: Where they go.
        weights: By the network's own names.
        source: Where they come from, for messages.
        num_classes: Of the data.
        class_names: Of the data, in order.
        known_classes: What the weights were trained for, if they say it.

    Raises:
        CheckpointError: if a tensor of the backbone is missing or has another shape.
    """
    own = model.state_dict()
    given = dict(weights)
    first = first_convolution(model)
    if first is not None and f"{first}.weight" in given and f"{first}.weight" in own:
        key = f"{first}.weight"
        there, here = given[key].shape[1], own[key].shape[1]
        given[key] = adapted_channels(given[key], here)
        if there != here:
            logger.info(
                f"{source}: the first convolution is adapted from {there} to {here} channels"
            )
    heads = heads_of(model, num_classes)
    anew = [name for name in own if name not in without_heads(own, heads)]
    reason = _why_anew(given, own, anew, num_classes, class_names, known_classes)
    kept = own if not reason else without_heads(own, heads)
    optional = {name for name in kept if name.endswith("num_batches_tracked")}
    fitting = {
        name: given.get(name, own[name]) for name in kept if name in given or name in optional
    }
    fitting |= {name: own[name] for name in own if name not in kept}
    check_weights(model, fitting, f"{source} (weights of another architecture?)")
    model.load_state_dict(fitting)
    unused = [name for name in given if name not in own]
    text = f"{source}: {sum(name in given for name in kept)} of {len(own)} tensors fit"
    text += f"; unused: {_listed(unused)}" if unused else ""
    logger.info(text)
    if reason:
        logger.warning(f"{source}: {reason}, so {', '.join(heads)} begins anew")


def _unpublished(name: str) -> str:
    return f"there are no published weights of '{name}'; begin with random ones (pretrained=False)"


def _why_anew(
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    head: Sequence[str],
    num_classes: int,
    class_names: Sequence[str],
    known_classes: Sequence[str],
) -> str:
    """Why the head's weights are of no use here; empty if they are."""
    if any(name not in given for name in head):
        return "it has no last layer"
    theirs = next((len(given[name]) for name in head if given[name].ndim > 1), num_classes)
    if theirs != num_classes:
        return f"its last layer has {theirs} classes and the data {num_classes}"
    if any(given[name].shape != own[name].shape for name in head):
        return "its last layer has another shape"
    if known_classes and class_names and list(known_classes) != list(class_names):
        differing = [(a, b) for a, b in zip(known_classes, class_names, strict=False) if a != b]
        there, here = differing[0] if differing else (known_classes[-1], class_names[-1])
        if set(known_classes) == set(class_names):
            return f"its classes have another order ('{there}' stands where the data has '{here}')"
        return f"its classes are others ('{there}' where the data has '{here}')"
    return ""


def _own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers and tasks put before every name."""
    named = {key: value for key, value in tensors.items() if key not in ("mean", "std")}
    for _ in range(3):
        prefix = next((p for p in _PREFIXES if named and all(n.startswith(p) for n in named)), None)
        if prefix is None:
            break
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def _class_names(config: Any) -> list[str]:
    """``data.class_names`` of the configuration that a checkpoint holds as text."""
    if not isinstance(config, str):
        return []
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return []
    data = tree.get("data") if isinstance(tree, dict) else None
    names = data.get("class_names") if isinstance(data, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")
