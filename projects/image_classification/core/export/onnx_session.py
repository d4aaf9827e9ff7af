"""An exported classifier in ONNX Runtime: what a program without PyTorch does, in our words.

classifier = OnnxClassifier("best.onnx")
classifier.predict(["photo.jpg"])       # (1, K) probabilities
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.preprocessing import Preprocessing
from common.utils.errors import CheckpointError, ConfigError
from projects.image_classification.core.export.onnx_metadata import parse_metadata
from projects.image_classification.core.export.onnx_network import OUTPUTS

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


def open_session(file: Path | bytes, name: str | None = None, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        file: Its path, or what it holds.
        name: For messages; the path by default.
        threads: Of one operator; PyTorch's number by default.

    Raises:
        ConfigError: if ONNX Runtime is not installed.
        CheckpointError: if it does not take the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError('this needs ONNX Runtime: uv pip install -e ".[export]"') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            file if isinstance(file, bytes) else str(file),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # its exceptions share no base class but this
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"ONNX Runtime does not take {name or str(file)}: {reason[:300]}"
        ) from None


class OnnxClassifier:
    """The same interface as ``Classifier.predict``, from an ONNX file.

    Args:
        path: Written by ``ml-export``.
        threads: Of one operator; PyTorch's number by default.

    Attributes:
        metadata: What the file says of itself.
        preprocessing: Its recipe.

    Raises:
        CheckpointError: if it is no such file.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.session = open_session(Path(path), threads=threads)
        texts = self.session.get_modelmeta().custom_metadata_map
        self.metadata = parse_metadata(texts, str(path))
        self.preprocessing = Preprocessing.from_description(self.metadata.preprocessing)
        self.input_name: str = self.session.get_inputs()[0].name

    def run(self, images: NDArray[Any]) -> Outputs:
        """Logits and probabilities of what the graph takes."""
        logits, probabilities = self.session.run(list(OUTPUTS), {self.input_name: images})
        return logits, probabilities

    def predict(self, sources: Sequence[Any]) -> NDArray[np.float32]:
        """Probabilities ``(N, K)`` of images, one at a time.

        Raises:
            DataError: if one cannot be read.
        """
        rows = [self.run(self._feed(source))[1] for source in sources]
        return np.concatenate(rows)

    def _feed(self, source: Any) -> NDArray[Any]:
        pixels = np.ascontiguousarray(self.preprocessing(source).numpy())[None]
        if self.metadata.takes == "pixels":
            return pixels
        mean, std = (
            np.asarray(values, np.float32).reshape(-1, 1, 1)
            for values in (self.metadata.mean, self.metadata.std)
        )
        spread = np.where(std > 0, std, np.float32(1))
        return (pixels.astype(np.float32) / np.float32(255) - mean) / spread
