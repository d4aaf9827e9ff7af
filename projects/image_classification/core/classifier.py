"""A finished classifier, from ONE checkpoint file and nothing else.

    classifier = load_classifier("runs/digits_fold_0/weights/best.pt")
    classifier.predict(["photo.jpg"])      # (1, K) probabilities, at the fitted temperature
    classifier.class_names                 # in the order of the columns

The checkpoint holds the run's whole configuration: architecture, recipe, classes. What folder is at
hand, and which weights could be downloaded, plays no part.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import RunContext
from common.data.image_batches import stack_images
from common.data.image_reading import read_images
from common.data.preprocessing import Preprocessing
from common.training import Task, load_run_weights
from common.training.precision import Precision
from common.utils.checkpoint import load_checkpoint
from common.utils.errors import CheckpointError, ConfigError, DataError
from common.utils.files import sha256_file
from projects.image_classification.core.config import Config
from projects.image_classification.core.config_files import run_config
from projects.image_classification.core.datasets import dataset_info
from projects.image_classification.core.experiment import trainer_config
from projects.image_classification.core.run_directories import WEIGHTS, missing_checkpoint, run_of
from projects.image_classification.core.task import ImageClassifier

BEST = "best.pt"


@dataclass(frozen=True)
class Classifier:
    """Weights with all that is needed to use them.

    Attributes:
        config: The run's.
        task: With the weights, in evaluation mode.
        preprocessing: From a file to the network's uint8 pixels.
        class_names: In the order of the network's outputs.
        temperature: Of the probabilities; 1 if none was fitted.
        path: Of the checkpoint.
        is_calibrated: Whether a temperature was fitted.
    """

    config: Config
    task: Task
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    temperature: float
    path: Path
    is_calibrated: bool = False

    @property
    def network(self) -> nn.Module:
        """Normalised images to logits."""
        return self.task.model  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.task.parameters()).device

    @property
    def precision(self) -> str:
        """Of the forward pass: that of the training's own evaluations."""
        return trainer_config(self.config).precision

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint file."""
        return sha256_file(self.path)

    @torch.inference_mode()
    def logits(self, images: Tensor, *, flips: bool = False) -> Tensor:
        """Logits of a batch.

        Args:
            images: uint8 ``(B, C, H, W)``, as ``preprocessing`` gives them.
            flips: Also look at the mirrored images; the logits are then the logarithm of the mean
                of both softmaxes.

        Returns:
            float32 ``(B, K)``, on the CPU.
        """
        logits = self._forward(images)
        if not flips:
            return logits
        both = torch.stack([logits, self._forward(images.flip(-1))]).log_softmax(-1)
        return both.logsumexp(0) - math.log(2)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The softmax at the temperature."""
        return (logits / self.temperature).softmax(-1)

    def predict(
        self, sources: Sequence[Any], *, batch_size: int | None = None, num_workers: int = 0
    ) -> Tensor:
        """Probabilities of images.

        Args:
            sources: Paths, bytes, PIL images, or what ``datasets`` stores.
            batch_size: ``data.eval_batch_size`` by default.
            num_workers: Processes that read ahead.

        Returns:
            float32 ``(N, K)``.

        Raises:
            DataError: for the first image that cannot be read; ``core.inference.prediction`` skips them.
        """
        size = batch_size or self.config.data.eval_batch_size
        rows = [
            self.probabilities(self.logits(stack_images(images)))
            for images in _batches(read_images(sources, self.preprocessing, num_workers), size)
        ]
        return torch.cat(rows) if rows else torch.empty(0, len(self.class_names))

    def _forward(self, images: Tensor) -> Tensor:
        with Precision(self.precision, self.device).autocast():
            return self.task(images.to(self.device)).float().cpu()


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """Build a network from a checkpoint's own configuration and put its weights in.

    Of a checkpoint with a moving average of the weights, the average is taken. Nothing is
    downloaded, and nothing but tensors and plain values is read from the file.

    Args:
        path: ``weights/best.pt`` of a run, or the run's directory.
        device: Where to put it.

    Raises:
        CheckpointError: if the file is missing, damaged, or its weights do not fit its
            configuration.
        ConfigError: if it is a checkpoint of something else.
    """
    path = checkpoint_of(path)
    state = load_checkpoint(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        raise CheckpointError(
            f"{path} holds no model of a run; expected a checkpoint that ml-train wrote, such as "
            "runs/NAME/weights/best.pt"
        )
    if not isinstance(state.get("config"), str):
        raise CheckpointError(
            f"{path} holds weights without a configuration, so nobody can say which classes they "
            "are of; expected a checkpoint that ml-train wrote"
        )
    config, context = _own_config(path)
    names = tuple(config.data.class_names or ())
    temperature = _temperature(state, path)
    # Where the training began plays no part: its weights are here. Nor does what was frozen, except
    # where it decides which layers private training replaced.
    is_private = config.training.trainer_type == "dp"
    model = replace(config.model, pretrained=False, weights=None)
    if not is_private:
        model = replace(model, freeze="none", unfreeze_epoch=None)
    task = ImageClassifier(replace(config, model=model), has_weights=True)
    task.configure(dataset_info(config, {}), context)
    if is_private:
        _replace_layers(task)
    try:
        load_run_weights(task, path)
    except CheckpointError as error:
        raise _explained(error, task, state["model"], names, path) from None
    task.to(device).eval()
    for parameter in task.parameters():
        parameter.requires_grad_(False)
    return Classifier(
        config=config,
        task=task,
        preprocessing=Preprocessing(config.preprocessing),
        class_names=names,
        temperature=1.0 if temperature is None else temperature,
        path=path,
        is_calibrated=temperature is not None,
    )


def checkpoint_of(place: str | Path) -> Path:
    """The checkpoint a person names: a file, or a run's directory for its best one.

    Raises:
        CheckpointError: if there is none.
        ConfigError: if there is no such run.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        directory, _ = run_of(path)
        path = directory / WEIGHTS / BEST
    if not path.is_file():
        raise missing_checkpoint(path)
    return path


def run_directory(checkpoint: Path) -> Path:
    """The run a checkpoint lies in; of a file that was copied elsewhere, its folder."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == WEIGHTS else folder


def _own_config(path: Path) -> tuple[Config, RunContext]:
    try:
        config, context = run_config(path)
    except ConfigError as error:
        raise ConfigError(f"{path} is no checkpoint of image classification: {error}") from None
    names, number = config.data.class_names, config.data.num_classes
    if not names or len(names) != number or len(set(names)) != len(names):
        raise ConfigError(
            f"{path} is no whole checkpoint: its configuration names {len(names or ())} classes, "
            f"and data.num_classes is {number}"
        )
    return config, context


def _replace_layers(task: Task) -> None:
    """What private training put in the place of layers that mix examples."""
    try:
        from common.training.privacy.layers import replace_layers

        replace_layers(task)
    except ImportError:
        raise ConfigError(
            'a privately trained network needs Opacus: uv pip install -e ".[dp]"'
        ) from None


def _temperature(state: Mapping[str, Any], path: Path) -> float | None:
    calibration = state.get("calibration")
    if calibration is None:
        return None
    value = calibration.get("temperature") if isinstance(calibration, Mapping) else None
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise CheckpointError(
            f"{path}: calibration.temperature is {value!r}, expected a positive number"
        )
    return float(value)


def _explained(
    error: CheckpointError, task: Task, weights: Mapping[str, Any], names: Sequence[str], path: Path
) -> CheckpointError:
    """The error, in other words if it is only the number of classes that differs."""
    ours = task.state_dict()
    differ = {
        (tuple(ours[key].shape), tuple(getattr(weights[key], "shape", ())))
        for key in ours.keys() & weights.keys()
        if ours[key].shape != getattr(weights[key], "shape", None)
    }
    outputs = {theirs[0] for _, theirs in differ if theirs}
    of_head = all(a[:1] == (len(names),) and a[1:] == b[1:] for a, b in differ)
    if ours.keys() == weights.keys() and differ and of_head and len(outputs) == 1:
        return CheckpointError(
            f"{path}: the weights have {outputs.pop()} outputs, and the configuration beside them "
            f"names {len(names)} classes; the file was put together from two runs"
        )
    return error


def _batches(images: Iterator[Tensor | str], size: int) -> Iterator[list[Tensor]]:
    batch: list[Tensor] = []
    for image in images:
        if isinstance(image, str):
            raise DataError(image)
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
