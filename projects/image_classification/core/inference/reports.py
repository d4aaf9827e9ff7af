"""The two things ``ml-inference`` does, with what it prints and writes."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from common.config.files import show_path
from common.data.image_places import FoundImages, find_places
from common.metrics.calibration import TemperatureScaling
from common.metrics.classification import ClassificationReport, classification_metrics
from common.utils.devices import find_device
from common.utils.errors import ConfigError, DataError
from common.utils.files import atomic_write_text, explained_write
from common.utils.text import did_you_mean, printable
from projects.image_classification.core.classifier import (
    Classifier,
    checkpoint_of,
    load_classifier,
    run_directory,
)
from projects.image_classification.core.datasets import IndexedImageDataset
from projects.image_classification.core.evaluation.report import write_evaluation
from projects.image_classification.core.evaluation.run_evaluation import pixels_of
from projects.image_classification.core.inference.prediction import (
    FilePredictions,
    dataset_of,
    difference_from_record,
    predict_dataset,
    predict_files,
    recorded,
)
from projects.image_classification.core.inference.tables import (
    write_table_of_predictions,
    write_unreadable,
)
from projects.image_classification.core.predictions import Predictions
from projects.image_classification.core.task import ImageClassifier

_SHOWN = 20  # lines of a list on the terminal


@dataclass(frozen=True)
class InferenceOptions:
    """What ``ml-inference`` was asked for.

    Attributes:
        checkpoint: ``weights/best.pt`` of a run, or the run's directory.
        images: Folders, files and patterns.
        output: A CSV file for images, a directory for a test set; in the run by default.
        top_k: For images: columns of so many classes in place of all. For a test set: of the
            accuracy.
        batch_size: The run's by default.
        num_workers: Processes that read ahead.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        on_bad: ``skip`` or ``fail``.
        index_file: In place of the test set's.
        data_dir: The data set's folder, if it was moved.
        flips: Whether to look at mirrored images as well.
        labelled: Whether the folders of the images are named as their classes.
        draws: Whether the report of a test set has pictures.
    """

    checkpoint: Path
    images: Sequence[str] = ()
    output: Path | None = None
    top_k: int | None = None
    batch_size: int | None = None
    num_workers: int = 0
    device: str = "auto"
    on_bad: str | None = None
    index_file: Path | None = None
    data_dir: Path | None = None
    flips: bool = False
    labelled: bool = False
    draws: bool = True


def infer_split(options: InferenceOptions) -> None:
    """Measure the checkpoint on its test set, or on another list of the data set.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError: see the parts.
    """
    _check_place(options)
    classifier = _loaded(options)
    dataset = dataset_of(
        classifier, "test", options.data_dir, options.index_file, on_bad=options.on_bad
    )
    made = predict_dataset(
        classifier,
        dataset,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        flips=options.flips,
    )
    top_k = options.top_k or classifier.config.evaluation.top_k
    names = list(classifier.class_names)
    report = classification_metrics(made.logits, made.labels, names, top_k)
    directory = _new_directory(classifier, options.output)
    _write_report(directory, classifier, dataset, made, options, report)
    sys.stdout.write(f"{report.to_text().rstrip()}\n")
    for line in _lines(classifier, made, options.flips):
        sys.stdout.write(f"{line}\n")
    if dataset.skipped:
        _show_list("skipped, unreadable", list(dataset.skipped.values()))
    sys.stdout.write(f"written: {show_path(directory)}\n")


def infer_images(options: InferenceOptions) -> None:
    """Classify any images, and write what came out as CSV.

    Raises:
        DataError: also if an image cannot be read and ``on_bad`` is ``fail``, or none can.
        ConfigError, CheckpointError, FaultError: see the parts.
    """
    if options.output is not None and options.output.is_dir():
        raise ConfigError(f"--output {options.output} is a directory; with --images name a file")
    _check_place(options)
    found = find_places(options.images)
    classifier = _loaded(options)
    if options.labelled:
        _check_labelled(found, classifier)
    made = predict_files(
        classifier,
        found.files,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        flips=options.flips,
    )
    reasons = list(made.unreadable.values())
    if made.unreadable and options.on_bad == "fail":
        _show_list("unreadable", reasons)
        raise DataError(
            f"{len(reasons)} of {len(found.files)} images cannot be read; nothing was written "
            "(--on-bad skip leaves them out)"
        )
    if not made.files:
        raise DataError(f"none of {len(found.files)} images can be read; the first: {reasons[0]}")
    if options.output is None:
        output = _new_directory(classifier, None) / "predictions.csv"
    else:
        output = options.output
    labels = _labels(found, made, classifier) if options.labelled else None
    write_table_of_predictions(output, made, labels, classifier.class_names, options.top_k)
    sys.stdout.write(f"{len(made.files)} images classified, {len(reasons)} unreadable")
    sys.stdout.write(f", {found.ignored} files are no images\n" if found.ignored else "\n")
    if reasons:
        _show_list("unreadable", reasons)
        listed = write_unreadable(output, made.unreadable)
        sys.stdout.write(f"all of them: {show_path(listed)}\n")
    _show_classes(made, classifier)
    if labels is not None:
        _show_accuracy(labels, made, classifier, options.top_k)
    sys.stdout.write(f"probabilities: {_scale(classifier)}\nwritten: {show_path(output)}\n")


def _loaded(options: InferenceOptions) -> Classifier:
    return load_classifier(options.checkpoint, find_device(options.device, "--device"))


def _check_place(options: InferenceOptions) -> None:
    """Refuse a place that cannot be written before the work, not after it."""
    place = options.output
    if place is None:
        place = run_directory(checkpoint_of(options.checkpoint)) / "inference"
    there = next(each for each in place.absolute().parents if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"{show_path(there)} cannot be written; give another place with --output")


def _new_directory(classifier: Classifier, given: Path | None) -> Path:
    """``inference_<time>`` in the run, or the one that was asked for."""
    if given is None:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        parent = run_directory(classifier.path)
        names = [f"inference_{stamp}", *(f"inference_{stamp}_{n}" for n in range(2, 100))]
        path = next(parent / name for name in names if not (parent / name).exists())
    else:
        path = given
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--output {path} is a file; without --images name a directory")
    with explained_write(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _write_report(
    directory: Path,
    classifier: Classifier,
    dataset: IndexedImageDataset,
    made: Predictions,
    options: InferenceOptions,
    report: ClassificationReport,
) -> None:
    """What training writes of its own evaluation, of these images."""
    values = classifier.config.evaluation
    task = classifier.task
    assert isinstance(task, ImageClassifier)
    write_evaluation(
        directory,
        report,
        made.logits,
        made.labels,
        made.ids,
        list(classifier.class_names),
        images=pixels_of(dataset),
        model=task.model,
        to_input=lambda images: task.normalized(images.to(classifier.device)),
        scaling=_scaling(classifier),
        split="test" if options.index_file is None else options.index_file.stem,
        bins=values.calibration_bins,
        num_mistakes=values.num_mistakes,
        num_grad_cam=values.grad_cam,
        draws=options.draws,
    )
    content = {
        "checkpoint": classifier.path.as_posix(),
        "checkpoint_sha256": classifier.sha256,
        "temperature": classifier.temperature,
        "tta": "flip" if options.flips else None,
        "largest_difference_from_training": (
            None if options.flips else difference_from_record(classifier, made)
        ),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(directory / "inference.json", text)


def _scaling(classifier: Classifier) -> TemperatureScaling | None:
    """The checkpoint's temperature with what it was fitted on, if the run still has that."""
    held_out = recorded(classifier, "val") if classifier.is_calibrated else None
    if held_out is None:
        return None
    scaling = TemperatureScaling.fit(held_out.logits, held_out.labels)
    return scaling if math.isclose(scaling.temperature, classifier.temperature) else None


