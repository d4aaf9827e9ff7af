"""Whether an ONNX file computes what the checkpoint computes.

``--validate`` is quick: the checker, a session, one forward of one and of three images.
``--comprehensive-validate`` is the proof: every image of the test set through both.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.image_classification.core.export.onnx_network import OUTPUTS, OnnxNetwork
from projects.image_classification.core.export.onnx_session import open_session

TOLERANCE = 1e-4
"""Largest difference of a probability, and of a logit relative to the largest logit (at least 1)."""

_BATCHES = (1, 3)


def validate(path: Path, network: OnnxNetwork, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Check the file's form, load it, and run it.

    Args:
        path: The ONNX file.
        network: What it was exported from.
        image_shape: ``(C, H, W)``.

    Returns:
        What was found, with ``problems``: one sentence each.
    """
    import onnx

    found: dict[str, Any] = {"problems": []}
    model = onnx.load(str(path))
    try:
        onnx.checker.check_model(model, full_check=True)
        found["checker"] = "passed"
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        found["checker"] = " ".join(str(error).split())[:500]
        found["problems"].append(f"the ONNX checker refuses it: {found['checker'][:200]}")
    found["opset"] = {each.domain or "ai.onnx": each.version for each in model.opset_import}
    found["ir_version"] = model.ir_version
    found["nodes"] = len(model.graph.node)
    session = open_session(path)
    found["inputs"] = {each.name: [each.type, *each.shape] for each in session.get_inputs()}
    found["outputs"] = {each.name: [each.type, *each.shape] for each in session.get_outputs()}
    draw = torch.Generator().manual_seed(0)
    found["forward"] = []
    for size in _BATCHES:
        pixels = torch.randint(0, 256, (size, *image_shape), generator=draw, dtype=torch.uint8)
        differences = _differences(session, network, pixels)
        found["forward"].append({"batch": size, **differences.shown()})
        found["problems"] += differences.problems(f"a batch of {size}", TOLERANCE)
    found["tolerance"] = TOLERANCE
    return found


def compare(
    path: Path,
    network: OnnxNetwork,
    batches: Iterable[Any],
    tolerance: float | None = TOLERANCE,
) -> dict[str, Any]:
    """PyTorch against ONNX Runtime on labelled images.

    Args:
        path: The ONNX file.
        network: What it was exported from, on the CPU.
        batches: ``{"image": uint8 (B, C, H, W), "label": (B,)}``.
        tolerance: Above it is a problem; ``None``: differences are expected.

    Returns:
        Counts, differences and both accuracies, with ``problems``.
    """
    session = open_session(path)
    worst = _Differences()
    images = agreeing = right_here = right_there = 0
    for batch in batches:
        part = _differences(session, network, batch["image"])
        worst.merge(part)
        if part.failure:
            break
        ours, theirs = part.predicted
        labels = batch["label"].numpy()
        images += len(labels)
        agreeing += int((ours == theirs).sum())
        right_here += int((ours == labels).sum())
        right_there += int((theirs == labels).sum())
    result: dict[str, Any] = {
        "images": images,
        **worst.shown(),
        "argmax_agreement": agreeing / max(1, images),
        "accuracy_pytorch": right_here / max(1, images),
        "accuracy_onnxruntime": right_there / max(1, images),
        "tolerance": tolerance,
        "problems": worst.problems("the test set", math.inf if tolerance is None else tolerance),
    }
    return result


class _Differences:
    """The largest differences of both outputs so far."""

    def __init__(self) -> None:
        self.logits = self.probabilities = 0.0
        self.largest = 1.0
        self.failure = ""
        self.predicted = (np.empty(0, np.int64), np.empty(0, np.int64))

    def merge(self, other: "_Differences") -> None:
        self.logits = max(self.logits, other.logits)
        self.probabilities = max(self.probabilities, other.probabilities)
        self.largest = max(self.largest, other.largest)
        self.failure = self.failure or other.failure

    def shown(self) -> dict[str, float]:
        return {
            "max_abs_difference_logits": self.logits,
            "max_abs_difference_probabilities": self.probabilities,
            "scale": self.largest,
        }

    def problems(self, where: str, tolerance: float) -> list[str]:
        if self.failure:
            return [f"{where}: {self.failure}"]
        limits = {"logits": tolerance * self.largest, "probabilities": tolerance}
        return [
            f"{where}: {name} differ by up to {value:.3g}, the tolerance is {limit:.3g}"
            for name, limit in limits.items()
            if not (value := getattr(self, name)) <= limit  # a NaN is a problem too
        ]


def _differences(session: Any, network: OnnxNetwork, pixels: Tensor) -> _Differences:
    found = _Differences()
    fed = network.feed(pixels)
    with torch.inference_mode():
        ours = [output.numpy() for output in network(fed)]
    name = session.get_inputs()[0].name
    try:
        theirs = session.run(list(OUTPUTS), {name: np.ascontiguousarray(fed.numpy())})
    except Exception as error:  # ONNX Runtime's own classes
        found.failure = " ".join(str(error).split())[:300]
        return found
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        found.failure = f"shape {theirs[0].shape} in ONNX Runtime, {ours[0].shape} in PyTorch"
        return found
    found.logits, found.probabilities = (
        float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)
    )
    found.largest = max(1.0, float(np.abs(ours[0]).max()))
    found.predicted = (ours[0].argmax(1), theirs[0].argmax(1))
    return found
