"""One token at a time is the whole forward pass: caches, shared slots, packed weights."""

import pytest
import torch
from torch import Tensor, nn

from common.models import KVCache, Transformer
from common.models.packed_linear import PackedLinear

PAD = 0


def tiny(**options: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(20, 16, 4, 2, 3, 32, pad_id=PAD, **options).eval()


def sentences(*lengths: int) -> Tensor:
    rows = [torch.randint(1, 20, (length,)) for length in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


@torch.no_grad()
@pytest.mark.parametrize("source_lengths", [(7,), (7, 3), (5, 5)])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "post", "positions": "sinusoidal"},
        {"norm": "post", "positions": "learned", "activation": "gelu"},
        {"norm": "pre", "tie_embeddings": False},
    ],
    ids=str,
)
def test_logits_step_by_step_equal_those_of_the_whole_pass(
    options: dict[str, object], group: int, source_lengths: tuple[int, ...]
) -> None:
    model = tiny(**options)
    source = sentences(*source_lengths)
    target = sentences(*[40] * len(source) * group)  # more than the cache begins with
    state = model.prepare(source, max_len=40)
    steps = torch.stack([model.step(target[:, t], state) for t in range(40)], dim=1)
    whole = model(source.repeat_interleave(group, 0), target)
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_in_double_precision_they_are_equal_to_1e_12() -> None:
    model = tiny().double()
    source, target = sentences(7, 3), sentences(9, 9)
    state = model.prepare(source, max_len=9)
    steps = torch.stack([model.step(target[:, t], state) for t in range(9)], dim=1)
    torch.testing.assert_close(steps, model(source, target), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_source_of_padding_only_is_attended_to_as_in_the_whole_pass() -> None:
    model = tiny()
    source, target = torch.tensor([[PAD, PAD, PAD], [3, 4, 5]]), sentences(2, 2)
    state = model.prepare(source, max_len=2)
    steps = torch.stack([model.step(target[:, t], state) for t in range(2)], dim=1)
    torch.testing.assert_close(steps, model(source, target), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("steps", [8, 100])
def test_rows_reordered_at_every_step_go_on_as_the_chosen_ones(steps: int) -> None:
    """Also where slots without descendants were cleared, and after sentences have left."""
    model = tiny()
    group = 4
    source = sentences(7, 3, 5, 4, 6)
    state = model.prepare(source, max_len=steps)
    past = torch.empty(len(source) * group, 0, dtype=torch.long)
    for t in range(steps):
        tokens = torch.randint(1, 20, (len(past),))
        past = torch.cat([past, tokens[:, None]], dim=1)
        logits = model.step(tokens, state)
        if t % 5 == 4 or t == steps - 1:
            whole = model(source.repeat_interleave(group, 0), past)
            torch.testing.assert_close(logits, whole[:, -1], rtol=0, atol=1e-5)
        parents = torch.randint(0, group, (len(source), group))
        rows = (torch.arange(len(source))[:, None] * group + parents).flatten()
        if t in (steps // 3, 2 * steps // 3):
            staying = torch.arange(len(source))[torch.arange(len(source)) != 1]
            rows = rows.view(-1, group)[staying].flatten()
            state.reorder(rows, staying)
            source = source[staying]
        else:
            state.reorder(rows)
        past = past[rows]
    assert len(source) == 3


def test_room_follows_what_lives_and_not_what_was_written() -> None:
    group, steps = 4, 512
    cache = KVCache(1, 1, group, 1, 1, max_len=steps, like=torch.empty(0))
    for _ in range(steps):
        for slots in cache.advance():
            slots.new.zero_()
        cache.reorder(torch.zeros(group, dtype=torch.long))  # all continue the first
    assert cache.slots <= 2 * steps < steps * group
    with pytest.raises(ValueError, match="cannot add a step after 512: the cache was made for 512"):
        cache.advance()


def test_a_step_writes_in_place() -> None:
    cache = KVCache(2, 3, 1, 2, 4, max_len=9, like=torch.empty(0))
    first, second = (cache.advance()[1] for _ in range(2))
    second.new.fill_(7.0)
    assert first.keys.data_ptr() == second.keys.data_ptr()
    assert second.keys.shape == (6, 4, 2)
    assert (second.keys[:, :, 1] == 7).all()
    assert (second.values[:, 1] == 7).all()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 8, 33])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 192), (64, 64), (256, 64), (64, 1001)])
def test_a_packed_layer_equals_the_linear_layer_for_any_number_of_rows(
    inputs: int, outputs: int, rows: int
) -> None:
    linear = nn.Linear(inputs, outputs)
    packed = PackedLinear.of(linear, rows)
    for x in (torch.randn(rows, inputs), torch.randn(1, inputs)):
        torch.testing.assert_close(packed(x), linear(x), rtol=0, atol=1e-5)


def test_a_layer_that_is_more_than_linear_is_not_packed() -> None:
    class Adapter(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    adapter = Adapter(4, 4)
    assert PackedLinear.of(adapter, 2) is adapter


@torch.no_grad()
def test_a_search_in_progress_keeps_its_weights_and_the_next_one_sees_the_new() -> None:
    model = tiny()
    source, tokens = sentences(4), torch.tensor([3])
    before = model.step(tokens, model.prepare(source, 2))
    model.decoder[0].feed_forward.linear1.weight.data.mul_(2.0)
    after = model.step(tokens, model.prepare(source, 2))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model(source, tokens[None])[:, 0], rtol=0, atol=1e-5)
