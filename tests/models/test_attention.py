"""Attention: both paths compute the same, masks leave no NaN."""

import pytest
import torch
from torch import Tensor, nn

from common.models import MultiHeadAttention, causal_mask, scaled_dot_product
from common.utils.errors import ConfigError


def random_heads(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def padding(lengths: list[int], longest: int) -> Tensor:
    return (torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None, None]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "keep", [None, padding([5, 3, 0], 5)], ids=["no padding", "padding and one empty row"]
)
def test_fused_and_explicit_paths_give_the_same_output_and_gradients(
    causal: bool, keep: Tensor | None
) -> None:
    torch.manual_seed(0)
    inputs = [random_heads(3, 2, 5, 8) for _ in range(3)]
    results = []
    for need_weights in (False, True):
        output, weights = scaled_dot_product(
            *inputs, keep=keep, causal=causal, need_weights=need_weights
        )
        assert (weights is not None) == need_weights
        results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
    for fused, explicit in zip(*results, strict=True):
        torch.testing.assert_close(fused, explicit, rtol=0, atol=1e-12)


def test_the_causal_mask_is_aligned_with_the_last_key() -> None:
    expected = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    assert torch.equal(causal_mask(3, 5), expected)


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_causal_query_does_not_see_the_future(need_weights: bool) -> None:
    query, key, value = (random_heads(1, 2, 6, 4) for _ in range(3))
    output, _ = scaled_dot_product(query, key, value, causal=True, need_weights=need_weights)
    (gradient,) = torch.autograd.grad(output[:, :, 2].sum(), value)
    assert gradient[:, :, :3].all()
    assert not gradient[:, :, 3:].any()


def test_multi_head_attention_equals_torch_with_its_weights() -> None:
    torch.manual_seed(1)
    reference = nn.MultiheadAttention(16, 4, batch_first=True).double()
    ours = MultiHeadAttention(16, 4).double()
    ours.load_state_dict(
        {
            "in_proj.weight": reference.in_proj_weight,
            "in_proj.bias": torch.randn_like(reference.in_proj_bias),
            "out_proj.weight": reference.out_proj.weight,
            "out_proj.bias": torch.randn_like(reference.out_proj.bias),
        }
    )
    reference.in_proj_bias.data = ours.in_proj.bias.data
    reference.out_proj.bias.data = ours.out_proj.bias.data
    query, memory = torch.randn(2, 5, 16).double(), torch.randn(2, 7, 16).double()
    keep = padding([7, 4], 7)

    expected, expected_weights = reference(
        query, memory, memory, key_padding_mask=~keep[:, 0, 0], average_attn_weights=False
    )
    output, weights = ours(query, memory, keep=keep, need_weights=True)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_each_projection_is_xavier_uniform_on_its_own() -> None:
    attention = MultiHeadAttention(64, 4)
    bound = (6 / (64 + 64)) ** 0.5
    for weight in (*attention.in_proj.weight.chunk(3), attention.out_proj.weight):
        assert 0.95 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not attention.in_proj.bias.any()


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="d_model is 10 and num_heads is 4"):
        MultiHeadAttention(10, 4)
