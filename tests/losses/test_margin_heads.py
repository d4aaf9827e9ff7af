"""The heads by their papers' names are the one head, for Python and for configurations."""

import pytest
import torch

from common import losses
from common.config.targets import check_targets, instantiate
from common.config.validate import InvalidValue
from common.losses import AngularMarginHead, ArcFace, SubcenterArcFace

D, K = 6, 5
HEADS = {
    "ArcFace": ("arcface", 0.5, 1),
    "SubcenterArcFace": ("arcface", 0.5, 3),
    "CosFace": ("cosface", 0.35, 1),
    "CurricularFace": ("curricular", 0.5, 1),
}
GIVEN = {
    "margin": [0.1, 0.2, 0.3, 0.4, 0.5],
    "scale": 12.0,
    "learnable_scale": True,
    "num_centers": 2,
    "class_weights": [1.0, 2.0, 3.0, 4.0, 5.0],
}


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, D, generator=generator), torch.randint(K, (16,), generator=generator)


def _same(one: AngularMarginHead, other: AngularMarginHead) -> None:
    assert torch.equal(one.margins, other.margins)
    assert torch.equal(one.scale, other.scale)
    other.load_state_dict(one.state_dict())
    embeddings, labels = _batch()
    for found, expected in zip(one(embeddings, labels), other(embeddings, labels), strict=True):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


@pytest.mark.parametrize("name", HEADS)
def test_a_name_is_its_kind_with_its_papers_margin(name: str) -> None:
    kind, margin, centers = HEADS[name]
    head = getattr(losses, name)(D, K)
    assert isinstance(head, AngularMarginHead)
    assert head.kind == kind
    _same(head, AngularMarginHead(D, K, kind=kind, margin=margin, num_centers=centers))


@pytest.mark.parametrize("name", HEADS)
def test_a_name_takes_the_heads_other_arguments(name: str) -> None:
    head = getattr(losses, name)(D, K, **GIVEN)
    assert isinstance(head.scale, torch.nn.Parameter)
    _same(head, AngularMarginHead(D, K, kind=HEADS[name][0], **GIVEN))


def test_one_center_of_the_sub_centers_is_arcface() -> None:
    _same(SubcenterArcFace(D, K, num_centers=1), ArcFace(D, K))


@pytest.mark.parametrize("name", HEADS)
def test_a_configuration_names_a_head(name: str) -> None:
    section = {"_target_": f"common.losses.{name}", "num_classes": K, "margin": 0.25}
    head = instantiate(section, embedding_dim=D)
    assert type(head) is getattr(losses, name)
    assert head.centers.shape == (K * HEADS[name][2], D)
    assert head.margins.item() == 0.25


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ("NTXentLoss", {"temperature": 0.2}),
        ("SupervisedNTXentLoss", {"temperature": 0.2}),
        ("MultiSimilarityLoss", {"alpha": 2.0, "epsilon": 0.2}),
        ("TripletMarginLoss", {"mining": "semi_hard"}),
    ],
)
def test_a_configuration_names_a_loss_of_pairs(target: str, values: dict[str, object]) -> None:
    loss = instantiate({"_target_": f"common.losses.{target}", **values})
    assert type(loss) is getattr(losses, target)
    assert all(getattr(loss, name) == value for name, value in values.items())


def test_the_kind_is_no_argument_of_a_name() -> None:
    with pytest.raises(InvalidValue, match=r"kind is no argument of common\.losses\.ArcFace"):
        check_targets({"_target_": "common.losses.ArcFace", "kind": "cosface"})


def test_every_name_of_the_package_can_be_imported() -> None:
    assert set(losses.__all__) == set(losses._HOMES)
    assert all(getattr(losses, name).__name__ == name for name in losses.__all__)
