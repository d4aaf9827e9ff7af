"""Grad-CAM: which part of an image speaks for a class (Selvaraju et al. 2016, arXiv 1610.02391).

The feature maps ``A^k`` of the last spatial layer are weighted by the mean gradient of the class's
logit (equation 1), summed, and kept where positive (equation 2). Token outputs of vision
transformers are laid out as the grid of their patches.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.utils.errors import ConfigError, DataError

_MAX_PREFIX = 16  # class, distillation and register tokens before the patches


class _Features(NamedTuple):
    """A module and where the image's height and width are in its output."""

    module: nn.Module
    layout: str


def grad_cam(
    model: nn.Module,
    images: Float[Tensor, "B C H W"],
    layer: nn.Module | None = None,
    classes: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B H W"]:
    """Heat maps from 0 to 1, one per image; a map without any positive evidence is all 0.

    The model is used in evaluation mode and left as it was: modes, gradients, hooks.

    Args:
        model: From images to logits ``(B, K)``.
        images: As the model takes them, normalised.
        layer: Whose output is looked at, ``(B, D, h, w)``, ``(B, h, w, D)`` or tokens
            ``(B, T, D)``; by default the last one whose output still has height and width and
            decides on the logits.
        classes: The class each map speaks for; by default the predicted one.

    Raises:
        ConfigError: if the model has no such layer, or gives no logits ``(B, K)``.
        DataError: if images or classes are not what they should be.
    """
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise DataError(
            f"images have shape {tuple(images.shape)} and type {images.dtype}; expected floats "
            "(B, C, H, W), normalised as for the model"
        )
    # A compiled model runs no hooks of its parts; the module it was made of does.
    model = getattr(model, "_orig_mod", model)
    height, width = images.shape[-2:]
    with _evaluation(model), torch.inference_mode(False), torch.enable_grad():
        # A leaf that needs a gradient gives frozen models a graph, too.
        images = images.detach().clone().requires_grad_()
        found = _find(model, images[:1], layer)
        with _recorded(model, [found.module]) as calls:
            logits = _logits(model, images)
        chosen = logits.argmax(dim=1) if classes is None else classes.to(logits.device)
        _check_classes(chosen, logits)
        output = calls[-1][1]
        # Images do not see each other in evaluation mode: one sum gives each its own gradient.
        score = logits.gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, output)
        prefix = getattr(model, "num_prefix_tokens", None)
        features = _grid(output.detach(), found.layout, height, width, prefix)
        weights = _grid(gradient, found.layout, height, width, prefix).mean(dim=(2, 3))
    maps = torch.einsum("bd,bdhw->bhw", weights.float(), features.float()).relu()
    maps = nn.functional.interpolate(
        maps[:, None], size=(height, width), mode="bilinear", align_corners=False
    )[:, 0]
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)


def _find(model: nn.Module, image: Tensor, layer: nn.Module | None) -> _Features:
    """The layer asked for, or the last spatial one that the logits depend on."""
    names = {module: name or "the model itself" for name, module in model.named_modules()}
    if layer is not None and layer not in names:
        raise ConfigError("the layer for Grad-CAM is no part of the model")
    height, width = image.shape[-2:]
    prefix = getattr(model, "num_prefix_tokens", None)
    with _recorded(model, list(names) if layer is None else [layer]) as calls:
        logits = _logits(model, image)
    score = logits.amax(dim=1).sum()
    candidates: list[_Features] = []
    token_width, seen = None, set()
    for module, output, inside_tokens in reversed(calls):
        if module in seen:
            continue  # of several calls only the last is looked at
        seen.add(module)
        layout = _layout(output, height, width, prefix)
        if layout is None or (layer is None and inside_tokens and layout != "tokens"):
            continue
        if layout == "tokens":
            token_width = token_width or output.shape[2]
            if output.shape[2] != token_width:
                continue  # queries, keys and values side by side, or a hidden layer
        gradient: Tensor | None = torch.autograd.grad(
            score, output, retain_graph=True, allow_unused=True
        )[0]
        if gradient is None:
            continue
        candidates.append(_Features(module, layout))
        # After the last attention a class token alone decides: the patches have no gradient.
        if _grid(gradient, layout, height, width, prefix).any():
            return candidates[-1]
    if candidates:
        return candidates[0]  # a head whose weights are all 0, as some begin
    if layer is not None:
        shapes = sorted({tuple(output.shape) for _, output, _ in calls})
        raise ConfigError(
            f"the layer '{names[layer]}' for Grad-CAM gives {shapes or 'no tensor'}; expected "
            "(B, D, h, w), (B, h, w, D) or patch tokens (B, T, D) that the logits depend on"
        )
    raise ConfigError(
        "no layer of the model has an output with height and width that its logits depend on; "
        "name one for Grad-CAM, or do without"
    )


