"""From photos to index files: the same every time, no leak, everything bad is named."""

import json
import os
import random
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.utils.errors import DataError, InputError
from projects.image_classification.core.folder.split_files import Split, read_split
from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset
from projects.image_classification.core.index_files import read_index
from tests.data.photos import encoded
from tests.projects.image_classification.photos import photo, write_photos


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sides(split: Split) -> list[set[str]]:
    """The test set and each fold's validation set: what must not share anything."""
    return [set(split.test), *(set(validation) for _, validation in split.folds)]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "pets" / "raw", {"cat": 30, "dog": 20, "собаки и 猫": 12})


def test_every_image_is_tested_once_or_validated_once(pets: Path):
    split = split_dataset(pets, SplitOptions(folds=4))
    everything = {f"raw/{path.relative_to(pets).as_posix()}" for path in pets.rglob("*.png")}
    parts = sides(split)
    assert set().union(*parts) == everything
    assert sum(map(len, parts)) == 62
    for fold, (train, validation) in enumerate(split.folds):
        assert set(train) == everything - set(split.test) - set(validation)
        splits = pets.parent / "splits"
        assert read_index(splits / f"fold_{fold}_train.txt") == train == sorted(train)
        assert read_index(splits / f"fold_{fold}_val.txt") == validation
    assert split.class_names == ("cat", "dog", "собаки и 猫")
    assert split.labels(["raw/dog/0001.png", "raw/cat/0001.png"]) == [1, 0]
    assert Counter(split.labels(split.test)) == {0: 3, 1: 2, 2: 1}


def test_the_same_command_writes_the_same_bytes_wherever_and_in_whatever_order(
    pets: Path, tmp_path: Path
):
    options = SplitOptions(folds=3)
    split_dataset(pets, options)
    first = contents(pets.parent / "splits")
    split_dataset(pets, options)
    assert contents(pets.parent / "splits") == first
    files = list(pets.rglob("*.png"))
    random.Random(0).shuffle(files)
    for path in files:  # another place, made in another order, at other times
        copy = tmp_path / "elsewhere" / "raw" / path.relative_to(pets)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    split_dataset(tmp_path / "elsewhere" / "raw", SplitOptions(folds=3, workers=2))
    assert contents(tmp_path / "elsewhere" / "splits") == first
    assert {"report.png", "report.txt", "report.json", "split.json", "classes.json"} <= set(first)


def test_nothing_in_the_raw_folder_is_changed(pets: Path):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in pets.rglob("*.png")}
    split_dataset(pets, SplitOptions())
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in pets.rglob("*.png")} == before


def test_another_seed_is_another_split_and_replaces_the_lists(pets: Path, logged: list[str]):
    first = split_dataset(pets, SplitOptions(folds=5))
    second = split_dataset(pets, SplitOptions(folds=2, seed=1))
    assert set(first.test) != set(second.test)
    lists = {path.name for path in (pets.parent / "splits").glob("fold_*.txt")}
    assert lists == {f"fold_{k}_{side}.txt" for k in range(2) for side in ("train", "val")}
    assert any("folds 5 -> 2, seed 0 -> 1" in line for line in logged)


