"""What an ONNX file says of itself: classes, recipe, temperature, and where it comes from.

Everything is text in ``metadata_props``, so that any runtime can read it; what is no plain text is
JSON. ``Preprocessing.from_description(metadata.preprocessing)`` gives the pixels of training.
"""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from common.utils.errors import CheckpointError
from projects.image_classification.core.classifier import Classifier
from projects.image_classification.core.export.onnx_network import shared_recipe

FORMAT = "reprise.image_classification/1"
_PACKAGES = ("reprise", "torch", "torchvision", "timm", "onnx", "onnxscript")


@dataclass(frozen=True)
class OnnxMetadata:
    """The metadata of an exported classifier.

    Attributes:
        class_names: In the order of the outputs.
        preprocessing: For ``Preprocessing.from_description``; of an ensemble without mean and std.
        takes: ``pixels`` or ``normalized``.
        mean: Of each channel; of an ensemble one list for each member.
        std: Likewise.
        temperature: What the logits are divided by; of an ensemble one for each member.
        checkpoint_sha256: Of each checkpoint that is in the file.
        versions: Packages that made it.
    """

    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    takes: str
    mean: Sequence[Any]
    std: Sequence[Any]
    temperature: float | Sequence[float]
    checkpoint_sha256: tuple[str, ...]
    versions: Mapping[str, str]


def metadata_of(
    classifiers: Sequence[Classifier], takes: str, *, calibrated: bool = True
) -> dict[str, str]:
    """The texts that describe an export.

    Args:
        classifiers: More than one are an ensemble.
        takes: ``pixels`` or ``normalized``.
        calibrated: Whether the probabilities are at the checkpoint's temperature.
    """
    first = classifiers[0]
    recipes = [each.preprocessing.describe() for each in classifiers]
    temperatures = [each.temperature if calibrated else 1.0 for each in classifiers]
    is_one = len(classifiers) == 1
    values: dict[str, Any] = {
        "class_names": list(first.class_names),
        "preprocessing": (
            recipes[0] if is_one else {**shared_recipe(first), "mean": None, "std": None}
        ),
        "mean": recipes[0]["mean"] if is_one else [recipe["mean"] for recipe in recipes],
        "std": recipes[0]["std"] if is_one else [recipe["std"] for recipe in recipes],
        "temperature": temperatures[0] if is_one else temperatures,
        "checkpoint_sha256": [each.sha256 for each in classifiers],
        "versions": _versions(),
    }
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    return {"format": FORMAT, "input": takes, **texts}


def parse_metadata(texts: Mapping[str, str], name: str) -> OnnxMetadata:
    """The metadata of a file, which may come from anywhere.

    Args:
        texts: Its ``metadata_props``.
        name: Of the file, for messages.

    Raises:
        CheckpointError: if it was not written by ``ml-export``, or is damaged.
    """
    if texts.get("format") != FORMAT:
        raise CheckpointError(
            f"{name} is no export of ml-export: its metadata has the format "
            f"{texts.get('format')!r}, expected {FORMAT!r}"
        )
    try:
        read = {
            key: json.loads(texts[key])
            for key in (
                *("class_names", "preprocessing", "mean", "std", "temperature"),
                *("checkpoint_sha256", "versions"),
            )
        }
        names = tuple(str(each) for each in read["class_names"])
        temperatures = read["temperature"]
        every = temperatures if isinstance(temperatures, list) else [temperatures]
        if not all(math.isfinite(each) and each > 0 for each in every):
            raise ValueError(f"temperature {temperatures}")
        return OnnxMetadata(
            class_names=names,
            preprocessing=dict(read["preprocessing"]),
            takes=texts["input"],
            mean=read["mean"],
            std=read["std"],
            temperature=temperatures,
            checkpoint_sha256=tuple(read["checkpoint_sha256"]),
            versions=dict(read["versions"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} has damaged metadata: {error!r}; export it again") from None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
