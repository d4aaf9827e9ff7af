"""What is measured once a run has its best weights: reports, pictures, calibration, the model card."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import RunContext
from common.config.tree import read
from common.data.preprocessed_images import PreprocessedImages
from common.metrics.calibration import CalibrationReport, TemperatureScaling, calibration_report
from common.metrics.classification import ClassificationReport, classification_metrics
from common.utils.runs import Run
from projects.image_classification.core.config import Config
from projects.image_classification.core.datasets import IndexedImageDataset
from projects.image_classification.core.evaluation.report import (
    CardFacts,
    write_evaluation,
    write_model_card,
)
from projects.image_classification.core.predictions import Predictions
from projects.image_classification.core.run_directories import EVALUATION, WEIGHTS, dataset_name
from projects.image_classification.core.task import ImageClassifier

_SETTINGS = (
    "training.num_epochs",
    "training.batch_size",
    "optimizer.name",
    "optimizer.lr",
    "optimizer.weight_decay",
    "scheduler.name",
    "loss.name",
    "training.trainer_type",
)


def evaluate_run(
    config: Config,
    context: RunContext,
    run: Run,
    task: ImageClassifier,
    datasets: Mapping[str, IndexedImageDataset],
    predictions: Mapping[str, Predictions],
    *,
    draws: bool,
) -> tuple[dict[str, float], float | None]:
    """Measure the predictions, write ``evaluation/<split>/`` and ``MODEL_CARD.md``.

    Args:
        config: The run's.
        context: Of the same.
        run: The open run.
        task: With its best weights.
        datasets: By split, as ``predictions``.
        predictions: ``val``, from which the temperature is fitted, and ``test``.
        draws: Whether to draw pictures (unless ``evaluation.plots`` is off) and write the card.

    Returns:
        All numbers by name (``val/accuracy``, ``test/accuracy``), and the temperature; ``None``
        without calibration.
    """
    names = list(config.data.class_names or ())
    scaling = None
    if config.evaluation.calibrate and "val" in predictions:
        held_out = predictions["val"]
        scaling = TemperatureScaling.fit(held_out.logits, held_out.labels)
    metrics: dict[str, float] = {}
    report: ClassificationReport | None = None
    calibration: CalibrationReport | None = None
    for split, made in predictions.items():
        report = classification_metrics(made.logits, made.labels, names, config.evaluation.top_k)
        is_test = split == "test"
        found = write_evaluation(
            run.directory / EVALUATION / split,
            report,
            made.logits,
            made.labels,
            made.ids,
            names,
            images=pixels_of(datasets[split]),
            model=task.model,
            to_input=lambda images: task.normalized(images.to(_device(task))),
            scaling=scaling if is_test else None,
            split=split,
            bins=config.evaluation.calibration_bins,
            num_mistakes=config.evaluation.num_mistakes,
            num_grad_cam=config.evaluation.grad_cam,
            draws=draws and is_test and config.evaluation.plots,
        )
        metrics |= {name: value for name, value in found.items() if name != "temperature"}
        if is_test and scaling is not None:
            bins = config.evaluation.calibration_bins
            calibration = calibration_report(scaling, made.logits, made.labels, bins)
    if draws:
        tested = report if "test" in predictions else None
        write_model_card(run.directory, _card(config, context, run, task, tested, calibration))
        log_to_tensorboard(run, metrics)
    return metrics, None if scaling is None else scaling.temperature


def pixels_of(dataset: IndexedImageDataset) -> Callable[[int], Tensor]:
    """From an image's place to its pixels as they are evaluated, uint8 ``(C, H, W)``."""
    images = dataset.images
    assert isinstance(images, PreprocessedImages)
    return lambda place: images.preprocessing(images.sources[int(dataset.indices[place])])


