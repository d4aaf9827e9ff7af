"""One checkpoint, or the folds of an ensemble, to one ONNX file and the report of its checks.

result = export([Path("runs/digits_fold_0/weights/best.pt")], ExportOptions(validate=True))
result.path, result.problems
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.pixel_statistics import evenly_spaced
from common.data.preprocessing import Preprocessing
from common.utils.errors import ConfigError
from common.utils.files import atomic_write_text, sha256_file
from projects.image_classification.core.classifier import Classifier, load_classifier
from projects.image_classification.core.datasets import IndexedImageDataset
from projects.image_classification.core.export.onnx_benchmark import benchmark
from projects.image_classification.core.export.onnx_export import (
    DEFAULT_OPSET,
    check_input_size,
    check_opset,
    export_network,
)
from projects.image_classification.core.export.onnx_metadata import metadata_of
from projects.image_classification.core.export.onnx_network import OnnxNetwork, onnx_network
from projects.image_classification.core.export.onnx_validation import TOLERANCE, compare, validate
from projects.image_classification.core.export.quantisation import CALIBRATION_IMAGES, quantise
from projects.image_classification.core.inference.prediction import data_loader, dataset_of

REPORT = "validation_report.json"


@dataclass(frozen=True)
class ExportOptions:
    """What to write and what to check.

    Attributes:
        output: The ONNX file; beside the checkpoint by default.
        opset: The operator set; ``DEFAULT_OPSET`` by default.
        input_size: Height and width, if not those of the training.
        takes: ``pixels`` or ``normalized``.
        temperature: Whether the probabilities are calibrated; by default those of one network are,
            and an ensemble's are the mean of plain softmaxes, as ``ml-train --fold all`` scores it.
        validate: Checker, load, one forward.
        comprehensive: PyTorch against ONNX Runtime on the test set.
        benchmark: Latency and throughput.
        compiles: Whether the benchmark has ``torch.compile`` in it.
        quantize: Also write ``NAME.int8.onnx``.
        tolerance: Of ``comprehensive``.
        data_dir: Where ``splits/`` and ``raw/`` are, if not where the checkpoint says.
        batch_size: Of the test set; the run's by default.
        num_workers: Processes that read.
    """

    output: Path | None = None
    opset: int | None = None
    input_size: tuple[int, int] | None = None
    takes: str = "pixels"
    temperature: bool | None = None
    validate: bool = False
    comprehensive: bool = False
    benchmark: bool = False
    compiles: bool = True
    quantize: bool = False
    tolerance: float = TOLERANCE
    data_dir: Path | None = None
    batch_size: int | None = None
    num_workers: int = 0


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        path: The ONNX file.
        report: What ``validation_report.json`` holds.
        problems: Why it should not be used; empty if every check passed.
    """

    path: Path
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return list(self.report["problems"])


