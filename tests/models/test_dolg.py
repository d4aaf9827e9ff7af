"""DOLG: what is orthogonal is orthogonal, the shortcut is exact, and every scale counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.backbones import TimmBackbone
from common.models.dolg import DOLG, LocalBranch, MultiAtrous, OrthogonalFusion, embed_multi_scale
from common.models.embedding import ConvBackbone
from common.utils.errors import ConfigError


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _dolg(**options) -> DOLG:
    torch.manual_seed(0)
    backbone = ConvBackbone(1, (6, 8, 10), features=(2, 3))
    return DOLG(backbone, 5, **{"atrous_rates": (1, 2), **options})


@pytest.mark.fact("DOLG, section 3.3")
@pytest.mark.parametrize("length", [0.01, 1.0, 300.0])
def test_at_every_position_nothing_is_left_along_the_global_vector(length: float) -> None:
    local, vector = _normal(3, 16, 5, 4), F.normalize(_normal(3, 16, seed=1)) * length
    orthogonal = OrthogonalFusion.orthogonal_map(local, vector)
    along = torch.einsum("bchw,bc->bhw", orthogonal, F.normalize(vector))
    assert (along.abs() / local.norm(dim=1)).max() < 1e-5
    # Divided by |f_g| once, it would not be, unless the length is one.
    share = torch.einsum("bchw,bc->bhw", local, vector) / length
    copied = local - share[:, None] * vector[:, :, None, None]
    along = torch.einsum("bchw,bc->bhw", copied, F.normalize(vector))
    assert ((along.abs() / local.norm(dim=1)).max() > 0.1) == (length != 1.0)


def test_local_is_the_sum_of_its_projection_and_its_orthogonal_component() -> None:
    local, vector = _normal(2, 4, 3, 3).double(), _normal(2, 4, seed=1).double()
    orthogonal = OrthogonalFusion.orthogonal_map(local.float(), vector.float())
    for b in range(2):
        for y in range(3):
            for x in range(3):
                point, axis = local[b, :, y, x], vector[b]
                expected = point - (point @ axis) / (axis @ axis) * axis
                torch.testing.assert_close(orthogonal[b, :, y, x], expected.float())


def test_the_pooled_shortcut_is_the_average_of_the_map_with_the_same_gradients() -> None:
    local, vector = _normal(3, 16, 7, 5).requires_grad_(), _normal(3, 16, seed=1).requires_grad_()
    fast = OrthogonalFusion()(local, vector)
    slow = torch.cat([vector, OrthogonalFusion.orthogonal_map(local, vector).mean((2, 3))], dim=1)
    torch.testing.assert_close(fast, slow)
    weights = _normal(3, 32, seed=2)
    for one, other in zip(
        torch.autograd.grad((fast * weights).sum(), (local, vector)),
        torch.autograd.grad((slow * weights).sum(), (local, vector)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_global_vector_of_zeros_takes_nothing_away() -> None:
    local, vector = _normal(2, 4, 3, 3), torch.zeros(2, 4, requires_grad=True)
    fused = OrthogonalFusion()(local, vector)
    torch.testing.assert_close(fused[:, 4:], local.mean((2, 3)))
    fused.sum().backward()
    assert vector.grad.isfinite().all()
    assert torch.equal(OrthogonalFusion.orthogonal_map(local, vector), local)


def test_half_precision_around_it_changes_no_bit() -> None:
    local, vector = _normal(2, 8, 3, 3), _normal(2, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        fused = OrthogonalFusion()(local, vector)
        orthogonal = OrthogonalFusion.orthogonal_map(local, vector)
    assert torch.equal(fused, OrthogonalFusion()(local, vector))
    assert torch.equal(orthogonal, OrthogonalFusion.orthogonal_map(local, vector))


@pytest.mark.fact("DOLG, section 3.2")
def test_local_features_are_directions_times_a_positive_attention() -> None:
    torch.manual_seed(0)
    branch = LocalBranch(6, 8, ()).eval()
    maps = _normal(2, 6, 4, 5)
    features, attention = branch(maps)
    projected = branch.project(maps)
    score = F.conv2d(projected.relu(), branch.attend.weight, branch.attend.bias)
    torch.testing.assert_close(attention, torch.log1p(score.exp()).squeeze(1))
    torch.testing.assert_close(features.norm(dim=1), attention)
    torch.testing.assert_close(
        F.cosine_similarity(features, projected), torch.ones(2, 4, 5), rtol=1e-4, atol=1e-4
    )


def test_dilated_branches_see_as_far_as_their_rates_and_the_average_sees_all() -> None:
    module = MultiAtrous(4, (1, 3)).double()
    for parameter in module.parameters():
        nn.init.ones_(parameter)  # no ReLU is silent
    x = _normal(1, 4, 15, 15).double().abs().requires_grad_()

    def seen(output: Tensor) -> set[int]:
        """Distances in rows from the centre of which a pixel matters."""
        gradient = torch.autograd.grad(output[0, :, 7, 7].sum(), x)[0].abs().sum((0, 1, 3))
        return {abs(int(row) - 7) for row in gradient.nonzero()}

    assert [seen(layer(x)) for layer in module.dilated] == [{0, 1}, {0, 3}]
    assert module(x).shape == x.shape
    assert seen(module(x)) == set(range(8))


def test_forward_is_the_paper_step_by_step() -> None:
    model = _dolg().eval()
    images = _normal(2, 1, 24, 16)
    local, deep = model.backbone.feature_maps(images)
    vector = F.linear(
        deep.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3),
        model.to_global.weight,
        model.to_global.bias,
    )
    features = model.local(local).features
    orthogonal = OrthogonalFusion.orthogonal_map(features, vector).mean((2, 3))
    expected = model.embed(torch.cat([vector, orthogonal], dim=1))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert model(images).shape == (2, model.embedding_dim)
    attention = model.attention(images)
    assert attention.shape == (2, *local.shape[2:])
    assert torch.equal(attention, model.local(local).attention)
    assert (attention > 0).all()


@pytest.mark.parametrize("options", [{}, {"atrous_rates": ()}, {"fusion_dim": 7}])
def test_every_parameter_learns(options: dict) -> None:
    model = _dolg(**options)
    (model(_normal(3, 1, 24, 24)) * _normal(3, 5, seed=1)).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_on_timms_networks_the_sizes_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = DOLG(TimmBackbone("resnet50", features=(3, 4)))
        assert model(torch.zeros(2, 3, 512, 384)).shape == (2, 512)
        assert model.attention(torch.zeros(2, 3, 512, 384)).shape == (2, 32, 24)
    assert (model.to_global.in_features, model.to_global.out_features) == (2048, 1024)
    assert model.embed.in_features == 2048
    assert [layer.dilation for layer in model.local.atrous.dilated] == [(6, 6), (12, 12), (18, 18)]


def test_it_trains_in_half_precision_without_infinite_numbers() -> None:
    model = _dolg()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(_normal(4, 1, 16, 16) * 1e3).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_dolg_cannot_be_made_of_is_named() -> None:
    for backbone in (ConvBackbone(), nn.Identity()):
        with pytest.raises(ConfigError, match=r"takes two stages, such as features=\(3, 4\)"):
            DOLG(backbone)
    with pytest.raises(ConfigError, match=r"fusion_dim 0.*expected at least 1"):
        _dolg(fusion_dim=0)


# ---- several scales --------------------------------------------------------------------------


def test_the_mean_over_scales_is_of_directions_and_has_length_one() -> None:
    images = torch.rand(2, 3, 40, 20, generator=torch.Generator().manual_seed(0))
    sizes: list[tuple[int, ...]] = []

    def embed(pixels: Tensor) -> Tensor:
        sizes.append(tuple(pixels.shape[2:]))
        return pixels.mean((2, 3)) * pixels.shape[2]  # large images do not count for more

    found = embed_multi_scale(embed, images, scales=(0.5, 1.0, 1.4142))
    assert sizes == [(20, 10), (40, 20), (57, 28)]
    each = [
        F.normalize(F.interpolate(images, size, mode="bilinear", antialias=True).mean((2, 3)))
        for size in sizes
    ]
    torch.testing.assert_close(found, F.normalize(torch.stack(each).mean(0)))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_one_scale_is_the_embedding_itself_and_the_defaults_are_the_papers() -> None:
    model, images = _dolg().eval(), _normal(2, 1, 24, 24)
    assert torch.equal(
        embed_multi_scale(model, images, (1.0,)), F.normalize(F.normalize(model(images)))
    )
    several = embed_multi_scale(model, images)
    assert not several.requires_grad
    assert not torch.allclose(several, F.normalize(model(images)))


def test_scales_without_a_meaning_and_a_model_that_learns_are_refused() -> None:
    model, images = _dolg(), _normal(2, 1, 24, 24)
    with pytest.raises(ConfigError, match="training mode"):
        embed_multi_scale(model, images)
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="expected positive numbers"):
            embed_multi_scale(model.eval(), images, scales)
