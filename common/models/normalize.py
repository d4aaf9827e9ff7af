"""Pixels 0 to 255 to what a network takes: once per batch, into memory that is used again.

An allocation of more than 32 MiB goes back to the system when it is freed, and every page of the
next is mapped and cleared anew: that, and not the arithmetic, is most of what the usual expression
costs for a batch of photos. A buffer is handed out only while nobody else holds it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

_ROOMS = 2  # buffers kept: a loop often holds one result while it asks for the next
_CHUNK = 1 << 19  # values worked on at once; as floats they stay in a core's cache


class Normalize(nn.Module):
    """``(images / 255 - mean) / std``: mean 0 and standard deviation 1 in every channel.

    The result is that of the plain expression to the last bit and keeps the layout of the images
    (contiguous, or channels last). uint8 images on the CPU go into a buffer that a later
    batch uses again, once neither a graph that waits for its backward pass nor anybody else holds
    the result; elsewhere, and while a model is traced, compiled or exported, the plain expression
    is computed.

    Args:
        mean: Of each channel, with values from 0 to 1.
        std: The standard deviation of the same; a channel without any is only centred.

    Raises:
        ValueError: if they differ in length.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} channels and std has {len(std)}")
        # Not in the state: both stand in the configuration, in one place.
        centre, spread = (
            torch.tensor(list(values)).float().view(-1, 1, 1) for values in (mean, std)
        )
        self.register_buffer("mean", centre, persistent=False)
        self.register_buffer("std", torch.where(spread > 0, spread, 1.0), persistent=False)
        self._rooms: list[Tensor] = []

    def forward(self, images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise a batch.

        Args:
            images: 0 to 255, uint8 or floating point.

        Returns:
            float32.
        """
        reusable = images.dtype is torch.uint8 and images.device.type == "cpu" and images.numel()
        if not reusable or _USE_COUNT is None or _is_traced():
            return (images.float() / 255.0 - self.mean) / self.std
        if images.is_contiguous():
            axes, restore = (0, 1, 2, 3), (0, 1, 2, 3)
        elif images.is_contiguous(memory_format=torch.channels_last):
            axes, restore = (0, 2, 3, 1), (0, 3, 1, 2)
        else:
            return (images.float() / 255.0 - self.mean) / self.std
        pixels = images.permute(axes)
        result = self._room(pixels.numel()).view(pixels.shape)
        mean, std = self.mean, self.std
        if axes[1] == 2:  # three values a pixel are too few to work on at once, a row is not
            pixels, rows = pixels.flatten(2), result.flatten(2)
            mean, std = (values.flatten().repeat(images.shape[3]) for values in (mean, std))
        else:
            rows = result
        count = max(1, _CHUNK // rows[0].numel())
        for start in range(0, len(rows), count):
            part = rows[start : start + count]
            part.copy_(pixels[start : start + count]).div_(255.0).sub_(mean).div_(std)
        return result.permute(restore)

    def __getstate__(self) -> dict[str, Any]:
        """Without the buffers: a copy of the module makes its own."""
        return {**self.__dict__, "_rooms": []}

    def _room(self, size: int) -> Tensor:
        """A flat float32 tensor of a size that nobody holds."""
        kept = [buffer for buffer in self._rooms if len(buffer) >= size]
        buffer = next((buffer for buffer in kept if _holders(buffer) == _ALONE), None)
        if buffer is None:
            buffer = torch.empty(size)
            if not torch.is_inference_mode_enabled():  # its tensors may not be used outside
                self._rooms = [*kept, buffer][-_ROOMS:]
        return buffer.detach()[:size]


def _is_traced() -> bool:
    """Whether what runs now is being written down, to be run elsewhere."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def _holders(tensor: Tensor) -> int:
    """How many tensors and storages share the memory, those that only a graph holds included."""
    return int(_USE_COUNT(tensor.untyped_storage()._cdata)) if _USE_COUNT else 0


# Not public, but all there is: a weak reference to a tensor does not see its views.
_USE_COUNT = getattr(torch._C, "_storage_Use_Count", None)
_ALONE = _holders(torch.empty(1))
