"""A Transformer's decoder, one token at a time: the same function as ``Transformer.decode``.

What a step needs is arranged once for each search: weights in the order that is fastest to read
for few rows, the source's keys and values, room for the target's. Dropout is never applied.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from common.models.attention import KeyValue, MultiHeadAttention
from common.models.kv_cache import KVCache, LayerSlots
from common.models.layers import DecoderLayer, Residual
from common.models.packed_linear import PackedLinear


class DecoderState:
    """What a decoder remembers between two steps of a search.

    Args:
        layers: The decoder's layers.
        norm: What follows the last of them.
        output_weight: The matrix that turns a hidden state into logits.
        memory: Per layer, the source's projected keys and values (B sentences).
        source_mask: True where the source is not padding.
        max_len: The most steps there will be.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        norm: nn.Module,
        output_weight: Float[Tensor, "V D"],
        memory: Sequence[KeyValue],
        source_mask: Bool[Tensor, "B S"],
        max_len: int,
    ) -> None:
        self.max_len = max_len
        self._layers = layers
        self._norm = norm
        self._output_weight = output_weight
        self._steps: list[_LayerStep] = []
        self._cache: KVCache | None = None
        # A sentence of padding only attends to nothing, which is to say to zeros.
        hidden = ~source_mask[:, None, :, None]
        self._memory = [
            (key.transpose(-2, -1).contiguous(), value.masked_fill(hidden, 0.0))
            for key, value in memory
        ]
        self._source_mask: Tensor | None = None
        if hidden.any():
            key = memory[0].key
            closed = torch.zeros_like(source_mask, dtype=key.dtype)
            closed.masked_fill_(~source_mask, torch.finfo(key.dtype).min)
            self._source_mask = closed[:, None, None]

    @property
    def length(self) -> int:
        """Steps so far."""
        return 0 if self._cache is None else self._cache.length

    def step(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "R V"]:
        """Logits of the next token of each row, after one more embedded token was read."""
        if self._cache is None:
            self._cache = self._begin(rows=len(x))
        slots = self._cache.advance()
        mask = self._cache.mask
        for layer, memory, layer_slots in zip(self._steps, self._memory, slots, strict=True):
            x = layer(x, layer_slots, mask, memory, self._source_mask)
        return self._output(self._norm(x))

    def reorder(self, rows: Int[Tensor, "R"], sentences: Int[Tensor, "B"] | None = None) -> None:
        """Row r continues what row ``rows[r]`` of its own sentence was; only ``sentences`` stay."""
        if self._cache is not None:
            self._cache.reorder(rows, sentences)
        if sentences is not None:
            self._memory = [(key[sentences], value[sentences]) for key, value in self._memory]
            if self._source_mask is not None:
                self._source_mask = self._source_mask[sentences]

    def _begin(self, rows: int) -> KVCache:
        self._steps = [_LayerStep(layer, rows) for layer in self._layers]
        self._output = PackedLinear(self._output_weight, None, rows)
        value = self._memory[0][1]
        sentences, heads, _, width = value.shape
        return KVCache(
            len(self._layers),
            sentences,
            rows // sentences,
            heads,
            width,
            self.max_len,
            like=value,
        )


class _LayerStep:
    """One layer of the decoder, for one new position in each row."""

    def __init__(self, layer: DecoderLayer, rows: int) -> None:
        self.attention_residual: Residual = layer.attention_residual
        self.cross_residual: Residual = layer.cross_residual
        self.feed_forward_residual: Residual = layer.feed_forward_residual
        self.project, self.merge = _packed_attention(layer.attention, 3, rows)
        self.cross_project, self.cross_merge = _packed_attention(layer.cross_attention, 1, rows)
        self.linear1 = PackedLinear.of(layer.feed_forward.linear1, rows)
        self.activation = layer.feed_forward.activation
        self.linear2 = PackedLinear.of(layer.feed_forward.linear2, rows)

    def __call__(
        self,
        x: Float[Tensor, "R D"],
        slots: LayerSlots,
        mask: Float[Tensor, "B 1 G N"] | None,
        memory: tuple[Float[Tensor, "B H E S"], Float[Tensor, "B H S E"]],
        source_mask: Float[Tensor, "B 1 1 S"] | None,
    ) -> Float[Tensor, "R D"]:
        _, sentences, heads, group, width = slots.new.shape
        residual = self.attention_residual
        projected = self.project(residual.enter(x)).view(sentences, group, 3, heads, width)
        slots.new.copy_(projected[:, :, 1:].permute(2, 0, 3, 1, 4))
        query = projected[:, :, 0].transpose(1, 2)
        x = residual.leave(x, self.merge(_attend(query, slots.keys, slots.values, mask)))

        residual = self.cross_residual
        query = self.cross_project(residual.enter(x)).view(sentences, group, heads, width)
        key, value = memory
        attended = _attend(
            query.transpose(1, 2), key.flatten(0, 1), value.flatten(0, 1), source_mask
        )
        x = residual.leave(x, self.cross_merge(attended))

        residual = self.feed_forward_residual
        inner = self.activation(self.linear1(residual.enter(x)))
        return residual.leave(x, self.linear2(inner))


def _packed_attention(
    attention: MultiHeadAttention, parts: int, rows: int
) -> tuple[PackedLinear, PackedLinear | nn.Module]:
    """The first ``parts`` of the projections (query, key, value) and the output projection.

    The queries come divided by sqrt(d_k), so that the scores need not be.
    """
    weight, bias = attention.in_proj.weight.detach(), attention.in_proj.bias.detach()
    d_model = weight.shape[1]
    weight, bias = weight[: parts * d_model].clone(), bias[: parts * d_model].clone()
    scale = (d_model // attention.num_heads) ** -0.5
    weight[:d_model] *= scale
    bias[:d_model] *= scale
    return PackedLinear(weight, bias, rows), PackedLinear.of(attention.out_proj, rows)


def _attend(
    query: Float[Tensor, "B H G E"],
    keys: Float[Tensor, "BH E N"],
    values: Float[Tensor, "BH N E"],
    mask: Float[Tensor, "B 1 #G N"] | None,
) -> Float[Tensor, "R D"]:
    """softmax(Q K^T + mask) V for scaled queries, the heads merged.

    Two batched products beat the fused kernels here: a query is a single position.
    """
    sentences, heads, group, width = query.shape
    scores = torch.bmm(query.reshape(-1, group, width), keys)
    if mask is not None:
        scores.view(sentences, heads, group, -1).add_(mask)
    attended = torch.bmm(scores.softmax(dim=-1), values).view(sentences, heads, group, width)
    return attended.transpose(1, 2).reshape(sentences * group, heads * width)