def _layout(output: Tensor, height: int, width: int, prefix: int | None) -> str | None:
    """``"maps"`` (B, D, h, w), ``"maps last"`` (B, h, w, D), ``"tokens"``, or ``None``."""
    if output.ndim == 3:
        return "tokens" if _patches(output.shape[1], height, width, prefix) else None
    if output.ndim != 4:
        return None
    first = _fits(output.shape[2], output.shape[3], height, width)
    last = _fits(output.shape[1], output.shape[2], height, width)
    if first is None and last is None:
        return None
    if first is not None and (last is None or first <= last):
        return "maps"
    return "maps last"


def _fits(h: int, w: int, height: int, width: int) -> float | None:
    """How far h x w is from the image's proportions; ``None`` if it is no grid of the image."""
    if h * w <= 1 or h > height or w > width:
        return None
    # One row or column more or less is what padding does.
    distortion = abs(math.log(h * width / (w * height)))
    return distortion if distortion <= math.log(1 + 1.5 / min(h, w)) else None


def _patches(tokens: int, height: int, width: int, prefix: int | None) -> tuple[int, int] | None:
    """Rows and columns of patches among so many tokens."""
    for extra in range(_MAX_PREFIX + 1) if prefix is None else (prefix,):
        patches = tokens - extra
        rows = round(math.sqrt(max(patches, 0) * height / width))
        if rows and patches > 1 and patches % rows == 0:
            columns = patches // rows
            if abs(rows * width - columns * height) < max(height, width):
                return rows, columns
    return None


def _grid(values: Tensor, layout: str, height: int, width: int, prefix: int | None) -> Tensor:
    """``(B, D, h, w)``."""
    if layout == "maps":
        return values
    if layout == "maps last":
        return rearrange(values, "b h w d -> b d h w")
    grid = _patches(values.shape[1], height, width, prefix)
    assert grid is not None  # _layout found it
    patches = values[:, values.shape[1] - grid[0] * grid[1] :]
    return rearrange(patches, "b (h w) d -> b d h w", h=grid[0])


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"the model gives {shape}; Grad-CAM needs logits (B, K)")
    return logits


def _check_classes(classes: Tensor, logits: Tensor) -> None:
    if classes.shape != logits.shape[:1] or classes.is_floating_point():
        raise DataError(
            f"classes have shape {tuple(classes.shape)} and type {classes.dtype}; expected "
            f"({len(logits)},) integers"
        )
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= logits.shape[1]:
        raise DataError(f"classes go from {low} to {high}; expected 0 to {logits.shape[1] - 1}")


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _recorded(
    model: nn.Module, modules: list[nn.Module]
) -> Iterator[list[tuple[nn.Module, Tensor, bool]]]:
    """The tensors that modules give, in the order they are given, while the model runs.

    Each comes with whether it is made inside a module that gives tokens ``(B, T, D)``: the
    ``(B, H, T, d)`` of an attention's heads are no feature maps.
    """
    calls: list[tuple[nn.Module, Tensor, bool]] = []
    open_calls: list[int] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        open_calls.append(len(calls))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        start = open_calls.pop()
        tensor = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            return
        if tensor.ndim == 3 and module is not model:
            calls[start:] = [(inner, value, True) for inner, value, _ in calls[start:]]
        calls.append((module, tensor, False))

    handles = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        yield calls
    finally:
        for handle in handles:
            handle.remove()