@pytest.mark.parametrize("seed", range(4))
def test_no_copy_and_no_named_group_crosses_sides(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    raw = tmp_path / "raw"
    patient_of = {}
    for label in ("ill", "well"):
        (raw / label).mkdir(parents=True)
        for number in range(60):
            image = photo(int(rng.integers(0, 80)), 60, 45)  # many are copies
            size = [(60, 45), (30, 22), (120, 90)][rng.integers(0, 3)]
            patient = int(rng.integers(0, 70))
            name = f"{label}/p{patient}_{number}.{['jpg', 'png'][rng.integers(0, 2)]}"
            image.resize(size).save(raw / name)
            patient_of[f"raw/{name}"] = patient
    split = split_dataset(raw, SplitOptions(folds=2, group_by=r"p(\d+)_", seed=seed))
    assert split.report["near_copies"]
    for one, other in combinations(sides(split), 2):
        assert {patient_of[n] for n in one}.isdisjoint(patient_of[n] for n in other)
        pixels = [{(raw.parent / name).read_bytes() for name in side} for side in (one, other)]
        assert pixels[0].isdisjoint(pixels[1])
    copies = {name for group in split.report["near_copies"] for name in group}
    for group in split.report["near_copies"]:
        assert sum(bool(side & set(group)) for side in sides(split)) == 1
    assert len(copies) > 20


def test_copies_with_different_labels_are_reported(pets: Path):
    (pets / "dog" / "copy.png").write_bytes((pets / "cat" / "0003.png").read_bytes())
    photo(1, 80, 60).save(pets / "dog" / "larger.jpg", quality=90)  # cat/0001 in twice the size
    report = split_dataset(pets, SplitOptions()).report
    conflicts = [tuple(sorted(one.items())) for one in report["label_conflicts"]]
    assert (("raw/cat/0003.png", "cat"), ("raw/dog/copy.png", "dog")) in conflicts
    assert (("raw/cat/0001.png", "cat"), ("raw/dog/larger.jpg", "dog")) in conflicts
    assert report["exact_copies"] == [["raw/cat/0003.png", "raw/dog/copy.png"]]
    without = split_dataset(pets, SplitOptions(near_duplicates=False)).report
    assert without["near_copies"] == []
    assert len(without["exact_copies"]) == 1


def test_blank_pages_do_not_become_one_group(tmp_path: Path):
    raw = write_photos(tmp_path / "raw", {"a": 10, "b": 10})
    for number in range(20):  # files that differ, images without structure
        Image.new("RGB", (30, 30 + number), (255, 255, 255)).save(raw / "a" / f"blank{number}.png")
    assert split_dataset(raw, SplitOptions()).report["near_copies"] == []


def test_images_of_every_kind_are_used_and_damaged_ones_are_named(pets: Path):
    cat = pets / "cat"
    (cat / "cmyk.jpg").write_bytes(encoded(photo(900).convert("CMYK"), "JPEG"))
    deep = np.random.default_rng(0).integers(0, 65536, (20, 20), dtype=np.uint16)
    Image.fromarray(deep).save(cat / "sixteen.png")
    photo(901).convert("P").save(cat / "palette.png")
    photo(902).save(cat / "animated.gif", save_all=True, append_images=[photo(903)])
    photo(904).save(cat / "some.webp")
    seen_through = photo(908).convert("RGBA")
    seen_through.putalpha(100)
    seen_through.save(cat / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(905, 100, 20).save(cat / "turned.jpg", exif=exif)
    Image.new("L", (1, 1), 7).save(cat / "pixel.bmp")
    photo(906).save(cat / "wrong ending.jpg", "PNG")
    whole = encoded(photo(907, 400, 300), "JPEG")
    (cat / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (cat / "empty.png").write_bytes(b"")
    (cat / "text.png").write_text("no image")
    os.mkfifo(cat / "pipe.png")
    report = split_dataset(pets, SplitOptions(on_bad="skip")).report
    bad = report["bad"]
    assert {name.split("/")[-1] for name in bad} == {
        "half.jpg",
        "empty.png",
        "text.png",
        "pipe.png",
    }
    assert "Premature end" in bad["raw/cat/half.jpg"]
    assert bad["raw/cat/empty.png"] == "empty file"
    assert "begins with b'no image'" in bad["raw/cat/text.png"]
    assert bad["raw/cat/pipe.png"] == "is no regular file"
    assert report["images"] == {
        **{"found": 75, "good": 71, "bad": 4, "in_copies": 0},
        **{"turned_by_exif": 1, "animated": 1},
    }
    assert {"CMYK", "I;16", "P", "RGBA", "RGB", "L"} <= set(report["modes"])
    assert set(report["formats"]) == {"PNG", "JPEG", "GIF", "WEBP", "BMP"}
    assert report["width"]["min"] == 1
    assert report["height"]["max"] == 100  # the turned one stands upright
    listed = set().union(*sides(read_split(pets.parent)))
    assert listed.isdisjoint(bad)
    with pytest.raises(DataError, match=r"raw/cat/empty.png: empty file; 3 more are bad"):
        split_dataset(pets, SplitOptions(on_bad="fail"))


def test_names_that_no_line_can_hold_survive(pets: Path):
    odd = [
        "new\nline.png",
        " lead.png",
        "back\\slash.png",
        os.fsdecode(b"\xff\xfe.png"),
        "\u2028.png",
    ]
    for number, name in enumerate(odd):
        Image.Image.save(photo(800 + number), os.fsencode(pets / "cat" / name), "PNG")
    split = split_dataset(pets, SplitOptions())
    again = read_split(pets.parent)
    assert again.folds == split.folds
    assert again.test == split.test
    listed = set().union(*sides(again))
    assert {f"raw/cat/{name}" for name in odd} <= listed
    assert all((pets.parent / name).exists() for name in listed)


def test_a_class_without_images_is_in_no_list_and_reported(pets: Path):
    (pets / "empty").mkdir()
    (pets / "damaged").mkdir()
    (pets / "damaged" / "1.png").write_bytes(b"")
    split = split_dataset(pets, SplitOptions())
    assert split.class_names == ("cat", "dog", "собаки и 猫")
    assert split.report["empty_classes"] == ["damaged", "empty"]


def test_one_fold_is_one_pair_of_training_and_validation(pets: Path):
    split = split_dataset(pets, SplitOptions(folds=1, test_share=0.2, val_share=0.25))
    (train, validation), *others = split.folds
    assert not others
    for part, share in ((split.test, 0.2), (validation, 0.2), (train, 0.6)):
        counts = Counter(split.labels(part))
        assert all(abs(counts[k] - share * n) < 1 for k, n in enumerate((30, 20, 12)))


def test_without_a_test_share_the_test_list_is_empty(pets: Path):
    split = split_dataset(pets, SplitOptions(test_share=0.0))
    assert split.test == []
    assert "the test set is empty" in split.report["warnings"]


def test_groups_of_a_table_stay_together(pets: Path, tmp_path: Path):
    names = sorted(path.relative_to(pets).as_posix() for path in pets.rglob("*.png"))
    table = tmp_path / "groups.csv"
    lines = [f"{'raw/' * (i % 2)}{name},g{i % 15}" for i, name in enumerate(names)]
    table.write_text("\ufeffpath,group\r\n" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    split = split_dataset(pets, SplitOptions(folds=3, group_by=str(table)))
    group_of = {f"raw/{name}": i % 15 for i, name in enumerate(names)}
    for one, other in combinations(sides(split), 2):
        assert {group_of[name] for name in one}.isdisjoint(group_of[name] for name in other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,group\ncat/0000.png,a\n", "no group for 61 of the 62 images: raw/cat/0001.png, "),
        ("file,group\n", "no column 'path'"),
        ("path,group\ncat/0000.png,a\ncat/0000.png,b\n", "line 3: 'cat/0000.png' is in the group"),
        ("path,group\ncat/0000.png,\n", "line 2: expected a path and a group"),
        ("", "no column 'path'"),
    ],
)
def test_a_wrong_table_is_refused(pets: Path, tmp_path: Path, text: str, said: str):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        split_dataset(pets, SplitOptions(group_by=str(tmp_path / "groups.csv")))


def test_a_class_smaller_than_the_folds_is_named_with_what_is_possible(pets: Path):
    write_photos(pets, {"owl": 3, "rat": 4}, start=500)
    with pytest.raises(DataError, match=r"'owl' has 3 images \(and 1 more .*at most --folds 3"):
        split_dataset(pets, SplitOptions(folds=5))
    assert split_dataset(pets, SplitOptions(folds=3)).report["warnings"] == [
        "the class 'owl' has no image in test.txt"
    ]


def test_a_class_of_one_group_cannot_be_split(pets: Path):
    with pytest.raises(DataError, match=r"'cat' has 30 images in only 1 group that stay together"):
        split_dataset(pets, SplitOptions(folds=2, group_by="^cat|dog/..|соб.*"))


def test_one_class_is_refused(tmp_path: Path):
    raw = write_photos(tmp_path / "raw", {"only": 8})
    (raw / "empty").mkdir()
    with pytest.raises(DataError, match=r"1 class folders \(only; without any: 'empty'\)"):
        split_dataset(raw, SplitOptions())


@pytest.mark.parametrize(
    "options",
    [
        *({"folds": 0}, {"test_share": 1.0}, {"test_share": -0.1}, {"test_share": float("nan")}),
        *({"val_share": 0.0}, {"seed": -1}, {"hash_distance": 17}, {"workers": -1}),
        *({"on_bad": "ignore"}, {"group_by": "(("}),
    ],
)
def test_options_without_a_meaning_are_refused(pets: Path, options: dict):
    with pytest.raises(InputError, match="--"):
        split_dataset(pets, SplitOptions(**options))


def test_a_place_that_cannot_be_written_is_found_before_the_work(pets: Path):
    (pets.parent / "splits").write_text("a file is in the way")
    (pets / "cat" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write the splits"):
        split_dataset(pets, SplitOptions(on_bad="fail"))  # or it would name the bad image


def test_nothing_is_written_through_a_link(pets: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (pets.parent / "splits").symlink_to(elsewhere)
    with pytest.raises(DataError, match="is a link"):
        split_dataset(pets, SplitOptions())
    (pets.parent / "splits").unlink()
    (pets.parent / "splits").mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (pets.parent / "splits" / "test.txt").symlink_to(elsewhere / "mine.txt")
    split_dataset(pets, SplitOptions())
    assert (elsewhere / "mine.txt").read_text() == "mine"


def test_a_large_set_of_look_alikes_is_warned_of(pets: Path):
    for number in range(25):
        photo(0, 60 + number, 45).save(pets / "dog" / f"again {number}.png")
    (warning,) = split_dataset(pets, SplitOptions(folds=3)).report["warnings"]
    assert warning.startswith("26 images look alike and stay together, one of them raw/cat/0000")


def test_a_changed_or_unfinished_split_is_not_read(pets: Path):
    with pytest.raises(DataError, match="split the data set first"):
        read_split(pets.parent)
    split_dataset(pets, SplitOptions(folds=2))
    read_split(pets.parent)
    listed = pets.parent / "splits" / "fold_1_val.txt"
    listed.write_text(listed.read_text().split("\n", 1)[1])
    with pytest.raises(DataError, match=r"fold_1_val.txt is not as ml-split wrote it"):
        read_split(pets.parent)


def test_two_hundred_classes_of_few_images(tmp_path: Path):
    raw = write_photos(tmp_path / "raw", {f"class {number:03d}": 4 for number in range(200)})
    split = split_dataset(raw, SplitOptions(folds=2))
    for train, validation in split.folds:
        assert len(set(split.labels(train))) == len(set(split.labels(validation))) == 200
    assert len(set(split.labels(split.test))) == 200
    text = (tmp_path / "splits" / "report.txt").read_text()
    assert all(name in text for name in split.class_names)
    assert Image.open(tmp_path / "splits" / "report.png").size[0] > 1000
    assert json.loads((tmp_path / "splits" / "report.json").read_text())["sets"]["test"] == 200
