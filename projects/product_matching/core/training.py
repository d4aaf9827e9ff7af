"""One fold: a network trained on all other items, and the embeddings of those it has not seen.

A fold is a run of its own below the session's directory: its checkpoints, its log, its metrics. What it
came to is ``embeddings.safetensors`` with the names in ``embeddings.json``, and ``fold.json``, which is
written last: a fold that has it is finished.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.config import RunContext
from common.metrics import nearest_neighbors, retrieval_metrics
from common.training import EmbeddingTask, ExperimentConfig, fit, open_run
from common.training.embedding import retrieval_of
from common.training.evaluation import predict
from common.training.precision import Precision
from common.utils.errors import CheckpointError, DataError
from common.utils.files import atomic_write_text, explained_write
from common.utils.renaming import OwnNames
from common.utils.text import printable
from projects.product_matching.core.config import Config
from projects.product_matching.core.items.images import FoldImages, fold_images
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.network import build_task, has_subcenters
from projects.product_matching.core.noise import write_far_samples
from projects.product_matching.core.pooling_log import PoolingLog

OUTCOME = "fold.json"
EMBEDDINGS = "embeddings"
OWN_NAMES = OwnNames({"optim.": "optimizer.", "schedule.": "scheduler."})
_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class FoldOutcome:
    """What a fold came to.

    Attributes:
        directory: The run's.
        items: What was held out: names, labels, titles.
        embeddings: Of each, ``(N, D)`` float32 of length one.
        retrieval: Metrics of image retrieval by name.
        summary: The rest of ``fold.json``.
    """

    directory: Path
    items: Items
    embeddings: Tensor
    retrieval: dict[str, float]
    summary: dict[str, Any]


def train_fold(
    config: Config,
    context: RunContext,
    train: Items,
    held_out: Items,
    *,
    directory: Path,
    asks_gallery: bool = False,
) -> FoldOutcome:
    """Train, or go on if ``context.resume`` is set, and embed what is held out.

    The held-out items are not looked at before training has ended: nothing is chosen by them.

    Args:
        config: Facts of the data are filled in.
        context: Of the same configuration.
        train: What is trained on.
        held_out: What is embedded.
        directory: Of a new run.
        asks_gallery: Whether held-out items share labels with the others, and also ask these.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError: see the parts.
    """
    experiment = ExperimentConfig(
        seed=config.seed, optim=config.optimizer, schedule=config.scheduler, trainer=config.trainer
    )
    with OWN_NAMES.used(), open_run(experiment, context, directory=directory) as run:
        run.part_of = run.directory.parent
        images = fold_images(config, context, train, held_out)
        task = build_task(config, has_weights=run.resume_from is not None)
        trainer = fit(
            task, images.splits, experiment, context, run, callbacks=[PoolingLog()], units="images"
        )
        precision = config.trainer.precision
        embeddings = embed(task, images.splits.test, held_out.names, precision)
        retrieval = _retrieval(task, images, train, held_out, embeddings, precision, asks_gallery)
        if has_subcenters(task.loss):
            own = embed(task, images.train, train.names, precision)
            write_far_samples(run.directory, task.loss, own, train, images.train_labels)
        _write_embeddings(run.directory, held_out, embeddings)
        summary = {
            "updates": trainer.state.step,
            "epochs": trainer.state.epoch,
            "train_images": len(train),
            "train_labels": len(set(train.labels)),
            "parameters": sum(p.numel() for p in task.model.parameters()),
            "train_seconds": round(trainer.state.wall_seconds, 2),
            "retrieval": retrieval,
            "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        run.record(metrics=retrieval, parameters=summary["parameters"])
        atomic_write_text(run.directory / OUTCOME, json.dumps(summary, indent=2) + "\n")
        return FoldOutcome(run.directory, held_out, embeddings, retrieval, summary)


def read_outcome(directory: Path, held_out: Items) -> FoldOutcome | None:
    """What a finished fold came to; ``None`` if it is not finished.

    Raises:
        CheckpointError: if its files are damaged, or of other items.
    """
    try:
        summary = json.loads((directory / OUTCOME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    try:
        embeddings = load_file(directory / f"{EMBEDDINGS}.safetensors")[EMBEDDINGS]
        names = json.loads((directory / f"{EMBEDDINGS}.json").read_text(encoding="utf-8"))["names"]
    except Exception as error:  # safetensors has an error of its own
        raise CheckpointError(
            f"{directory} says it is finished, and its embeddings cannot be read ({error}); remove its "
            f"{OUTCOME} to make them again"
        ) from None
    if tuple(names) != held_out.names:
        raise CheckpointError(f"{directory} holds embeddings of other items than are held out now")
    return FoldOutcome(directory, held_out, embeddings, summary["retrieval"], summary)


def embed(task: EmbeddingTask, loader: Any, names: tuple[str, ...], precision: str) -> Tensor:
    """Embeddings of every image of a loader.

    Args:
        task: On its device.
        loader: In order, once.
        names: Of the images, for messages.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Returns:
        ``(N, D)`` float32 of length one, on the CPU.

    Raises:
        DataError: if one is not finite, naming the images.
    """
    arithmetic = Precision(precision, next(task.parameters()).device)
    rows = [output.float().cpu() for output in predict(task, loader.batches(0), arithmetic)]
    embeddings = torch.cat(rows)
    bad = (~embeddings.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(printable(names[row]) for row in bad[:_SHOWN])
        more = ", ..." if len(bad) > _SHOWN else ""
        raise DataError(
            f"the embeddings of {len(bad):,} of {len(embeddings):,} images are not finite ({shown}"
            f"{more}); the training has diverged: lower optimizer.lr, or set trainer.clip_norm"
        )
    return embeddings


def _retrieval(
    task: EmbeddingTask,
    images: FoldImages,
    train: Items,
    held_out: Items,
    embeddings: Tensor,
    precision: str,
    asks_gallery: bool,
) -> dict[str, float]:
    """Each held-out image asks the others; where it has a gallery, also all training images."""
    known = {label: place for place, label in enumerate(sorted({*held_out.labels, *train.labels}))}
    labels = torch.tensor([known[label] for label in held_out.labels])
    found = retrieval_of(embeddings, labels)
    values = {
        "precision_at_1": found.precision_at_1,
        "r_precision": found.r_precision,
        "map_at_r": found.map_at_r,
    }
    if asks_gallery:
        gallery = embed(task, images.train, train.names, precision)
        k = min(5, len(gallery))
        answers = nearest_neighbors(embeddings, gallery, k=k)
        of_gallery = torch.tensor([known[label] for label in train.labels])
        nearest = retrieval_metrics(answers.ids, labels, of_gallery, ks=(1, k))
        values["gallery_accuracy"] = float(
            (of_gallery[answers.ids[:, 0]] == labels).double().mean()
        )
        values[f"gallery_hit_at_{k}"] = nearest.hit_at[k]
    return {name: value for name, value in values.items() if value is not None}


def _write_embeddings(directory: Path, items: Items, embeddings: Tensor) -> None:
    names = {"names": list(items.names), "labels": list(items.labels)}
    path = directory / f"{EMBEDDINGS}.safetensors"
    with explained_write(path):
        save_file({EMBEDDINGS: embeddings.contiguous()}, path)
    # ASCII alone, so that names of undecodable bytes come back as they were.
    atomic_write_text(directory / f"{EMBEDDINGS}.json", json.dumps(names) + "\n")