def _lines(classifier: Classifier, made: Predictions, flips: bool) -> list[str]:
    lines = [f"checkpoint: {classifier.path}", f"probabilities: {_scale(classifier)}"]
    if flips:
        lines.append("each image and its mirror image, mean of both (--tta flip)")
        return lines
    difference = difference_from_record(classifier, made)
    if difference == 0.0:
        lines.append("the same logits as training recorded, to the last bit")
    elif difference is not None:
        lines.append(
            f"logits differ from those that training recorded by up to {difference:.3g} (another "
            "machine, device, number of threads or batch size changes their rounding)"
        )
    return lines


def _scale(classifier: Classifier) -> str:
    if not classifier.is_calibrated:
        return "softmax, not calibrated"
    return f"softmax at temperature {classifier.temperature:.4g}, fitted to the validation images"


def _check_labelled(found: FoundImages, classifier: Classifier) -> None:
    """Refuse folders of which none is a class, before hours of work."""
    known = set(classifier.class_names)
    folders = sorted(set(found.folders) - {""})
    if not known & set(folders):
        hint = did_you_mean(folders[0], known) if folders else "there are no folders below --images"
        shown = ", ".join(f"'{printable(each)}'" for each in folders[:5])
        raise DataError(
            f"--labelled: no folder below --images is named as a class (found {shown or 'none'}); "
            f"{hint}"
        )


def _labels(found: FoundImages, made: FilePredictions, classifier: Classifier) -> Tensor:
    """The class of each image's folder; -1 for a folder that is no class."""
    index = {name: number for number, name in enumerate(classifier.class_names)}
    by_file = dict(zip(found.files, found.folders, strict=True))
    return torch.tensor([index.get(by_file[file], -1) for file in made.files], dtype=torch.int64)


def _show_list(what: str, reasons: Sequence[str]) -> None:
    sys.stderr.write(f"{what} ({len(reasons)}):\n")
    for reason in reasons[:_SHOWN]:
        sys.stderr.write(f"  {printable(reason)}\n")
    if len(reasons) > _SHOWN:
        sys.stderr.write(f"  and {len(reasons) - _SHOWN} more\n")


def _show_classes(made: FilePredictions, classifier: Classifier) -> None:
    """How many images each class was given, the commonest first."""
    counts = made.probabilities.argmax(1).bincount(minlength=len(classifier.class_names))
    order = counts.sort(descending=True, stable=True).indices.tolist()
    given = [index for index in order if counts[index]]
    for index in given[:_SHOWN]:
        name = printable(classifier.class_names[index])
        sys.stdout.write(f"  {int(counts[index]):>7,}  {name}\n")
    if len(given) > _SHOWN:
        sys.stdout.write(f"  and {len(given) - _SHOWN} more classes\n")


def _show_accuracy(
    labels: Tensor, made: FilePredictions, classifier: Classifier, top_k: int | None
) -> None:
    known = labels >= 0
    if not known.any():
        raise DataError("--labelled: no image that could be read lies in the folder of a class")
    if not known.all():
        logger.warning(
            f"{int((~known).sum())} images lie in folders that are named as no class; the accuracy "
            "leaves them out"
        )
    report = classification_metrics(
        made.probabilities[known].clamp_min(torch.finfo(torch.float32).tiny).log(),
        labels[known],
        list(classifier.class_names),
        top_k or classifier.config.evaluation.top_k,
    )
    sys.stdout.write(f"{report.to_text().rstrip()}\n")
