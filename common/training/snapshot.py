"""The loop's part of a checkpoint: copy the state aside, so that it can be written meanwhile.

Fresh memory costs ten times what copying into it does, because the system faults every page in.
So the memory is reserved once, touched in a thread while the first steps run, and used again for
every checkpoint.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.utils.threads import in_background

_ALIGNMENT = 64  # bytes; a cache line
_CHUNK = 1 << 26
_THREAD_WORTH = 1 << 24  # bytes below which touching them is not worth a thread


class Snapshot:
    """Host memory for one copy of a run's state.

    Args:
        pinned: Page-locked, so that copies from a CUDA device run at full speed.
    """

    def __init__(self, pinned: bool = False) -> None:
        self._pinned = pinned
        self._memory: Future[Tensor] | None = None
        self._size = 0
        self._used = 0

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes, in the background if that takes noticeable time."""
        if size <= self._size:
            return
        size += size // 16 + _THREAD_WORTH // 16  # sums and histories grow from save to save
        self._size, self._memory = size, None
        if size < _THREAD_WORTH:
            self._memory = Future()
            self._memory.set_result(self._allocate(size))
            return
        self._memory = in_background("reserve", self._allocate, size)

    def take(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Copy ``state``; the copy is valid until the next one is taken.

        Tensors that share memory in ``state`` share it in the copy. Containers are copied too.

        Args:
            state: Nested dicts, lists and tuples of tensors and plain values.

        Returns:
            The same structure with tensors on the CPU.
        """
        self.reserve(_bytes_of(state, set()))
        memory = self._memory.result() if self._memory is not None else torch.empty(0)
        self._used = 0
        copied: dict[tuple[Any, ...], Tensor] = {}
        result: dict[str, Any] = self._copy(state, memory.numpy(), copied)
        if any(tensor.is_cuda for tensor in _tensors(state)):
            torch.cuda.synchronize()
        return result

    def _allocate(self, size: int) -> Tensor:
        if self._pinned:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        # NumPy asks the system for huge pages, PyTorch does not; zero_ lets other threads run.
        memory = torch.from_numpy(np.empty(size, dtype=np.uint8))
        for chunk in memory.split(_CHUNK):
            chunk.zero_()
        return memory

    def _copy(self, value: Any, memory: Any, copied: dict[tuple[Any, ...], Tensor]) -> Any:
        if isinstance(value, Tensor):
            key = _identity(value)
            if key not in copied:
                copied[key] = self._place(value.detach(), memory)
            return copied[key]
        if isinstance(value, Mapping):
            return {name: self._copy(item, memory, copied) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, memory, copied) for item in value)
        return value

    def _place(self, tensor: Tensor, memory: Any) -> Tensor:
        if tensor.numel() == 0:
            return tensor.cpu()
        start, self._used = self._used, self._used + _padded(tensor)
        place = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start)
        return place.view(tensor.shape).copy_(tensor, non_blocking=self._pinned)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _bytes_of(value: Any, seen: set[tuple[Any, ...]]) -> int:
    size = 0
    for tensor in _tensors(value):
        if (key := _identity(tensor)) not in seen:
            seen.add(key)
            size += _padded(tensor)
    return size


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _padded(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return -(-size // _ALIGNMENT) * _ALIGNMENT
