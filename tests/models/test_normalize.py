"""Normalising into a reused buffer: the plain expression's numbers, and nobody's are overwritten."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data.labelled_images import normalized
from common.models import Normalize

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.0, 0.225]


def batch(count: int = 5, height: int = 11, width: int = 7, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 11, 7), (7, 300, 301)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_plain_expression_bit_for_bit_in_the_same_layout(
    shape: tuple[int, int, int], layout: torch.memory_format
):
    images = batch(*shape).contiguous(memory_format=layout)
    result = Normalize(MEAN, STD)(images)
    assert torch.equal(result, normalized(images, MEAN, STD))
    assert result.is_contiguous(memory_format=layout)


def test_any_other_layout_and_kind_of_pixels_is_taken():
    normalize, images = Normalize(MEAN, STD), batch()
    expected = normalized(images, MEAN, STD)
    assert torch.equal(normalize(images.transpose(2, 3)), expected.transpose(2, 3))
    assert torch.equal(normalize(images.float()), expected)
    assert normalize(images[:0]).shape == (0, 3, 11, 7)
    grey = Normalize([0.5], [0.5])(images[:, :1])
    assert torch.equal(grey, normalized(images[:, :1], [0.5], [0.5]))


def test_a_loop_that_holds_the_last_result_needs_two_buffers():
    normalize, places, held = Normalize(MEAN, STD), set(), None
    for seed in range(6):
        result = normalize(batch(seed=seed))
        places.add(result.data_ptr())
        held = result
    assert held is not None
    assert len(places) == 2


def test_float_images_pass_their_gradient():
    images = batch().float().requires_grad_()
    Normalize(MEAN, STD)(images).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad[0, 0, 0, 0].item(), 1 / 255 / 0.229)


def test_the_memory_is_used_again():
    normalize = Normalize(MEAN, STD)
    place = normalize(batch(6)).data_ptr()
    for count in (6, 2, 5):
        assert normalize(batch(count)).data_ptr() == place


HOLDERS: dict[str, Callable[[Tensor, nn.Module], Any]] = {
    "result": lambda result, _: result,
    "view": lambda result, _: result[1:, :1],
    "array": lambda result, _: result.numpy(),
    "graph": lambda result, convolution: convolution(result),
}


@pytest.mark.parametrize("keep", HOLDERS)
def test_what_somebody_holds_is_not_overwritten(keep: str):
    normalize, convolution = Normalize(MEAN, STD), nn.Conv2d(3, 4, 3)
    first = batch(seed=1)
    expected = normalized(first, MEAN, STD)
    result = normalize(first)
    place = result.data_ptr()
    held = HOLDERS[keep](result, convolution)
    del result
    assert normalize(batch(seed=2)).data_ptr() != place
    if keep == "graph":
        held.sum().backward()
        gradient, convolution.weight.grad = convolution.weight.grad, None
        convolution(expected).sum().backward()
        assert torch.equal(gradient, convolution.weight.grad)
    else:
        part = expected[1:, :1] if keep == "view" else expected
        np.testing.assert_array_equal(np.asarray(held), part.numpy())
    del held
    assert normalize(batch(seed=3)).data_ptr() == place


def test_training_is_that_with_the_plain_expression():
    def trained(normalise) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        model(torch.zeros(1, 3, 11, 7))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(6):  # two batches an update, as with accumulation
            loss = model(normalise(batch(seed=step))).square().mean()
            loss.backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()
        return model[0].weight

    assert torch.equal(trained(Normalize(MEAN, STD)), trained(lambda x: normalized(x, MEAN, STD)))


def test_after_inference_mode_it_trains():
    normalize, convolution = Normalize(MEAN, STD), nn.Conv2d(3, 4, 3)
    with torch.inference_mode():
        normalize(batch())
        normalize(batch())
    convolution(normalize(batch())).sum().backward()
    with torch.inference_mode():
        assert torch.equal(normalize(batch()), normalized(batch(), MEAN, STD))


def test_copies_have_a_buffer_of_their_own_and_the_state_has_none():
    normalize = Normalize(MEAN, STD)
    result = normalize(batch(64, 32, 32))
    other = copy.deepcopy(normalize)
    assert other(batch(64, 32, 32)).data_ptr() != result.data_ptr()
    assert len(pickle.dumps(normalize)) < 10_000
    assert not normalize.state_dict()


def test_onnx_computes_the_same():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    normalize, images = Normalize(MEAN, STD).eval(), batch(2)
    normalize(images)
    program = torch.onnx.export(
        normalize, (images,), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
    )
    file = io.BytesIO(program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(file.getvalue())
    more = batch(7)
    (result,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    np.testing.assert_allclose(result, normalized(more, MEAN, STD).numpy(), rtol=0, atol=1e-6)


def test_means_and_deviations_go_together():
    with pytest.raises(ValueError, match="mean has 3 channels and std has 1"):
        Normalize(MEAN, [0.5])
