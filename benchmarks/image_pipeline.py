"""Images per CPU-second, from JPEG files to normalised batches, beside ImageFolder + v2 and timm.

The photos are synthetic (smooth colours, texture, sensor noise; quality 90) and lie in a temporary
directory, in the page cache. All variants crop and resize at random to 224, mirror half of the
images and end with float32 batches of 64 with mean 0; they read the same files in the same order.

    python -m benchmarks.image_pipeline --json benchmarks/results/image_pipeline.json
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.harness import Column, Measure, Result, Timing, command_line, interleave, timed
from common.data import ImageCache, Preprocessing, PreprocessingConfig, SampleLoader
from common.data.image_batches import collate_images
from common.data.orders import ShuffledBatches
from common.models import Normalize

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZE, _RESIZED, _BATCH = 224, 256, 64
_SMALL, _LARGE = (375, 500), (3000, 4000)
_BASELINE, _TIMM, _OURS, _CACHED = "ImageFolder + v2", "timm", "ours", "ours, from the cache"
_COLUMNS = [
    Column("train", "training, 500 x 375", 0, "train"),
    Column("eval", "evaluation, 500 x 375", 0, "eval"),
    Column("large", "training, 12 megapixels", 1, "large"),
    Column("normalise", "normalising, us/image", 0, "normalise"),
    Column("one", "1 worker", 0),
    Column("two", "2 workers", 0),
]

Epoch = Iterator[Any]
Pipeline = Callable[[Path, bool, int], Epoch]  # of a folder; for training; with workers


def image_pipeline(repeats: int, quick: bool = False) -> Result:
    """Measure every way of reading the same photos.

    Args:
        repeats: Interleaved rounds.
        quick: A few photos, and ImageFolder and ours only.
    """
    small_count, large_count = (_BATCH, 1) if quick else (12 * _BATCH, 12)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        small, large = Path(name, "small"), Path(name, "large")
        write_photos(small, small_count, _SMALL)
        write_photos(large, large_count, _LARGE)
        measures: dict[str, Measure] = {
            _BASELINE: partial(_measure, _image_folder, small, large, _Plain()),
            _OURS: partial(_measure, _ours, small, large, Normalize(_MEAN, _STD)),
        }
        if not quick:
            cache = ImageCache(_paths(small), _RECIPE)
            cached = partial(_from_cache, cache)
            measures[_TIMM] = partial(_measure, _timm, small, large, _Plain())
            measures[_CACHED] = partial(_measure, cached, small, None, Normalize(_MEAN, _STD))
        samples = interleave(measures, repeats)
    notes = [
        f"Images per CPU-second of one process without workers ({small_count} small photos, "
        f"{large_count} large ones), in brackets times ImageFolder with torchvision's v2 "
        f"transforms. *Training*: a random part resized to {_SIZE}, half of them mirrored. "
        f"*Evaluation*: shorter side to {_RESIZED}, the centre. *Normalising*: a uint8 batch of "
        "256 to float32 with mean 0, by the plain expression and into the reused buffer. "
        "*Workers*: images of training per second on the clock, the start of the workers "
        f"included; two over one of the same loader: {_speed_ups(samples)}."
    ]
    return Result("image_pipeline", _COLUMNS, samples, dict.fromkeys(measures, _BASELINE), notes)


def _speed_ups(samples: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Two workers over one, the median over rounds, of every row."""
    ratios = {
        row: statistics.median(t / o for o, t in zip(values["one"], values["two"], strict=True))
        for row, values in samples.items()
    }
    return ", ".join(f"{row} {ratio:.2f}x" for row, ratio in ratios.items())


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write photo-like JPEG files, in one class, as ``ImageFolder`` wants it."""
    (folder / "class").mkdir(parents=True)
    for number in range(count):
        # A few contents in many files: making noise of 12 megapixels takes longer than reading it.
        path = folder / "class" / f"{number:05}.jpg"
        if number >= 16:
            path.write_bytes((folder / "class" / f"{number % 16:05}.jpg").read_bytes())
        else:
            Image.fromarray(_photo(*size, number)).save(path, quality=90)


def _photo(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((4, 60), (16, 30), (64, 20), (256, 10)):
        rows, columns = (max(2, cells * side // max(height, width)) for side in (height, width))
        noise = random.standard_normal((rows, columns, 3), np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[:, :, channel]).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            image[:, :, channel] += strength * np.asarray(layer)
    image += 6 * random.standard_normal((height, width, 1), np.float32)
    return image.clip(0, 255).astype(np.uint8)


def _paths(folder: Path) -> list[Path]:
    return sorted((folder / "class").iterdir())


_RECIPE = Preprocessing(PreprocessingConfig(image_size=[_SIZE, _SIZE], mode="RGB"))


def _measure(
    pipeline: Pipeline, small: Path, large: Path | None, normalise: nn.Module
) -> dict[str, float]:
    """The quantities of one way of reading."""
    values = {
        "train": _rate(pipeline(small, True, 0), normalise).cpu,
        "eval": _rate(pipeline(small, False, 0), normalise).cpu,
        "normalise": _normalising(normalise),
        "one": _rate(pipeline(small, True, 1)).wall,
        "two": _rate(pipeline(small, True, 2)).wall,
    }
    if large is not None:
        values["large"] = _rate(pipeline(large, True, 0), normalise).cpu
    return values


def _rate(epoch: Epoch, normalise: nn.Module | None = None) -> Timing:
    """Images per second; what is uint8 yet is normalised, as at the start of a training step."""
    seen = 0

    def read() -> None:
        nonlocal seen
        for batch in epoch:
            seen += len(batch)
            if normalise is not None and batch.dtype is torch.uint8:
                normalise(batch)

    timing = timed(read)
    return Timing(seen / timing.cpu, seen / timing.wall)


def _normalising(normalise: nn.Module) -> float:
    """Microseconds an image of a batch, as floats, of more than 32 MiB."""
    batch = torch.randint(0, 256, (256, 3, _SIZE, _SIZE), dtype=torch.uint8)
    normalise(batch)
    return timed(lambda: normalise(batch)).cpu / len(batch) * 1e6


class _Plain(nn.Module):
    """What ``Normalize`` computes, as it is usually written."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (_MEAN, _STD))

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() / 255.0 - self.mean) / self.std


