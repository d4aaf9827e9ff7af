"""A cache changes no pixel; a damaged one is made anew; many processes share one."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from common.data import (
    ImageCache,
    Preprocessing,
    PreprocessingConfig,
    SampleLoader,
    ShuffledBatches,
    collate_images,
)
from common.data import image_cache as module
from common.data.pixel_file import DamagedFile, load
from common.utils.errors import ConfigError, DataError, FaultError
from tests.data.photos import encoded, photo, rotated_exif

RECIPE = Preprocessing(PreprocessingConfig(image_size=[32, 32], mode="RGB"))


@pytest.fixture(scope="module")
def content() -> list[bytes]:
    return [
        *(encoded(photo(60 + 7 * i, 90, i)) for i in range(5)),
        encoded(photo(50, 50), "PNG"),
        encoded(photo(700, 500), exif=rotated_exif(6)),
        encoded(Image.fromarray(photo(40, 60)).convert("CMYK")),
        encoded(photo(1, 1), "PNG"),
    ]


@pytest.fixture
def paths(content: list[bytes], tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"image {i}.jpg" for i in range(len(content))]
    for path, data in zip(files, content, strict=True):
        path.write_bytes(data)
    return files


def on_disk(paths: Any, tmp_path: Path, **options: Any) -> ImageCache:
    return ImageCache(paths, RECIPE, "disk", tmp_path / "cache", **options)


def holds(cache: ImageCache, sources: Any) -> bool:
    """Whether every image is, to the last bit, that of its source."""
    return len(cache) == len(sources) and all(
        torch.equal(cache[i], RECIPE.stored(source))
        and torch.equal(RECIPE.finish(cache[i]), RECIPE(source))
        for i, source in enumerate(sources)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_cache_changes_no_pixel(kind: str, workers: int, paths: list[Path], tmp_path: Path):
    directory = tmp_path / "cache" if kind == "disk" else None
    assert holds(ImageCache(paths, RECIPE, kind, directory, workers=workers), paths)


def test_bytes_and_rows_of_a_data_set_are_cached(content: list[bytes], tmp_path: Path):
    assert holds(on_disk(content, tmp_path), content)
    rows = [{"bytes": data, "path": None} for data in content]
    assert on_disk(rows, tmp_path).path == on_disk(content, tmp_path).path
    pictures = [Image.fromarray(photo(50, 60))]
    assert holds(ImageCache(pictures, RECIPE), pictures)
    with pytest.raises(ConfigError, match=r"image 0, .* is decoded already"):
        on_disk(pictures, tmp_path)


def test_the_second_run_decodes_nothing(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = [RECIPE.stored(path) for path in paths]
    on_disk(paths, tmp_path)
    monkeypatch.setattr(Preprocessing, "stored", lambda *_: pytest.fail("decoded again"))
    again = on_disk(paths, tmp_path)
    assert all(torch.equal(again[i], image) for i, image in enumerate(expected))


def test_a_training_transform_gives_the_same_from_either_kind_and_any_workers(
    paths: list[Path], tmp_path: Path
):
    class Crops:
        def __init__(self, cache: ImageCache) -> None:
            self.cache = cache

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": RECIPE.random_crop(self.cache[index]), "label": index}

    def epoch(cache: ImageCache, workers: int) -> list[Tensor]:
        order = ShuffledBatches(len(paths), 4, seed=1, shuffle=True)
        loader = SampleLoader(
            Crops(cache), order, collate=collate_images, num_workers=workers, seed=1
        )
        return [batch["image"] for batch in loader.batches(0) if batch is not None]

    expected = epoch(ImageCache(paths, RECIPE), 0)
    for workers in (0, 1, 2):
        got = epoch(on_disk(paths, tmp_path), workers)
        assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def flipped(position: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 0x10
        path.write_bytes(data)

    return flip


@pytest.mark.parametrize(
    "damage",
    [truncated, emptied, *(flipped(p) for p in (0, 8, 12, 17, 25, 33, 63, -1, -200))],
)
def test_a_damaged_file_is_made_anew(
    damage: Callable[[Path], None], paths: list[Path], tmp_path: Path, logged: list[str]
):
    path = on_disk(paths, tmp_path).path
    assert path is not None
    whole = path.read_bytes()
    damage(path)
    assert holds(on_disk(paths, tmp_path), paths)
    assert any("is damaged" in line for line in logged)
    assert path.read_bytes() == whole


def test_an_image_that_rots_within_the_file_is_decoded_again(
    paths: list[Path], tmp_path: Path, logged: list[str]
):
    path = on_disk(paths, tmp_path).path
    assert path is not None
    flipped(5000)(path)
    assert holds(on_disk(paths, tmp_path), paths)
    assert any("has changed" in line for line in logged)


def test_whoever_writes_into_an_image_harms_no_other_reader(paths: list[Path], tmp_path: Path):
    first, second = on_disk(paths, tmp_path), on_disk(paths, tmp_path)
    first[2].zero_()
    assert holds(second, paths)
    assert holds(first, paths), "it is decoded again"


@pytest.mark.parametrize("change", ["content", "order", "recipe", "fewer"])
def test_a_change_of_the_images_or_the_recipe_makes_another_file(
    change: str, paths: list[Path], content: list[bytes], tmp_path: Path
):
    before = on_disk(paths, tmp_path).path
    recipe, files = RECIPE, paths
    if change == "content":
        status = paths[3].stat()
        paths[3].write_bytes(content[4])
        os.utime(paths[3], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "order":
        files = paths[::-1]
    elif change == "fewer":
        files = paths[:-1]
    else:
        recipe = Preprocessing.from_description(RECIPE.describe() | {"interpolation": "bicubic"})
    after = ImageCache(files, recipe, "disk", tmp_path / "cache")
    assert after.path != before
    assert torch.equal(after[3], recipe.stored(files[3]))


def test_mean_and_std_are_no_reason_to_decode_again(paths: list[Path], tmp_path: Path):
    other = Preprocessing.from_description(RECIPE.describe() | {"mean": [0.5, 0.5, 0.5]})
    assert (
        ImageCache(paths, other, "disk", tmp_path / "cache").path == on_disk(paths, tmp_path).path
    )


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_bad_image_fails_or_is_listed(kind: str, paths: list[Path], tmp_path: Path):
    directory = tmp_path / "cache" if kind == "disk" else None
    paths[2].write_bytes(paths[2].read_bytes()[:900])
    with pytest.raises(DataError, match=r"image 2: .*image 2.jpg"):
        ImageCache(paths, RECIPE, kind, directory)
    assert directory is None or not list(directory.glob("*.pixels"))
    for _ in range(2):  # made, and found
        cache = ImageCache(paths, RECIPE, kind, directory, on_bad="skip")
        assert list(cache.skipped) == [2]
        with pytest.raises(DataError, match=r"image 2.jpg"):
            cache[2]
        assert torch.equal(cache[3], RECIPE.stored(paths[3]))
    with pytest.raises(DataError, match=r"image 2.jpg"):
        ImageCache(paths, RECIPE, kind, directory)


def test_two_processes_at_once_make_one_file(paths: list[Path], tmp_path: Path):
    code = (
        "import sys; from pathlib import Path\n"
        "from common.data import ImageCache, Preprocessing, PreprocessingConfig\n"
        "recipe = Preprocessing(PreprocessingConfig(image_size=[32, 32], mode='RGB'))\n"
        "paths = sorted(Path(sys.argv[1]).glob('*.jpg'))\n"
        "cache = ImageCache(paths, recipe, 'disk', Path(sys.argv[1]) / 'cache')\n"
        "print(cache.path.name, cache.path.stat().st_ino, sum(int(i.sum()) for i in cache))\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert len(said) == 1
    assert said.pop().strip()
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == [
        ".pixels"
    ]


def test_what_a_killed_process_left_is_cleared_away(paths: list[Path], tmp_path: Path):
    path = on_disk(paths, tmp_path).path
    assert path is not None
    path.unlink()
    left = path.with_name(f".tmp-{path.name}-1-00ff")
    left.write_bytes(b"half")
    assert holds(on_disk(paths, tmp_path), paths)
    assert not left.exists()


def test_a_spawned_process_maps_the_file(paths: list[Path], tmp_path: Path):
    cache = on_disk(paths, tmp_path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_total, (cache,)) == _total(cache)


def _total(cache: ImageCache) -> int:
    return sum(int(cache[i].sum()) for i in range(len(cache)))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_room_is_looked_for_before_anything_is_decoded(
    kind: str, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    little = SimpleNamespace(free=1000, available=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: little)
    monkeypatch.setattr("psutil.virtual_memory", lambda: little)
    directory = tmp_path / "cache" if kind == "disk" else None
    with pytest.raises(FaultError, match=r"9 images needs about [\d,]+ bytes; .* 1,000 free"):
        ImageCache(paths, RECIPE, kind, directory)
    assert directory is None or not list(directory.glob("*pixels-*"))


def test_a_place_that_cannot_be_written_is_one_line(paths: list[Path], tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FaultError, match=r"cannot read .*Not a directory"):
        ImageCache(paths, RECIPE, "disk", tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tape"}, "kind is 'tape', expected memory or disk"),
        ({"kind": "disk"}, "needs a directory"),
        ({"kind": "memory", "directory": Path("x")}, "takes no directory"),
        ({"on_bad": "ignore"}, "on_bad is 'ignore'"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str, paths: list[Path]):
    with pytest.raises(ConfigError, match=message):
        ImageCache(paths, RECIPE, **options)


def test_no_image_at_all_is_an_error_and_an_index_too_large_as_well(paths: list[Path]):
    with pytest.raises(DataError, match="no images"):
        ImageCache([], RECIPE)
    with pytest.raises(IndexError):
        ImageCache(paths, RECIPE)[len(paths)]


def test_a_file_larger_than_memory_is_mapped(tmp_path: Path):
    path = tmp_path / "sparse.pixels"
    with open(path, "wb") as file:
        file.truncate(4 * psutil.virtual_memory().total)
    with pytest.raises(DamagedFile, match="it begins with"):  # read, not refused by the system
        load(path, "key")


def test_threads_read_at_once(paths: list[Path], tmp_path: Path):
    cache, good = on_disk(paths, tmp_path), []
    threads = [threading.Thread(target=lambda: good.append(holds(cache, paths))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 3