def log_to_tensorboard(run: Run, metrics: Mapping[str, float]) -> None:
    """Put the numbers and the pictures of the evaluation beside the curves, if those are kept."""
    place = run.directory / "tensorboard"
    if not place.is_dir():
        return
    from torch.utils.tensorboard import SummaryWriter

    from common.data.images import decode_image

    with SummaryWriter(str(place)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(f"best/{name}", value)
        for path in sorted((run.directory / EVALUATION).glob("*/plots/*.png")):
            writer.add_image(f"{path.parent.parent.name}/{path.stem}", decode_image(path))


def privacy_of(run: Run) -> dict[str, Any]:
    """What a private run has spent, as its last record says; empty for others."""
    spent: dict[str, Any] = {}
    try:
        lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return spent
    for line in lines:
        record = json.loads(line)
        spent |= {key: value for key, value in record.items() if "epsilon" in key or "delta" in key}
    return spent


def _card(
    config: Config,
    context: RunContext,
    run: Run,
    task: ImageClassifier,
    report: ClassificationReport | None,
    calibration: CalibrationReport | None,
) -> CardFacts:
    record = json.loads((run.directory / "run.json").read_text(encoding="utf-8"))
    code = record.get("code", {})
    recipe = config.preprocessing
    size = " x ".join(map(str, recipe.image_size or ()))
    model = config.model
    first = "published weights" if model.pretrained else (model.weights or "")
    facts = CardFacts(
        dataset=dataset_name(config),
        class_names=list(config.data.class_names or ()),
        counts=_counts(config),
        split_method=_split_method(config),
        left_out=_left_out(config),
        architecture=f"{model.name} (model.type {model.type})",
        parameters=sum(p.numel() for p in task.parameters()),
        pretrained=first,
        input=f"{recipe.mode}, {size}",
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        seed=config.seed,
        commit=code.get("commit"),
        dirty=code.get("dirty"),
        started=record.get("started"),
        settings={key: read(config, key) for key in _SETTINGS},
        versions=record.get("versions", {}),
        hardware=_hardware(record.get("hardware", {})),
        report=report,
        calibration=calibration,
        privacy=privacy_of(run) if config.training.trainer_type == "dp" else {},
        checkpoint=(run.directory / WEIGHTS / "best.pt").as_posix(),
    )
    return facts


def _counts(config: Config) -> dict[str, list[int]]:
    from projects.image_classification.core.facts import labels_of
    from projects.image_classification.core.index_files import read_index

    splits, names = Path(config.data.data_dir) / "splits", list(config.data.class_names or ())
    fold = config.data.fold
    files = {"train": f"fold_{fold}_train.txt", "val": f"fold_{fold}_val.txt", "test": "test.txt"}
    counts: dict[str, list[int]] = {}
    for split, name in files.items():
        listed = labels_of(read_index(splits / name), names, splits / name)
        labels = torch.tensor(listed, dtype=torch.long)  # also of none
        counts[split] = labels.bincount(minlength=len(names)).tolist()
    return counts


def _split_method(config: Config) -> str | None:
    try:
        text = (Path(config.data.data_dir) / "splits" / "split.json").read_text(encoding="utf-8")
        options = json.loads(text)["options"]
    except (OSError, ValueError, KeyError):
        return None
    grouped = f", grouped by {options['group_by']}" if options.get("group_by") else ""
    near = " and near" if options.get("near_duplicates") else ""
    return (
        f"ml-split into {options['folds']} folds, stratified{grouped}; exact{near} duplicates on one "
        f"side; seed {options['seed']}; this is fold {config.data.fold}"
    )


def _left_out(config: Config) -> int | None:
    try:
        text = (Path(config.data.data_dir) / "splits" / "report.json").read_text(encoding="utf-8")
        return int(json.loads(text)["images"]["bad"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _hardware(values: Mapping[str, Any]) -> str | None:
    accelerators = values.get("accelerators") or []
    processor = f"{values.get('processor', 'unknown processor')}, {values.get('cores', '?')} cores"
    return ", ".join([processor, *map(str, accelerators)]) if values else None


def _device(task: ImageClassifier) -> torch.device:
    return next(task.parameters()).device
