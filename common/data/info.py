"""What a data set says of itself, for tasks that size themselves from it."""

from dataclasses import dataclass, field


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
    """

    name: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    vocab_size: int | None = None
    input_shape: tuple[int, ...] = ()
