"""Copy the next batch to the GPU while the current one is computed."""

from collections.abc import Generator, Iterator, Mapping

import torch
from torch import Tensor

from common.training.task import Batch, tensors_of, to_device


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
    ahead: list[Batch | None] = []
    try:
        for batch in batches:
            with torch.cuda.stream(copies):
                ahead.append(to_device(_pinned(batch), device))
            if len(ahead) > 1:
                yield _ready(ahead.pop(0), copies)
        while ahead:
            yield _ready(ahead.pop(0), copies)
    finally:
        if isinstance(batches, Generator):
            batches.close()


def _ready(batch: Batch | None, copies: torch.cuda.Stream) -> Batch | None:
    current = torch.cuda.current_stream(copies.device)
    current.wait_stream(copies)
    for tensor in tensors_of(batch):
        tensor.record_stream(current)  # its memory is not given away while the step still reads it
    return batch


def _pinned(batch: Batch) -> Batch:
    if isinstance(batch, Tensor):
        return batch if batch.is_cuda or batch.is_pinned() else batch.pin_memory()
    if isinstance(batch, Mapping):
        return {key: _pinned(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_pinned(value) for value in batch)
    return batch