def export(checkpoints: Sequence[Path], options: ExportOptions) -> Exported:
    """Export one classifier, or several as an ensemble, and check the file as asked.

    Args:
        checkpoints: More than one make an ensemble.
        options: What to write and check.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError: if there is nothing to export, or it
            cannot be. Checks that fail do not raise: see ``Exported.problems``.
    """
    check_opset(DEFAULT_OPSET if options.opset is None else options.opset)
    classifiers = [_loaded(path, options) for path in checkpoints]
    first = classifiers[0]
    is_calibrated = options.temperature
    if is_calibrated is None:
        is_calibrated = len(classifiers) == 1
    elif is_calibrated and not all(each.is_calibrated for each in classifiers):
        without = next(each.path for each in classifiers if not each.is_calibrated)
        raise ConfigError(f"{without} holds no temperature; leave --temperature out")
    network = onnx_network(classifiers, options.takes, calibrated=is_calibrated)
    height, width = first.preprocessing.size
    shape = (first.preprocessing.channels, height, width)
    if options.input_size is not None:
        check_input_size(network, network.feed(torch.zeros((2, *shape), dtype=torch.uint8)))
    path = options.output or default_output(checkpoints)
    metadata = metadata_of(classifiers, options.takes, calibrated=is_calibrated)
    loader = _Loader(classifiers, options)
    size = export_network(network, path, shape, metadata, options.opset)
    report: dict[str, Any] = {
        "model": path.name,
        "bytes": size,
        "sha256": sha256_file(path),
        "checkpoints": [
            {"path": each.path.as_posix(), "sha256": each.sha256} for each in classifiers
        ],
        "input": {"name": options.takes, "shape": ["batch", *shape]},
        "opset": options.opset or DEFAULT_OPSET,
        "temperature": json.loads(metadata["temperature"]),
        "versions": json.loads(metadata["versions"]),
        "validation": validate(path, network, shape) if options.validate else None,
        "comprehensive_validation": None,
        "benchmark": None,
        "quantisation": None,
    }
    if options.comprehensive:
        report["comprehensive_validation"] = compare(
            path, network, loader.test(), options.tolerance
        )
    if options.benchmark:
        report["benchmark"] = benchmark(path, network, shape, compiles=options.compiles)
    if options.quantize:
        report["quantisation"] = _quantised(path, network, loader)
    checks = (report["validation"], report["comprehensive_validation"])
    report["problems"] = [problem for check in checks if check for problem in check["problems"]]
    report["passed"] = not report["problems"] if any(checks) else None
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(path.with_name(REPORT), text)
    return Exported(path, report)


def default_output(checkpoints: Sequence[Path]) -> Path:
    """``best.onnx`` beside ``best.pt``; of an ensemble ``ensemble.onnx`` beside its runs."""
    if len(checkpoints) == 1:
        return checkpoints[0].with_suffix(".onnx")
    runs = [path.absolute().parents[1] for path in checkpoints]
    common = next(p for p in runs[0].parents if all(run.is_relative_to(p) for run in runs))
    return common / "ensemble.onnx"


def _loaded(path: Path, options: ExportOptions) -> Classifier:
    classifier = load_classifier(path)
    if options.input_size is None:
        return classifier
    recipe = replace(classifier.preprocessing.config, image_size=list(options.input_size))
    return replace(classifier, preprocessing=Preprocessing(recipe))


class _Loader:
    """The images of the checks, if any check needs them; missing ones are found before the export."""

    def __init__(self, classifiers: Sequence[Classifier], options: ExportOptions) -> None:
        self._classifier, self._options = classifiers[0], options
        self._test: IndexedImageDataset | None = None
        self._validation: IndexedImageDataset | None = None
        if options.comprehensive or options.quantize:
            self._test = dataset_of(self._classifier, "test", options.data_dir)
        if options.quantize:
            self._validation = dataset_of(self._classifier, "val", options.data_dir)

    def test(self) -> Any:
        """Batches of the test set."""
        options = self._options
        assert self._test is not None
        return data_loader(
            self._classifier, self._test, options.batch_size, options.num_workers
        ).batches(0)

    def calibration(self) -> list[Tensor]:
        """Some images of the validation set, evenly spaced, one a batch."""
        data = self._validation
        assert data is not None
        chosen = evenly_spaced(len(data), CALIBRATION_IMAGES)
        return [data[index]["image"][None] for index in chosen]


def _quantised(path: Path, network: OnnxNetwork, loader: _Loader) -> dict[str, Any]:
    target = path.with_suffix(".int8.onnx")
    found = quantise(path, target, network, loader.calibration())
    compared = compare(target, network, loader.test(), tolerance=None)
    return {
        "model": target.name,
        "sha256": sha256_file(target),
        **found,
        "test_images": compared["images"],
        "accuracy_before": compared["accuracy_pytorch"],
        "accuracy_after": compared["accuracy_onnxruntime"],
        "argmax_agreement": compared["argmax_agreement"],
        "max_abs_difference_probabilities": compared["max_abs_difference_probabilities"],
    }
