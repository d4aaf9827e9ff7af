"""Finished weights as ``model.safetensors``: a format that holds tensors and nothing else."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from common.utils.errors import CheckpointError
from common.utils.files import fsync_dir, temporary_beside


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's parameters and buffers; tied tensors are stored once.

    Args:
        module: The module.
        path: The file, usually ``model.safetensors``; replaced only when complete. Of several
            writers at once the last one's file stays.
    """
    from safetensors.torch import save_model

    temporary = temporary_beside(path)
    try:
        save_model(module, str(temporary))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def read_weights(module: nn.Module, path: Path) -> None:
    """Read what ``save_weights`` wrote into ``module``.

    Raises:
        CheckpointError: if the file is missing, damaged or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(module, str(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot read weights from {path}: {reason}") from None


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, types, shapes and values, in hex; the order of names does not matter.

    Args:
        weights: A state dict, on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
