"""GPT-2's model: its size, its beginning, and what a position can see."""

import math

import pytest
import torch

from common.models import GPT

TINY = {"vocab_size": 65, "d_model": 32, "num_heads": 4, "num_layers": 3, "max_len": 24}


def tiny(**values) -> GPT:
    torch.manual_seed(0)
    return GPT(**(TINY | {"dropout": 0.0} | values)).eval()


@pytest.mark.fact("Table 2")
def test_the_smallest_model_of_table_2_has_124_439_808_parameters() -> None:
    with torch.device("meta"):
        model = GPT()
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


@pytest.mark.fact("section 2.3")
def test_residual_projections_begin_smaller_by_the_root_of_the_number_of_residual_sums() -> None:
    model = tiny(d_model=256, num_layers=8)
    for block in model.layers:
        for linear in (block.attention.in_proj, block.feed_forward.linear1):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.03)
        for linear in (block.attention.out_proj, block.feed_forward.linear2):
            assert linear.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.03)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_the_loss_begins_at_the_log_of_the_vocabulary() -> None:
    model, tokens = tiny(), torch.randint(65, (32, 24))
    logits = model(tokens)
    target = torch.randint(65, (32, 24))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.03)


def test_a_later_token_changes_no_earlier_logit() -> None:
    model, tokens = tiny(), torch.randint(65, (2, 20))
    before = model(tokens)
    changed = tokens.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 65
    after = model(changed)
    assert after[:, :12].equal(before[:, :12])
    assert not after[:, 12:].isclose(before[:, 12:]).all(-1).any()


@pytest.mark.parametrize("pieces", [[1] * 20, [7] + [1] * 13, [5, 6, 9], [20]])
def test_logits_with_a_cache_are_those_without(pieces: list[int]) -> None:
    model, tokens = tiny(), torch.randint(65, (3, 20))
    whole, cache, read = model(tokens), model.new_cache(3), 0
    with torch.no_grad():
        for count in pieces:
            logits = model.next_logits(tokens[:, read : read + count], cache)
            read += count
            torch.testing.assert_close(logits, whole[:, read - 1], atol=1e-5, rtol=1e-5)
    assert cache.length == 20


def test_several_steps_at_once_need_one_row_for_each_sentence() -> None:
    from common.models import KVCache

    cache = KVCache(1, 2, 3, 4, 8, 10, like=torch.zeros(1))
    with pytest.raises(ValueError, match="2 steps at once need a group of 1"):
        cache.advance(2)
    with pytest.raises(ValueError, match="cannot add 11 steps after 0"):
        cache.advance(11)


def test_it_computes_what_a_gpt2_of_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    from papers.gpt2.hf_weights import load_hf_weights

    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=65, n_embd=32, n_head=4, n_layer=3, n_positions=24, initializer_range=0.3
    )
    reference = transformers.GPT2LMHeadModel(config).eval()
    model, tokens = tiny(), torch.randint(65, (2, 24))
    load_hf_weights(model, reference.state_dict())
    with torch.no_grad():
        expected = reference(tokens).logits
        torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == reference.num_parameters()
