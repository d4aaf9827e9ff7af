"""The Transformer: the paper's sizes, parity with torch.nn, and what masks and caches promise."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.models import Transformer
from common.utils.errors import ConfigError

PAD = 0


def tiny(**options: object) -> Transformer:
    sizes: dict = {"num_encoder_layers": 2, "num_decoder_layers": 3, "d_ff": 24, **options}
    return Transformer(20, 16, 4, **sizes).eval()


def sentences(*lengths: int, vocab_size: int = 20) -> Tensor:
    rows = [torch.randint(1, vocab_size, (length,)) for length in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_base_has_63_082_496_parameters_and_big_214_million() -> None:
    with torch.device("meta"):
        assert count(Transformer(37_000)) == 63_082_496
        big = Transformer(37_000, d_model=1024, num_heads=16, d_ff=4096)
    assert count(big) == 214_245_376


def test_untied_matrices_and_pre_norm_add_exactly_their_parameters() -> None:
    tied = count(tiny())
    assert count(tiny(tie_embeddings=False)) == tied + 2 * 20 * 16
    assert count(tiny(target_vocab_size=30)) == tied + 30 * 16
    assert count(tiny(norm="pre")) == tied + 2 * 2 * 16
    assert count(tiny(positions="learned", max_len=50)) == tied + 2 * 50 * 16


def test_one_matrix_serves_source_target_and_output() -> None:
    model = tiny()
    assert model.output_weight is model.source_embedding.weight
    matrices = [name for name, value in model.state_dict().items() if value.shape == (20, 16)]
    assert matrices == ["source_embedding.weight"]
    two = tiny(target_vocab_size=30)
    assert two.output_weight is two.target_embedding.weight
    assert two(sentences(3), sentences(4)).shape == (1, 4, 30)


def test_scaled_embeddings_have_unit_variance_and_fresh_logits_too() -> None:
    torch.manual_seed(0)
    model = Transformer(1000, 64, 4, 2, 2, 128)
    embedded = model.source_embedding.weight * 64**0.5
    assert embedded.std().item() == pytest.approx(1.0, rel=0.02)
    logits = model(sentences(9, 9, vocab_size=1000), sentences(9, 9, vocab_size=1000))
    assert logits.std().item() == pytest.approx(1.0, rel=0.1)


def copy_attention(ours: nn.Module, theirs: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        ours.in_proj.weight.copy_(theirs.in_proj_weight)
        ours.in_proj.bias.copy_(theirs.in_proj_bias)
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())


def copy_layer(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy an encoder or decoder layer of ``torch.nn`` over ours."""
    residuals = [ours.attention_residual, ours.feed_forward_residual]
    copy_attention(ours.attention, theirs.self_attn)
    if hasattr(theirs, "multihead_attn"):
        residuals.insert(1, ours.cross_residual)
        copy_attention(ours.cross_attention, theirs.multihead_attn)
    for i, residual in enumerate(residuals, start=1):
        residual.norm.load_state_dict(getattr(theirs, f"norm{i}").state_dict())
    ours.feed_forward.linear1.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.linear2.load_state_dict(theirs.linear2.state_dict())


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_equals_torch_nn_transformer_with_its_weights(norm: str, activation: str) -> None:
    torch.manual_seed(0)
    ours = tiny(norm=norm, activation=activation).double()
    reference = nn.Transformer(
        16,
        4,
        num_encoder_layers=2,
        num_decoder_layers=3,
        dim_feedforward=24,
        activation=activation,
        batch_first=True,
        norm_first=norm == "pre",
    )
    reference = reference.double().eval()
    for parameter in reference.parameters():  # its biases and norms start at 0 and 1
        nn.init.normal_(parameter, std=0.3)
    for stack in ("encoder", "decoder"):
        theirs = getattr(reference, stack)
        for layer, their_layer in zip(getattr(ours, stack), theirs.layers, strict=True):
            copy_layer(layer, their_layer)
        if norm == "pre":
            getattr(ours, f"{stack}_norm").load_state_dict(theirs.norm.state_dict())
        else:
            theirs.norm = None  # the paper has none after a post-norm stack

    source, target = sentences(7, 4), sentences(3, 6)
    table = ours.source_positions.table
    embedded = [
        ours.source_embedding(tokens) * 16**0.5 + table[: tokens.shape[1]]
        for tokens in (source, target)
    ]
    expected = reference(
        *embedded,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.bool),
        src_key_padding_mask=source == PAD,
        memory_key_padding_mask=source == PAD,
        tgt_key_padding_mask=target == PAD,
    )
    real = target != PAD
    torch.testing.assert_close(
        ours.hidden(source, target)[real], expected[real], rtol=0, atol=1e-10
    )
    torch.testing.assert_close(
        ours(source, target)[real], expected[real] @ ours.output_weight.T, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_changes_nothing(norm: str) -> None:
    model = tiny(norm=norm)
    source, target = sentences(5, 9), sentences(6, 8)
    alone = model(source[:1, :5], target[:1, :6])
    together = model(source, target)
    torch.testing.assert_close(together[:1, :6], alone)


def test_a_source_of_padding_only_gives_finite_logits_and_gradients() -> None:
    model = tiny()
    source = torch.tensor([[PAD, PAD, PAD], [3, 4, 5]])
    model(source, sentences(4, 4)).logsumexp(-1).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_logits_do_not_depend_on_later_target_tokens() -> None:
    model, source, target = tiny(), sentences(4), sentences(6)
    changed = target.clone()
    changed[:, 3:] = changed[:, 3:] % 19 + 1
    before, after = model(source, target), model(source, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_attention_maps_are_distributions_over_what_may_be_seen() -> None:
    model = tiny()
    source, target = sentences(5, 3), sentences(4, 4)
    maps = model.attention_maps(source, target)
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "encoder": (2, 2, 4, 5, 5),
        "decoder": (3, 2, 4, 4, 4),
        "cross": (3, 2, 4, 4, 5),
    }
    for weights in maps.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert not maps["encoder"][:, 1, :, :, 3:].any()
    assert not maps["cross"][:, 1, :, :, 3:].any()
    assert not maps["decoder"].triu(1).any()


@pytest.mark.parametrize("where", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_in_training_only(where: str) -> None:
    model = tiny(**{"dropout": 0.0, where: 0.5})
    source, target = sentences(5), sentences(4)
    assert torch.equal(model(source, target), model(source, target))
    model.train()
    assert not torch.equal(model(source, target), model(source, target))


class OperatorNames(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_a_training_step_never_waits_for_a_value() -> None:
    model = tiny().train()
    source, target = sentences(5, 3), sentences(4, 4)
    with OperatorNames() as seen:
        model(source, target).logsumexp(-1).sum().backward()
    assert "aten.mm.default" in seen.names
    waiting = {"aten._local_scalar_dense.default", "aten.nonzero.default"}
    assert not waiting & seen.names


def test_wrong_names_are_refused_with_the_right_ones() -> None:
    for option in ("norm", "activation", "positions"):
        with pytest.raises(ConfigError, match=f"{option} is 'x': expected one of"):
            tiny(**{option: "x"})
