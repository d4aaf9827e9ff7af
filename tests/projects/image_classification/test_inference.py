"""``ml-inference`` as it is typed: a run's test set, any images, and what can be wrong with both."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.data.image_places import find_places
from common.metrics.predictions import read_predictions as read_csv
from projects.image_classification.cli.inference import main
from projects.image_classification.core.classifier import load_classifier
from projects.image_classification.core.inference.prediction import dataset_of, predict_dataset
from projects.image_classification.core.predictions import read_predictions
from tests.projects.image_classification.finished_runs import CLASSES, draw_fruit


def _run(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def _copy(project: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one's own, to break."""
    shutil.copytree(project / "data", target / "data")
    shutil.copytree(project / "runs" / "fruit_fold_0", target / "runs" / "fruit_fold_0")
    monkeypatch.chdir(target)
    return target


# ---- the test set ---------------------------------------------------------------------------


def test_the_test_set_gives_to_the_last_bit_what_training_recorded(best: Path) -> None:
    classifier = load_classifier(best)
    made = predict_dataset(classifier, dataset_of(classifier))
    recorded = read_predictions(Path("runs/fruit_fold_0/evaluation/test.pt"))
    assert made.ids == recorded.ids
    assert torch.equal(made.logits, recorded.logits)
    assert torch.equal(made.labels, recorded.labels)


