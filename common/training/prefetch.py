"""Copy the next batch to the GPU while the current one is computed."""

from collections.abc import Generator, Iterator, Mapping

import torch
from torch import Tensor

from common.training.task import Batch, rebuilt, tensors_of, to_device


def read_ahead(
    batches: Iterator[Batch | None], device: torch.device
) -> Generator[Batch | None, None, None]:
    """The same batches on a CUDA ``device``, each copied through pinned memory one batch ahead.

    The copy runs on its own stream; the training stream waits for it, never the host. Closing the
    generator closes ``batches``.

    Args:
        batches: On the CPU; ``None`` stands for a share that is empty.
        device: A CUDA device.
    """
    copies = torch.cuda.Stream(device)
    ahead: list[tuple[Batch | None, torch.cuda.Event]] = []
    try:
        for batch in batches:
            with torch.cuda.stream(copies):
                copy = to_device(_pinned(batch), device)
                ahead.append((copy, copies.record_event()))
            if len(ahead) > 1:
                yield _ready(*ahead.pop(0))
        while ahead:
            yield _ready(*ahead.pop(0))
    finally:
        if isinstance(batches, Generator):
            batches.close()


def _ready(batch: Batch | None, copied: torch.cuda.Event) -> Batch | None:
    current = torch.cuda.current_stream()
    current.wait_event(copied)
    for tensor in tensors_of(batch):
        tensor.record_stream(current)  # its memory is not given away while the step still reads it
    return batch


def _pinned(batch: Batch) -> Batch:
    if isinstance(batch, Tensor):
        return batch if batch.is_cuda or batch.is_pinned() else batch.pin_memory()
    if isinstance(batch, Mapping):
        return {key: _pinned(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return rebuilt(batch, [_pinned(value) for value in batch])
    return batch
