"""Weights and activations in 8 bits, by ONNX Runtime: a quarter of the size, often faster.

Where convolutions hold most of the weights, the ranges of all activations are measured on images of
the validation set (static, QDQ). A transformer's weights are those of its matrix products, whose
activations have outliers: they are quantised as they come (dynamic), with no images.
Normalisation, softmax and probabilities stay in floating point.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from common.utils.errors import ConfigError, FaultError
from common.utils.files import atomic_write, explained_write
from projects.image_classification.core.export.onnx_network import OnnxNetwork

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_IMAGES = 128
_STATIC = (
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Concat"),
)
_DYNAMIC = ("MatMul", "Gemm")
_OLDEST_OPSET = 13  # scales of each channel came with it


def quantise(
    path: Path, target: Path, network: OnnxNetwork, batches: Sequence[Tensor]
) -> dict[str, Any]:
    """Write the 8-bit version of an exported network.

    Args:
        path: The ONNX file.
        target: The new one; all or nothing.
        network: What it was exported from.
        batches: uint8 images ``(B, C, H, W)``, for the ranges of activations.

    Returns:
        ``method`` (``static`` or ``dynamic``), ``calibration_images``, and both sizes in bytes.

    Raises:
        ConfigError: if the file is an ensemble, or of an operator set that is too old.
        FaultError: if ONNX Runtime cannot quantise it.
    """
    import onnx

    if len(network.members) > 1:
        raise ConfigError("--quantize takes one network; quantise the folds, not their ensemble")
    model = onnx.load(str(path))
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset < _OLDEST_OPSET:
        raise ConfigError(
            f"--quantize needs --opset {_OLDEST_OPSET} or above; the file has {opset}"
        )
    metadata = {each.key: each.value for each in model.metadata_props}
    is_static = _share_of_convolutions(model) > 0.5
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            prepared = _prepared(path, Path(folder) / "prepared.onnx")
            made = Path(folder) / "quantised.onnx"
            _quantise(prepared, made, network, batches if is_static else None)
            result = onnx.load(str(made))
        except Exception as error:  # its checks, shape inference and runtime raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FaultError(f"ONNX Runtime cannot quantise {path}: {reason[:300]}") from error
    del result.metadata_props[:]
    method = "static" if is_static else "dynamic"
    for key, text in {**metadata, "quantisation": f"int8, {method}"}.items():
        result.metadata_props.add(key=key, value=text)
    with explained_write(target), atomic_write(target) as file:
        file.write(result.SerializeToString())
    return {
        "method": method,
        "calibration_images": sum(map(len, batches)) if is_static else 0,
        "bytes_before": path.stat().st_size,
        "bytes_after": target.stat().st_size,
    }


def _share_of_convolutions(model: "ModelProto") -> float:
    """How much of the weights are those of convolutions."""
    sizes = {each.name: int(np.prod(each.dims)) for each in model.graph.initializer}
    in_convolutions = sum(
        sizes.get(node.input[1], 0) for node in model.graph.node if node.op_type == "Conv"
    )
    return in_convolutions / max(1, sum(sizes.values()))


def _prepared(path: Path, target: Path) -> "ModelProto":
    """With batch normalisation folded into convolutions, and shapes only where they still hold."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    quant_pre_process(str(path), str(target), skip_symbolic_shape=True)
    prepared = onnx.load(str(target))
    del prepared.graph.value_info[:]  # shapes of weights that are about to be transposed
    return prepared


def _quantise(
    model: "ModelProto", target: Path, network: OnnxNetwork, batches: Sequence[Tensor] | None
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    if batches is None:
        quantize_dynamic(
            model,
            str(target),
            op_types_to_quantize=list(_DYNAMIC),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return

    class Reader(CalibrationDataReader):
        def __init__(self, feeds: Iterator[Mapping[str, Any]]) -> None:
            self._feeds = feeds

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._feeds, None)

    feeds = (
        {network.takes: np.ascontiguousarray(network.feed(batch).numpy())} for batch in batches
    )
    quantize_static(
        model,
        str(target),
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_STATIC),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what ONNX Runtime logs on the root logger: advice, and what it also raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
