"""Sheets of images: what a data set holds and what augmentation makes of it, and what a network says.

sheet = sample_sheet(config, context, "train", count=25, augmented=True)
plot_image_sheet(sheet.images, sheet.captions, "samples.png", sheet.title, columns=sheet.columns)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import RunContext
from common.data.preprocessed_images import PreprocessedImages
from common.data.preprocessing import Preprocessing
from common.data.randomness import isolated_generators, seed_generators
from common.utils.errors import ConfigError
from common.visualization.image_sheet import mistake_captions, percent
from projects.image_classification.core.config import ALL_FOLDS, Config
from projects.image_classification.core.datasets import IndexedImageDataset, evaluation_loader
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.index_files import read_index
from projects.image_classification.core.predictions import predict_logits
from projects.image_classification.core.run_directories import dataset_name
from projects.image_classification.core.training import fold_number, folds_of

WHICH = ("mistakes", "confident", "uncertain", "random")
VARIANTS = 5  # augmented images beside each original
_RIGHT, _WRONG, _PLAIN = "#009E73", "#D55E00", "#222222"


@dataclass
class Sheet:
    """Images with what is written under them.

    Attributes:
        images: uint8 ``(C, H, W)``, as the network sees them.
        captions: Lines under each.
        colours: Of the first line of each.
        title: Above all.
        columns: Images in a row.
        counts: Of the whole split, by class.
    """

    title: str
    columns: int
    images: list[Tensor] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def sample_sheet(
    config: Config,
    context: RunContext,
    split: str = "train",
    count: int = 25,
    augmented: bool = False,
) -> Sheet:
    """Images of every class in turn, with how many the class has.

    Args:
        config: Of the data set.
        context: Of the same configuration.
        split: ``train``, ``val`` or ``test`` of the fold ``data.fold``.
        count: Different images, chosen by ``seed``.
        augmented: Show beside each what training makes of it in several epochs.

    Raises:
        ConfigError: if the split is empty.
        DataError: if images are missing or damaged.
    """
    fold = _fold(config)
    resolve_facts(config, context, fold)
    plain = Preprocessing(config.preprocessing)
    dataset = _images(config, Path(config.data.data_dir), split, plain)
    labels = [int(dataset.labels[i]) for i in dataset.indices]
    names = dataset.class_names
    counts = Counter(labels)
    what = f"{dataset_name(config)}, {split if split == 'test' else f'{split} of fold {fold}'}"
    title = f"{what}: {len(labels):,} images of {len(counts)} classes"
    sheet = Sheet(title, 1 + VARIANTS if augmented else 5)
    sheet.counts = {name: counts[index] for index, name in enumerate(names)}
    sources = [Path(config.data.data_dir) / path for path in dataset.paths]
    shown = PreprocessedImages(sources, plain)
    training = PreprocessedImages(sources, plain, config.augmentation)
    for position in in_turn(labels, count, config.seed):
        name = names[labels[position]]
        of_class = counts[labels[position]]
        how_many = f"{of_class:,} image{'s' * (of_class != 1)}, {of_class / len(labels):.1%}"
        _add(sheet, shown[position], (name, how_many))
        for epoch in range(VARIANTS) if augmented else ():
            with isolated_generators():
                seed_generators(config.seed, epoch, position)  # as the training's loader
                _add(sheet, training[position], (f"epoch {epoch}",))
    return sheet


def prediction_sheet(
    checkpoint: Path,
    split: str = "test",
    which: str = "mistakes",
    count: int = 25,
    data_dir: str | None = None,
) -> Sheet:
    """What a trained network says of images of one of its splits.

    Args:
        checkpoint: ``runs/r/weights/best.pt``.
        split: ``train``, ``val`` or ``test`` of the fold it was trained on.
        which: ``mistakes``, the least probable truth first; ``confident``; ``uncertain``, the two
            likeliest classes closest first; ``random``.
        count: Images at most.
        data_dir: Where the data set lies now.

    Raises:
        ConfigError: if the split is empty.
        CheckpointError: if the checkpoint is missing or damaged.
        DataError: if images are missing or damaged.
    """
    from projects.image_classification.core.classifier import load_classifier

    classifier = load_classifier(checkpoint)
    config = classifier.config
    root = Path(data_dir or config.data.data_dir)
    dataset = _images(config, root, split, classifier.preprocessing)
    made = predict_logits(
        classifier.task, evaluation_loader(config, dataset), dataset.paths, classifier.precision
    )
    probabilities = (made.logits.double() / classifier.temperature).softmax(1)
    order = ranked(probabilities, made.labels, which, config.seed)
    right = probabilities.argmax(1) == made.labels
    accuracy = float(right.double().mean())
    shown = min(count, len(order))
    phrases = {
        "mistakes": f"{shown:,} of {len(order):,} mistakes",
        "random": f"{shown:,} at random",
    }
    title = (
        f"{dataset_name(config)}, network of fold {config.data.fold}, {split}: "
        f"{phrases.get(which, f'the {shown:,} most {which}')}; accuracy {accuracy:.1%} of "
        f"{len(right):,} images"
    )
    sheet = Sheet(title, 5, counts={"right": int(right.sum()), "wrong": int((~right).sum())})
    for position in order[:count]:
        row, label = probabilities[position], int(made.labels[position])
        guess = int(row.argmax())
        confidence, names = float(row[guess]), classifier.class_names
        if guess != label:
            lines = mistake_captions(names[label], names[guess], confidence, float(row[label]))
        else:
            second = int(row.topk(2).indices[1])
            odds = f"p {percent(confidence)}, next {percent(float(row[second]))}"
            lines = (f"is {names[label]}", f"next {names[second]}", odds)
        image = dataset[position]["image"]
        _add(sheet, image, lines, _RIGHT if guess == label else _WRONG)
    return sheet


def in_turn(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Positions of images by class: one of every class before a second of any, at random."""
    generator = np.random.default_rng(seed)
    queues = [
        generator.permutation(np.flatnonzero(np.asarray(labels) == label)).tolist()
        for label in generator.permutation(sorted(set(labels)))
    ]
    rounds = max(map(len, queues), default=0)
    picked = [queue[r] for r in range(rounds) for queue in queues if r < len(queue)][:count]
    return sorted(picked, key=lambda position: labels[position])