def _image_folder(folder: Path, training: bool, workers: int) -> Epoch:
    """As the references of torchvision have it."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    cut = (
        [v2.RandomResizedCrop(_SIZE, antialias=True), v2.RandomHorizontalFlip()]
        if training
        else [v2.Resize(_RESIZED, antialias=True), v2.CenterCrop(_SIZE)]
    )
    finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
    data = ImageFolder(folder, v2.Compose([*cut, *finish]))
    yield from (images for images, _ in DataLoader(data, _BATCH, num_workers=workers))


def _timm(folder: Path, training: bool, workers: int) -> Epoch:
    """timm's own transforms, of training nothing but crop, flip and normalisation."""
    from timm.data import ImageDataset, create_transform

    options = {"color_jitter": 0.0, "auto_augment": None} if training else {"crop_pct": 0.875}
    transform = create_transform(
        _SIZE,
        is_training=training,
        interpolation="bilinear",
        mean=_MEAN,
        std=_STD,
        **options,
    )
    data = ImageDataset(str(folder), transform=transform)
    yield from (images for images, _ in DataLoader(data, _BATCH, num_workers=workers))


def _ours(folder: Path, training: bool, workers: int) -> Epoch:
    cut = _RECIPE.random_crop if training else _RECIPE
    yield from _loaded(_Images(_paths(folder), cut, training), workers)


def _from_cache(cache: ImageCache, _: Path, training: bool, workers: int) -> Epoch:
    cut = _RECIPE.random_crop if training else _RECIPE.finish
    yield from _loaded(_Images(cache, cut, training), workers)


class _Images:
    """Samples ``{"image": uint8 (C, H, W)}``."""

    def __init__(self, sources: Any, cut: Callable[[Any], Tensor], training: bool) -> None:
        self.sources, self.cut, self.training = sources, cut, training

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self.cut(self.sources[index])
        if self.training and torch.rand(()) < 0.5:
            image = image.flip(-1)
        return {"image": image}


def _loaded(data: _Images, workers: int) -> Epoch:
    order = ShuffledBatches(len(data.sources), _BATCH, shuffle=False)
    loader = SampleLoader(data, order, collate=collate_images, num_workers=workers)
    yield from (batch["image"] for batch in loader.batches(0) if batch is not None)


if __name__ == "__main__":
    command_line(image_pipeline, repeats=5)
