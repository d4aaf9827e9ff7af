"""What a finished classifier says: of a run's test set, or of any images.

A test set is read by the run's own recipe and in its own batches, so that what comes out is, on the
same machine, to the last bit what the training recorded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from common.data.image_batches import stack_images
from common.data.image_reading import read_images
from common.data.loaders import SampleLoader
from common.utils.errors import CheckpointError, DataError
from common.utils.text import printable
from projects.image_classification.core.classifier import BEST, Classifier, run_directory
from projects.image_classification.core.datasets import IndexedImageDataset, evaluation_loader
from projects.image_classification.core.folder.split_files import read_classes
from projects.image_classification.core.predictions import (
    Predictions,
    predict_logits,
    read_predictions,
)
from projects.image_classification.core.run_directories import EVALUATION

_NAMED = 5  # of a list, in a message


@dataclass(frozen=True)
class FilePredictions:
    """What was said of image files.

    Attributes:
        files: Those that could be read.
        probabilities: float32 ``(N, K)``, at the classifier's temperature.
        unreadable: Why each of the others could not, by file.
    """

    files: list[Path]
    probabilities: Tensor
    unreadable: dict[Path, str]


def predict_files(
    classifier: Classifier,
    files: Sequence[Path],
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    flips: bool = False,
) -> FilePredictions:
    """Classify image files; what cannot be read is left out and listed.

    Args:
        classifier: What ``load_classifier`` gave.
        files: Images.
        batch_size: ``data.eval_batch_size`` by default.
        num_workers: Processes that read ahead.
        flips: Also look at the mirrored images.
    """
    size = batch_size or classifier.config.data.eval_batch_size
    good: list[Path] = []
    bad: dict[Path, str] = {}
    rows: list[Tensor] = []
    batch: list[Tensor] = []

    def flush() -> None:
        logits = classifier.logits(stack_images(batch), flips=flips)
        rows.append(classifier.probabilities(logits))
        batch.clear()

    pixels = read_images(files, classifier.preprocessing, num_workers)
    for file, image in zip(files, pixels, strict=True):
        if isinstance(image, str):
            bad[file] = image
            continue
        good.append(file)
        batch.append(image)
        if len(batch) == size:
            flush()
    if batch:
        flush()
    empty = torch.empty(0, len(classifier.class_names))
    return FilePredictions(good, torch.cat([empty, *rows]), bad)


def dataset_of(
    classifier: Classifier,
    split: str = "test",
    data_dir: Path | None = None,
    index_file: Path | None = None,
    *,
    on_bad: str | None = None,
) -> IndexedImageDataset:
    """The run's images of a split, as evaluation reads them.

    Args:
        classifier: Its recipe and its classes count, whatever the folder has.
        split: ``val`` (of the run's fold) or ``test``.
        data_dir: The folder with ``splits/`` and ``raw/``, if not where the checkpoint says.
        index_file: In place of the split's; its paths are relative to ``data_dir``.
        on_bad: In place of ``data.on_bad``.

    Raises:
        DataError: if the folder, the list or images are missing, or the classes are others.
    """
    config = classifier.config
    folder = _data_dir(classifier, data_dir)
    name = "test.txt" if split == "test" else f"fold_{config.data.fold}_{split}.txt"
    listed = folder / "splits" / name if index_file is None else index_file
    if not listed.is_file():
        raise DataError(
            f"there is no list of images at {listed}; give another with --index_file FILE"
        )
    if not listed.stat().st_size:
        raise DataError(f"{listed} lists no image; give another with --index_file FILE")
    _check_classes(classifier, folder)
    if not (folder / "raw").is_dir():
        raise DataError(
            f"the folder {folder / 'raw'} with the images of {listed} is not there; if the data set "
            "was moved, give its folder (with raw/ and splits/ in it) with --data_dir DIR"
        )
    return IndexedImageDataset(
        listed,
        folder,
        classifier.preprocessing,
        classifier.class_names,
        on_bad=on_bad or config.data.on_bad,
        workers=config.data.num_workers,
    )


def data_loader(
    classifier: Classifier,
    dataset: IndexedImageDataset,
    batch_size: int | None = None,
    num_workers: int = 0,
) -> SampleLoader:
    """Every image once, in order, in batches of the run's own size unless another is given."""
    config = classifier.config
    data = replace(
        config.data,
        eval_batch_size=batch_size or config.data.eval_batch_size,
        num_workers=num_workers,
    )
    return evaluation_loader(replace(config, data=data), dataset)


def predict_dataset(
    classifier: Classifier,
    dataset: IndexedImageDataset,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    flips: bool = False,
) -> Predictions:
    """Logits of a data set's images, as the training computed them."""
    loader = data_loader(classifier, dataset, batch_size, num_workers)
    if not flips:
        return predict_logits(classifier.task, loader, dataset.paths, classifier.precision)
    logits, labels = [], []
    for batch in loader.batches(0):
        assert batch is not None
        logits.append(classifier.logits(batch["image"], flips=True))
        labels.append(batch["label"])
    return Predictions(dataset.paths, torch.cat(logits), torch.cat(labels))


def difference_from_record(classifier: Classifier, made: Predictions) -> float | None:
    """The largest difference of a logit from what the training recorded of the same images.

    Returns:
        0 if they are the same to the last bit; ``None`` if there is no record of these weights
        and these images.
    """
    known = recorded(classifier, "test")
    if known is None or known.ids != made.ids or known.logits.shape != made.logits.shape:
        return None
    difference = float((known.logits - made.logits).abs().max())
    return math.inf if math.isnan(difference) else difference


def recorded(classifier: Classifier, split: str) -> Predictions | None:
    """What the training recorded of these weights; ``None`` if that is not there, or not whole."""
    file = run_directory(classifier.path) / EVALUATION / f"{split}.pt"
    if not file.is_file() or classifier.path.name != BEST:
        return None
    try:
        return read_predictions(file)
    except (CheckpointError, KeyError, TypeError) as error:
        logger.warning(f"what training recorded cannot be read, and is not compared: {error}")
        return None


def _data_dir(classifier: Classifier, given: Path | None) -> Path:
    if given is not None:
        folder = given.expanduser()
        if not (folder / "splits").is_dir() and not (folder / "raw").is_dir():
            raise DataError(
                f"--data_dir {folder} is no data set's folder: it has neither splits/ nor raw/"
            )
        return folder
    said = Path(classifier.config.data.data_dir).expanduser()
    # A run lies in <project>/runs/<run>; the path in its configuration is relative to <project>.
    project = run_directory(classifier.path).parent.parent
    places = [place for place in (said, project / said) if place.is_dir()]
    if not places:
        raise DataError(
            f"the data set's folder {said} is not there (data.data_dir of {classifier.path}, "
            f"looked for in {Path.cwd()} and {project}); give the folder with raw/ and splits/ in "
            "it with --data_dir DIR"
        )
    return places[0]


def _check_classes(classifier: Classifier, folder: Path) -> None:
    found, known = set(read_classes(folder)), set(classifier.class_names)
    missing, unknown = sorted(known - found), sorted(found - known)
    if missing or unknown:
        parts = []
        if unknown:
            parts.append(f"{_shown(unknown)} only in the data set")
        if missing:
            parts.append(f"{_shown(missing)} only in the checkpoint")
        raise DataError(
            f"{folder} has {len(found)} classes and {classifier.path} was trained on {len(known)}, "
            f"not the same: {'; '.join(parts)}; use the data set the run was trained on, or "
            "classify the images without their labels with --images"
        )


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:_NAMED]) + more