def ranked(probabilities: Tensor, labels: Tensor, which: str, seed: int = 0) -> list[int]:
    """Positions of predictions in the order that ``which`` asks for.

    Args:
        probabilities: ``(N, K)``.
        labels: ``(N,)``.
        which: See ``prediction_sheet``; ``mistakes`` leaves out what is right.
        seed: Of ``random``.
    """
    top = probabilities.topk(2, dim=1).values
    if which == "mistakes":
        of_truth = probabilities.gather(1, labels[:, None])[:, 0]
        order = of_truth.argsort(stable=True)
        wrong = probabilities.argmax(1) != labels
        return order[wrong[order]].tolist()
    if which == "confident":
        return top[:, 0].argsort(descending=True, stable=True).tolist()
    if which == "uncertain":
        return (top[:, 0] - top[:, 1]).argsort(stable=True).tolist()
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(labels), generator=generator).tolist()


def _fold(config: Config) -> int:
    """The fold to look at; of all of them the first."""
    if config.data.fold == ALL_FOLDS:
        config.data.fold = folds_of(config)[0]
    return fold_number(config)


def _images(
    config: Config, root: Path, split: str, preprocessing: Preprocessing
) -> IndexedImageDataset:
    """One split of the configuration's fold, not augmented.

    Raises:
        ConfigError: if it is empty.
    """
    name = "test.txt" if split == "test" else f"fold_{config.data.fold}_{split}.txt"
    file = root / "splits" / name
    if file.is_file() and not read_index(file):
        raise ConfigError(f"{file} lists no images; see ml-split")
    names = config.data.class_names
    return IndexedImageDataset(file, root, preprocessing, names, on_bad=config.data.on_bad)


def _add(sheet: Sheet, image: Tensor, lines: tuple[str, ...], colour: str = _PLAIN) -> None:
    sheet.images.append(image)
    sheet.captions.append(lines)
    sheet.colours.append(colour)
