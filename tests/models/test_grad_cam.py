"""Grad-CAM against a closed form, over kinds of models, and what it leaves behind."""

import copy

import pytest
import torch
from torch import nn

from common.models.grad_cam import grad_cam
from common.models.vit import VisionTransformer
from common.utils.errors import ConfigError, DataError


class _Cam(nn.Module):
    """Convolution, mean over the image, linear: its Grad-CAM is CAM, ``relu(sum_k w_ck A_k)``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Dropout2d(0.5))
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.features(images)).mean(dim=(2, 3)))


def _images(size: int = 8, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_of_a_mean_and_a_linear_layer_it_is_the_class_activation_map() -> None:
    model = _Cam().eval()
    classes = torch.tensor([0, 3, 3])
    features = model.norm(model.features(_images()))
    expected = torch.einsum("bd,bdhw->bhw", model.head.weight[classes], features).relu()
    expected = expected / expected.amax(dim=(1, 2), keepdim=True)
    maps = grad_cam(model, _images(), classes=classes)
    torch.testing.assert_close(maps, expected)


def test_by_default_it_speaks_for_the_predicted_class() -> None:
    model = _Cam().eval()
    predicted = model(_images()).argmax(1)
    assert torch.equal(grad_cam(model, _images()), grad_cam(model, _images(), classes=predicted))


def test_smaller_maps_are_enlarged_to_the_image_without_moving() -> None:
    """One bright quarter of the image lights up one quarter of the map."""
    model = nn.Sequential(
        nn.AvgPool2d(4),
        nn.Conv2d(1, 1, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1, 2, bias=False),
    )
    nn.init.ones_(model[1].weight)
    model[4].weight.data = torch.tensor([[1.0], [-1.0]])
    image = torch.zeros(1, 1, 8, 16)
    image[..., :4, 12:] = 1.0
    maps = grad_cam(model, image, classes=torch.tensor([0]))
    assert maps.shape == (1, 8, 16)
    assert maps[0, :2, 14:].eq(1.0).all()
    assert maps[0, 6:].eq(0.0).all()
    assert maps[0, :, :8].eq(0.0).all()
    # Nothing speaks for the other class: no map, and no division by zero.
    assert grad_cam(model, image, classes=torch.tensor([1])).eq(0.0).all()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model = _Cam()
    together = grad_cam(model, _images())
    alone = torch.cat([grad_cam(model, image[None]) for image in _images()])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(frozen: bool) -> None:
    model = _Cam().train()
    model.features.eval()
    model.requires_grad_(not frozen)
    if not frozen:
        model.head.weight.grad = torch.ones_like(model.head.weight)
    before = copy.deepcopy(model.state_dict())
    images = _images()
    state = torch.get_rng_state()
    with torch.no_grad():
        assert grad_cam(model, images).amax() == 1.0
    with torch.inference_mode():
        assert grad_cam(model, images * 1.0).amax() == 1.0
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, model.features.training, model.norm.training) == (True, False, True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    grads = {name for name, value in model.named_parameters() if value.grad is not None}
    assert grads == (set() if frozen else {"head.weight"})
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert not any(hooks)
    assert all(value.requires_grad is not frozen for value in model.parameters())
    assert images.grad is None
    assert not images.requires_grad


def test_hooks_are_taken_away_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    with pytest.raises(ConfigError, match="needs logits"):
        grad_cam(model, _images())
    assert not model[0]._forward_hooks
    assert model.training


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "swin_t", "alexnet"])
def test_torchvision_models_have_a_map(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=5)
    size = 96 if name == "alexnet" else 64
    maps = grad_cam(model, torch.randn(2, 3, size, size + 32))
    assert maps.shape == (2, size, size + 32)
    assert maps.amin() >= 0.0
    assert maps.amax(dim=(1, 2)).eq(1.0).all()


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224",
     "convnext_atto", "mixer_s32_224"],
)  # fmt: skip
def test_timm_models_have_a_map(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    for part, parameter in model.named_parameters():
        if "head" in part:
            nn.init.normal_(parameter)  # some heads begin with zeros
    maps = grad_cam(model, torch.randn(1, 3, 224, 224))
    assert maps.shape == (1, 224, 224)
    assert maps.amax() == 1.0
    assert maps.std() > 0.01


def test_our_vision_transformer_has_a_map_and_a_head_of_zeros_an_empty_one() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=16, patch_size=4, in_channels=3, num_classes=3, d_model=16, num_layers=2,
        num_heads=2, d_ff=32,
    )  # fmt: skip
    assert grad_cam(model, _images(16)).shape == (3, 16, 16)


def test_a_layer_can_be_named() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3)
    early = grad_cam(model, _images(64), layer=model.layer2)
    last = grad_cam(model, _images(64), layer=model.layer4)
    assert torch.equal(last, grad_cam(model, _images(64)))
    assert not torch.equal(early, last)


@pytest.mark.parametrize(
    ("layer", "message"),
    [(lambda m: m.head, r"gives \[\(1, 4\)\]; expected"), (lambda m: nn.Identity(), "no part of")],
)
def test_a_layer_without_height_and_width_is_refused(layer, message: str) -> None:
    model = _Cam()
    with pytest.raises(ConfigError, match=message):
        grad_cam(model, _images(), layer=layer(model))


def test_a_model_without_any_map_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 4))
    with pytest.raises(ConfigError, match="no layer of the model has an output with height"):
        grad_cam(model, _images())


def test_classes_and_images_are_checked() -> None:
    with pytest.raises(DataError, match="from 0 to 4; expected 0 to 3"):
        grad_cam(_Cam(), _images(), classes=torch.tensor([0, 4, 1]))
    with pytest.raises(DataError, match=r"expected floats \(B, C, H, W\)"):
        grad_cam(_Cam(), torch.zeros(0, 3, 8, 8))
