"""Tensors that may be shards of a larger one (``DTensor``), without importing what makes them."""

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank may hold only a part of ``tensor``."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing its memory; any other tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, if every rank asks for it; any other tensor itself."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else full_tensor()


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut up and placed as ``like`` is; nothing is sent."""
    if not is_sharded(like):
        return value.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
