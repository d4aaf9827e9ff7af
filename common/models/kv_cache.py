"""The keys and values of what a search has decoded, written once and never moved.

Rows of one sentence share its slots: every step adds one slot per row, and each row attends to
those of its ancestors alone. A row that continues another takes over that row's line of a small
mask, where moving the keys and values themselves would copy the whole past at every step. The
rows of a sentence are then one matrix product against its slots.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LayerSlots(NamedTuple):
    """One layer's part of the cache: where the new step goes, and all steps including it."""

    new: Float[Tensor, "two B H G E"]
    keys: Float[Tensor, "_ E N"]
    values: Float[Tensor, "_ N E"]


class KVCache:
    """Keys and values of all self-attention layers, for B sentences of G rows each.

    Args:
        layers: How many layers.
        sentences: B.
        group: G, the rows of each sentence.
        heads: Attention heads H.
        width: Width E of a head.
        max_len: The most steps there will be.
        like: A tensor of the type and on the device the cache shall have.
        first_steps: Room to begin with; it doubles when it is full.
    """

    def __init__(
        self,
        layers: int,
        sentences: int,
        group: int,
        heads: int,
        width: int,
        max_len: int,
        like: Tensor,
        first_steps: int = 64,
    ) -> None:
        self.length = 0
        self.group = group
        self.max_len = max_len
        slots = min(first_steps, max_len) * group
        self._buffer = like.new_empty(layers, 2, sentences, heads, slots, width)
        # Added to the scores: 0 for a row's ancestors (and itself), else as good as -inf.
        self._mask: Tensor | None = None
        if group > 1:
            closed = torch.finfo(like.dtype).min
            self._mask = like.new_full((sentences * group, slots), closed)
            self._own = like.new_full((group, group), closed).fill_diagonal_(0.0)

    @property
    def mask(self) -> Float[Tensor, "B 1 G N"] | None:
        """What to add to the scores of the slots so far; None where every row sees all of them."""
        if self._mask is None:
            return None
        slots = self.length * self.group
        return self._mask[:, :slots].view(-1, 1, self.group, slots)

    def advance(self) -> list[LayerSlots]:
        """Make room for one more step; the caller fills ``new`` before it reads the rest.

        Raises:
            ValueError: there were ``max_len`` steps already.
        """
        if self.length == self.max_len:
            raise ValueError(
                f"cannot add a step after {self.length}: the cache was made for {self.max_len}; "
                f"make it with a larger max_len"
            )
        start = self.length * self.group
        end = start + self.group
        if end > self._buffer.shape[4]:
            self._grow(min(2 * self._buffer.shape[4], self.max_len * self.group))
        if self._mask is not None:
            self._mask.view(-1, self.group, self._mask.shape[1])[:, :, start:end] = self._own
        self.length += 1
        filled = self._buffer[..., :end, :].flatten(2, 3)
        return [
            LayerSlots(*layer)
            for layer in zip(
                self._buffer[..., start:end, :].unbind(0),
                filled[:, 0].transpose(-2, -1).unbind(0),
                filled[:, 1].unbind(0),
                strict=True,
            )
        ]

    def reorder(self, rows: Int[Tensor, "R"], sentences: Int[Tensor, "B"] | None = None) -> None:
        """Row r continues what row ``rows[r]`` of its own sentence was; only ``sentences`` stay."""
        if self._mask is not None:
            self._mask = self._mask.index_select(0, rows)
        if sentences is not None:
            self._buffer = self._buffer.index_select(2, sentences)

    def _grow(self, slots: int) -> None:
        *shape, before, width = self._buffer.shape
        buffer = self._buffer.new_empty(*shape, slots, width)
        buffer[..., :before, :] = self._buffer
        self._buffer = buffer
        if self._mask is not None:
            mask = self._mask.new_full((len(self._mask), slots), torch.finfo(self._mask.dtype).min)
            mask[:, :before] = self._mask
            self._mask = mask