def test_the_command_says_so_and_writes_the_report(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "report"
    assert _run("--checkpoint_path", best, "--output", place, "--no-plots") == 0
    assert "the same logits as training recorded, to the last bit" in capsys.readouterr().out
    ours = (place / "report.json").read_bytes()
    assert ours == Path("runs/fruit_fold_0/evaluation/test/report.json").read_bytes()
    assert (place / "predictions.csv").is_file()


def test_by_default_the_report_lies_in_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _copy(project, tmp_path, monkeypatch)
    assert _run("--checkpoint_path", "runs/fruit_fold_0", "--no-plots") == 0
    (place,) = (root / "runs" / "fruit_fold_0").glob("inference_*")
    assert (place / "report.txt").is_file()


def test_the_data_set_is_found_from_another_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = project / "runs" / "fruit_fold_0" / "weights" / "best.pt"
    assert _run("--checkpoint_path", checkpoint, "--output", tmp_path / "r", "--no-plots") == 0


def test_another_list_of_images_can_be_measured(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.txt"
    few.write_text("raw/citron/3.png\nraw/kirsch/4.png\n", encoding="utf-8")
    words = ("--index_file", few, "--output", tmp_path / "r", "--no-plots")
    assert _run("--checkpoint_path", best, *words) == 0
    assert read_csv(tmp_path / "r" / "predictions.csv").ids == (
        "raw/citron/3.png",
        "raw/kirsch/4.png",
    )


def test_a_moved_data_set_is_asked_for_and_taken(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = _copy(project, tmp_path, monkeypatch)
    (root / "data").rename(root / "elsewhere")
    checkpoint = "runs/fruit_fold_0/weights/best.pt"
    assert _run("--checkpoint_path", checkpoint) == 2
    error = capsys.readouterr().err
    assert "data/fruit is not there" in error
    assert "--data_dir" in error
    words = ("--data_dir", "elsewhere/fruit", "--no-plots")
    assert _run("--checkpoint_path", checkpoint, *words) == 0
    assert "to the last bit" in capsys.readouterr().out


def test_a_moved_raw_folder_is_named(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = _copy(project, tmp_path, monkeypatch)
    (root / "data" / "fruit" / "raw").rename(root / "raw")
    assert _run("--checkpoint_path", "runs/fruit_fold_0") == 2
    error = capsys.readouterr().err
    assert "data/fruit/raw with the images" in error
    assert "--data_dir" in error


def test_a_data_set_of_other_classes_is_refused_with_the_differences(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = _copy(project, tmp_path, monkeypatch)
    classes = root / "data" / "fruit" / "splits" / "classes.json"
    text = classes.read_text(encoding="utf-8")
    classes.write_text(text.replace("citron", "lemon"), encoding="utf-8")
    assert _run("--checkpoint_path", "runs/fruit_fold_0") == 2
    error = capsys.readouterr().err
    assert "'lemon' only in the data set" in error
    assert "'citron' only in the checkpoint" in error


def test_a_data_set_that_orders_its_classes_otherwise_keeps_the_checkpoints_order(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _copy(project, tmp_path, monkeypatch)
    classes = root / "data" / "fruit" / "splits" / "classes.json"
    text = classes.read_text(encoding="utf-8")
    swapped = text.replace("citron", "?").replace("kirsch", "citron").replace("?", "kirsch")
    classes.write_text(swapped, encoding="utf-8")
    classifier = load_classifier("runs/fruit_fold_0")
    made = predict_dataset(classifier, dataset_of(classifier))
    recorded = read_predictions(root / "runs/fruit_fold_0/evaluation/test.pt")
    assert torch.equal(made.labels, recorded.labels)


def test_a_damaged_test_image_is_named_or_skipped_with_a_word(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = _copy(project, tmp_path, monkeypatch)
    listed = (root / "data/fruit/splits/test.txt").read_text(encoding="utf-8").splitlines()
    (root / "data" / "fruit" / listed[3]).write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ("--checkpoint_path", "runs/fruit_fold_0", "--no-plots")
    assert _run(*words) == 2
    assert listed[3] in capsys.readouterr().err
    assert _run(*words, "--on-bad", "skip") == 0
    said = capsys.readouterr()
    assert listed[3] in said.err
    assert "to the last bit" not in said.out


def test_a_damaged_record_of_the_training_does_not_stand_in_the_way(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = _copy(project, tmp_path, monkeypatch)
    for name in ("test.pt", "val.pt"):
        (root / "runs/fruit_fold_0/evaluation" / name).write_bytes(b"damaged")
    assert _run("--checkpoint_path", "runs/fruit_fold_0", "--no-plots") == 0
    assert "is not compared" in capsys.readouterr().err


# ---- any images -----------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images under names that break careless programs, and files that are no images."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    names = ["a.png", "b, c.png", 'quote".png', "line\nend.png", "[1].png", "deep/er/ü.JPG"]
    for number, name in enumerate(names):
        draw_fruit(number % 3, number, (30, 40)).save(folder / name)
    raw = os.fsencode(folder) + b"/byte\xff.png"
    with open(raw, "wb") as file:
        draw_fruit(0, 50).save(file, "PNG")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


def test_images_of_a_folder_are_classified_whatever_their_names(
    best: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "out.csv"
    assert _run("--checkpoint_path", best, "--images", photos, "--output", table) == 0
    found = read_csv(table)
    expected = {str(p) for p in photos.rglob("*") if p.suffix.lower() in (".png", ".jpg")}
    assert set(found.ids) == expected - {str(photos / ".hidden.png")}
    assert all(os.path.exists(name) for name in found.ids)
    assert found.class_names == CLASSES
    direct = load_classifier(best).predict([Path(name) for name in found.ids])
    assert torch.allclose(found.probabilities, direct.double(), atol=1e-5)
    assert "7 images classified, 0 unreadable, 1 files are no images" in capsys.readouterr().out


def test_files_and_patterns_are_taken_and_none_twice(
    best: Path, photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "out.csv"
    places = (photos / "[1].png", photos / "*.png", photos / "a.png")
    assert _run("--checkpoint_path", best, "--images", *places, "--output", table) == 0
    ids = read_csv(table).ids
    assert ids[0] == str(photos / "[1].png")
    assert len(ids) == len(set(ids)) == 6


@pytest.mark.parametrize("place", ["", "**", "**/*.png", "**/*/*.png"])
def test_loops_of_links_multiply_no_images_and_links_out_are_followed(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "photos" / "cat" / "inner"
    inner.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (inner, elsewhere):
        (folder / "a.png").touch()
    (inner / "loop").symlink_to("..")
    (inner / "second loop").symlink_to(tmp_path)
    (inner.parent / "other").symlink_to(inner)
    (tmp_path / "photos" / "dog").symlink_to(elsewhere)
    monkeypatch.chdir(tmp_path)
    files = find_places([os.path.join("photos", place)]).files
    assert [str(file) for file in files] == ["photos/cat/inner/a.png", "photos/dog/a.png"]


def test_columns_of_the_likeliest_classes_are_in_order(
    best: Path, photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "out.csv"
    words = ("--images", photos / "a.png", "--output", table, "--top_k", 2)
    assert _run("--checkpoint_path", best, *words) == 0
    (row,) = csv.DictReader(table.open(encoding="utf-8"))
    p = load_classifier(best).predict([photos / "a.png"])[0]
    assert [row["predicted"], row["class_2"]] == [CLASSES[i] for i in p.topk(2).indices.tolist()]
    assert float(row["probability_2"]) == pytest.approx(p.topk(2).values[1].item(), rel=1e-5)


def test_an_unreadable_image_is_left_out_listed_and_counted(
    best: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "a.png").read_bytes()
    (photos / "half.png").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").touch()
    table = tmp_path / "out.csv"
    words = ("--checkpoint_path", best, "--images", photos, "--output", table)
    assert _run(*words) == 0
    said = capsys.readouterr()
    assert "7 images classified, 2 unreadable" in said.out
    assert "half.png" in said.err
    assert "empty.png" in said.err
    with (tmp_path / "out.unreadable.csv").open(encoding="utf-8") as file:
        listed = {Path(row["file"]).name for row in csv.DictReader(file)}
    assert listed == {"half.png", "empty.png"}
    table.unlink()
    assert _run(*words, "--on-bad", "fail") == 2
    assert "2 of 9 images cannot be read; nothing was written" in capsys.readouterr().err
    assert not table.exists()


def test_accuracy_is_said_only_of_folders_that_are_declared_to_be_classes(
    best: Path, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = project / "data" / "fruit" / "raw"
    words = ("--checkpoint_path", best, "--images", raw, "--output", tmp_path / "out.csv")
    assert _run(*words) == 0
    assert "balanced" not in capsys.readouterr().out.lower()
    assert set(read_csv(tmp_path / "out.csv").labels.tolist()) == {-1}
    assert _run(*words, "--labelled") == 0
    assert "balanced" in capsys.readouterr().out.lower()
    found = read_csv(tmp_path / "out.csv")
    assert [CLASSES[label] for label in found.labels] == [Path(f).parent.name for f in found.ids]


def test_folders_that_are_no_classes_are_refused_before_the_work(
    best: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("--checkpoint_path", best, "--images", photos, "--labelled") == 2
    assert "named as a class (found 'deep')" in capsys.readouterr().err


def test_mirrored_images_are_averaged_as_probabilities(best: Path) -> None:
    classifier = load_classifier(best)
    pixels = torch.stack([classifier.preprocessing(draw_fruit(k % 3, k)) for k in range(5)])
    both = [classifier.logits(each).double().softmax(1) for each in (pixels, pixels.flip(-1))]
    logits = classifier.logits(pixels, flips=True)
    assert torch.allclose(logits.double().softmax(1), (both[0] + both[1]) / 2, atol=1e-6)


def test_a_camera_that_was_held_upright_changes_nothing(best: Path, tmp_path: Path) -> None:
    image = draw_fruit(2, 0, (40, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    image.save(tmp_path / "plain.png")
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    p = load_classifier(best).predict([tmp_path / "plain.png", tmp_path / "turned.png"])
    assert torch.equal(p[0], p[1])


# ---- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--checkpoint_path is missing"),
        (("--checkpoint_path", "runs/fruit_fold_0", "--imagse", "x"), "did you mean --images?"),
        (("--checkpoint_path", "runs/fruit_fold_0", "--images", "nowhere"), "nothing at 'nowhere'"),
        (
            ("--checkpoint_path", "runs/fruit_fold_0", "--images", "*.xyz"),
            "no file matches '*.xyz'",
        ),
        (("--checkpoint_path", "runs/fruit_fold_0", "--images", "config.yaml"), "none of 1 images"),
        (("--checkpoint_path", "runs/fruit_fold_0", "--top_k", "0"), "--top_k is 0"),
        (("--checkpoint_path", "runs/fruit_fold_0", "--labelled"), "--labelled needs --images"),
        (("--checkpoint_path", "runs/fruit_fold_0", "training.lr=1"), "takes no key=value words"),
        (
            ("--checkpoint_path", "runs/fruit_fold_9/weights/best.pt"),
            "no checkpoint at runs/fruit_fold_9/weights/best.pt; did you mean 'runs/fruit_fold_",
        ),
        (("--checkpoint_path", "runs/fruit_fold_9"), "no checkpoint at runs/fruit_fold_9"),
        (("--checkpoint_path", "runs/fruit_fold_0", "--index_file", "no.txt"), "no list of images"),
        (("--checkpoint_path", "runs/fruit_fold_0", "--data_dir", "runs"), "no data set's folder"),
        (("--checkpoint_path", "runs/fruit_fold_0", "--device", "tpu9"), "device"),
        (
            ("--checkpoint_path", "runs/fruit_fold_0", "--output", "config.yaml/x"),
            "cannot be written",
        ),
    ],
)
def test_a_mistake_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert _run(*words) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


@pytest.mark.parametrize("command", ["inference", "export"])
def test_help_needs_no_pytorch(command: str) -> None:
    code = (
        f"import sys; from projects.image_classification.cli import {command} as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'timm', 'hydra', 'matplotlib', 'numpy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
