"""What a data set says of itself, for tasks that size themselves from it; and its loaders."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set; what does not apply is left out.

    Attributes:
        name: As the user typed it.
        sizes: Number of examples by split.
        num_classes: Of a classification.
        class_names: By class index.
        vocab_size: Tokens of a text's vocabulary.
        input_shape: Of one example, e.g. ``(channels, height, width)``.
        mean: Of each channel of the training split's images, with values from 0 to 1.
        std: The standard deviation of the same.
    """

    name: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    vocab_size: int | None = None
    input_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class DataSplits:
    """Loaders of the three splits, as the ``Trainer`` takes them.

    Attributes:
        train: Training batches, shuffled.
        validation: For choices made while training; ``None`` if there is none.
        test: For the numbers that are reported.
        info: What the data says of itself.
    """

    train: Any
    validation: Any
    test: Any
    info: DatasetInfo
