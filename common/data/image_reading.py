"""Images of any folder, one after the other: pixels, or why there are none."""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.loaders import read_with_workers
from common.data.preprocessing import Preprocessing
from common.utils.errors import DataError


class _Verdicts(Dataset[Any]):
    def __init__(self, sources: Sequence[Any], preprocessing: Preprocessing) -> None:
        self._sources, self._preprocessing = sources, preprocessing

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self._preprocessing(self._sources[index])
        except DataError as error:
            return str(error)


def read_images(
    sources: Sequence[Any], preprocessing: Preprocessing, num_workers: int = 0
) -> Generator[Tensor | str, None, None]:
    """Read images in order.

    Args:
        sources: In any form ``Preprocessing`` takes.
        preprocessing: The recipe.
        num_workers: Processes that read ahead.

    Yields:
        uint8 ``(C, H, W)``, or what is wrong with the image.
    """
    own = torch.Generator()  # a loader draws from the global one
    loader = DataLoader(
        _Verdicts(sources, preprocessing),
        batch_size=None,
        num_workers=num_workers,
        generator=own,
    )
    yield from read_with_workers(loader)
