"""The keys and values of what a search has decoded, written in place and not moved at each step.

Rows of one sentence share its slots: every step adds one slot per row, and each row attends to
those of its ancestors alone. A row that continues another takes over that row's line of a small
mask, where moving the keys and values themselves would copy the whole past at every step; and
the rows of a sentence are one matrix product against its slots. Where the room is used up, the
slots that nobody descends from any more are cleared away.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LayerSlots(NamedTuple):
    """One layer's part of the cache: where the new step goes, and all slots including it."""

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
    """

    first_steps = 16  # room to begin with

    def __init__(
        self,
        layers: int,
        sentences: int,
        group: int,
        heads: int,
        width: int,
        max_len: int,
        like: Tensor,
    ) -> None:
        self.length = 0
        self.group = group
        self.max_len = max_len
        self._filled = 0
        slots = min(self.first_steps, max_len) * group
        self._buffer = like.new_empty(layers, 2, sentences, heads, slots, width)
        # Added to the scores: 0 for a row's ancestors (and itself), else as good as -inf.
        self._closed = torch.finfo(like.dtype).min
        self._mask: Tensor | None = None
        if group > 1:
            self._mask = like.new_full((sentences * group, slots), self._closed)
            self._own = like.new_full((group, group), self._closed).fill_diagonal_(0.0)

    @property
    def slots(self) -> int:
        """The slots of each sentence there is room for."""
        return self._buffer.shape[4]

    @property
    def mask(self) -> Float[Tensor, "B 1 G N"] | None:
        """What to add to the scores of the slots so far; None where every row sees all of them."""
        if self._mask is None:
            return None
        return self._mask[:, : self._filled].view(-1, 1, self.group, self._filled)

    def advance(self, steps: int = 1) -> list[LayerSlots]:
        """Make room for one more step; the caller fills ``new`` before it reads the rest.

        Args:
            steps: More than one at once, a prompt, where each sentence has one row.

        Raises:
            ValueError: there would be more than ``max_len`` steps, or several at once for a group.
        """
        if self.length + steps > self.max_len:
            what = "a step" if steps == 1 else f"{steps} steps"
            raise ValueError(
                f"cannot add {what} after {self.length}: the cache was made for {self.max_len}; "
                f"make it with a larger max_len"
            )
        if steps > 1 and self.group > 1:
            raise ValueError(f"{steps} steps at once need a group of 1, this one is {self.group}")
        if self._filled + self.group * steps > self.slots and not self._clear():
            enough = max(2 * self.slots, self._filled + self.group * steps)
            self._grow(min(enough, self.max_len * self.group))
        start, end = self._filled, self._filled + self.group * steps
        if self._mask is not None:
            self._mask.view(-1, self.group, self.slots)[:, :, start:end] = self._own
        self._filled = end
        self.length += steps
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

    def _clear(self) -> bool:
        """Drop the slots without descendants, if they are at least half; says whether it did."""
        if self._mask is None:
            return False
        seen = self._mask[:, : self._filled].view(-1, self.group, self._filled) == 0
        living = seen.any(dim=1)
        most = int(living.sum(dim=1).max())  # waits for the device, as rarely as there is no room
        if 2 * most > self.slots or most + self.group > self.slots:
            return False
        # In the order of time; where a sentence has fewer, slots that are closed to all fill up.
        kept = living.sort(dim=1, descending=True, stable=True).indices[:, :most]
        layers, two, sentences, heads, slots, width = self._buffer.shape
        starts = torch.arange(layers * two * sentences * heads, device=kept.device) * slots
        places = starts.view(-1, sentences, heads, 1) + kept[:, None]
        self._buffer[..., :most, :] = (
            self._buffer.view(-1, width)
            .index_select(0, places.flatten())
            .view(layers, two, sentences, heads, most, width)
        )
        mask = self._mask.view(sentences, self.group, slots)
        mask[:, :, :most] = mask.gather(2, kept[:, None].expand(-1, self.group, -1))
        self._filled = most
        return True

    def _grow(self, slots: int) -> None:
        *shape, before, width = self._buffer.shape
        buffer = self._buffer.new_empty(*shape, slots, width)
        buffer[..., :before, :] = self._buffer
        self._buffer = buffer
        if self._mask is not None:
            mask = self._mask.new_full((len(self._mask), slots), self._closed)
            mask[:, :before] = self._mask
            self._mask = mask
