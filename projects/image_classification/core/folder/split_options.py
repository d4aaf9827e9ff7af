"""How to split a folder of photos; apart from ``splitting``, so that ``--help`` needs no PyTorch."""

from dataclasses import dataclass

from common.data.perceptual_hash import DISTANCE, MAX_DISTANCE
from common.utils.errors import InputError
from common.utils.options import check_option, check_seed

_MAX_FOLDS = 1000
_MAX_WORKERS = 1024


@dataclass(frozen=True)
class SplitOptions:
    """How to split; the defaults are those of ``ml-split``.

    Attributes:
        folds: Each is validated on once; 1 makes one pair of training and validation.
        test_share: Of all images, from 0 to below 1.
        val_share: Of the images outside of the test set, with one fold.
        seed: Another seed is another split.
        group_by: A regular expression or a CSV file, see ``grouping.read_groups``.
        near_duplicates: Keep images that look alike on one side; exact copies always are.
        hash_distance: Bits in which the hashes of two that look alike may differ, 0 to 16.
        on_bad: ``skip`` leaves images that do not decode out and lists them; ``fail`` stops.
        keep_test: A list ``own_test.txt`` beside the raw folder is the test set.
        workers: Processes that decode.
    """

    folds: int = 5
    test_share: float = 0.1
    val_share: float = 0.2
    seed: int = 0
    group_by: str | None = None
    near_duplicates: bool = True
    hash_distance: int = DISTANCE
    on_bad: str = "skip"
    keep_test: bool = True
    workers: int = 0

    def check(self) -> None:
        """Refuse values without a meaning.

        Raises:
            InputError: naming the option.
        """
        check_option("--folds", self.folds, 1, _MAX_FOLDS)
        check_option("--hash-distance", self.hash_distance, 0, MAX_DISTANCE)
        check_option("--workers", self.workers, 0, _MAX_WORKERS)
        check_seed(self.seed)
        if not 0 <= self.test_share < 1:
            raise InputError(
                f"--test-share is {self.test_share}, expected a share from 0 to below 1, such as "
                "0.1 for a tenth"
            )
        if not 0 < self.val_share < 1:
            raise InputError(
                f"--val-share is {self.val_share}, expected a share between 0 and 1, such as 0.2"
            )
        if self.on_bad not in ("skip", "fail"):
            raise InputError(f"--on-bad is '{self.on_bad}', expected skip or fail")
