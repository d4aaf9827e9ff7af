"""Sheets of samples and predictions hold the right images, in the right order, with true words."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from projects.image_classification.cli.init_config import main as init_config
from projects.image_classification.cli.train import main as train
from projects.image_classification.cli.visualise import main
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.datasets import data_splits, get_datasets
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset
from projects.image_classification.core.sample_sheets import (
    in_turn,
    prediction_sheet,
    ranked,
    sample_sheet,
)
from tests.projects.image_classification.photos import write_coloured

CONFIG = "configs/pets_config.yaml"
TINY = ["model.type=custom", "model.custom_architecture=tiny_net", "training.num_epochs=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three classes, split, with its configuration."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        counts = {"cat": 24, "日本語の花": 12, "$x": 8}
        data = write_coloured(Path("data/pets"), counts, (16, 12))
        split_dataset(data / "raw", SplitOptions(folds=2, test_share=0.25, near_duplicates=False))
        init_config(["data/pets"])
    return home


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        train(["--config", CONFIG, *TINY, "data.cache=none", "evaluation.plots=false"])
        (run,) = home.glob("runs/*/summary.json")
    return run.parent.relative_to(home)


def test_every_class_comes_before_a_second_image_of_any() -> None:
    labels = [0] * 50 + [1] * 3 + [2]
    picked = in_turn(labels, 6, seed=0)
    assert [labels[position] for position in picked] == [0, 0, 0, 1, 1, 2] or [
        labels[position] for position in picked
    ] == [0, 0, 1, 1, 1, 2]
    assert len(set(picked)) == 6
    assert in_turn(labels, 6, seed=0) == picked != in_turn(labels, 6, seed=1)
    assert sorted(in_turn(labels, 1000, seed=0)) == list(range(54))
    assert {labels[p] for p in in_turn(labels, 3, seed=5)} == {0, 1, 2}


def test_predictions_are_ranked_as_asked() -> None:
    probabilities = torch.tensor(
        [[0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [0.2, 0.1, 0.7], [0.05, 0.9, 0.05], [0.5, 0.5, 0.0]]
    )
    labels = torch.tensor([0, 2, 0, 2, 1])
    assert ranked(probabilities, labels, "mistakes") == [3, 2, 1, 4]
    assert ranked(probabilities, labels, "uncertain")[:2] == [4, 1]
    assert ranked(probabilities, labels, "confident")[-2:] == [4, 1]
    assert sorted(ranked(probabilities, labels, "random", seed=3)) == list(range(5))


def test_a_sheet_shows_what_the_network_sees_with_the_classes_sizes() -> None:
    config, context = load_config(CONFIG)
    sheet = sample_sheet(config, context, "val", count=9)
    listed = Path("data/pets/splits/fold_0_val.txt").read_text().splitlines()
    counts = {
        name: sum(f"/{name}/" in line for line in listed) for name in ("$x", "cat", "日本語の花")
    }
    assert sheet.counts == counts
    assert len(sheet.images) == 9
    share = counts["$x"] / len(listed)
    assert sheet.captions[0] == ("$x", f"{counts['$x']} images, {share:.1%}")
    files = [Image.open(Path("data/pets") / line) for line in listed]
    originals = {file.convert("RGB").tobytes() for file in files}
    for image in sheet.images:
        assert image.permute(1, 2, 0).numpy().tobytes() in originals


def test_augmented_images_are_those_of_the_training() -> None:
    words = ["augmentation.rotation=40", "augmentation.random_crop=true", "seed=3"]
    config, context = load_config(CONFIG, [*words, "training.batch_size=64"])
    sheet = sample_sheet(config, context, "train", count=4, augmented=True)
    assert [caption[0] for caption in sheet.captions[1:6]] == [f"epoch {e}" for e in range(5)]
    config, context = load_config(CONFIG, [*words, "training.batch_size=64"])
    resolve_facts(config, context, 0)
    loader = data_splits(config, get_datasets(config, 0)).train
    for epoch in range(2):
        (batch,) = loader.batches(epoch)
        for row in range(4):
            shown = sheet.images[6 * row + 1 + epoch]
            assert any(torch.equal(shown, image) for image in batch["image"])
            assert not torch.equal(shown, sheet.images[6 * row])


@pytest.mark.parametrize("words", [[], ["--augmented", "augmentation.rotation=20"]])
def test_samples_are_drawn_and_counted(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    main(["--mode", "samples", "--config", CONFIG, "--output", str(out), *words])
    output = capsys.readouterr().out
    assert "日本語の花" in output
    assert f"wrote {out}" in output
    with Image.open(out) as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("L").getcolors(256) or []) > 20  # not blank


def test_a_network_is_shown_with_its_mistakes_and_successes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run / "weights" / "best.pt"
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    sheets = {
        which: prediction_sheet(checkpoint, "test", which, 100)
        for which in ("mistakes", "confident", "uncertain", "random")
    }
    wrong = sheets["mistakes"].counts["wrong"]
    total = len(sheets["random"].images)
    assert 1 - wrong / total == pytest.approx(metrics["test/accuracy"])
    assert len(sheets["mistakes"].images) == wrong
    assert all(caption[1].startswith("taken for ") for caption in sheets["mistakes"].captions)
    reds = sum(colour == "#D55E00" for colour in sheets["confident"].colours)
    assert reds == wrong
    out = tmp_path / "sheet.png"
    main(
        ["--mode", "predictions", "--checkpoint_path", str(checkpoint)]
        + ["--which", "random", "--output", str(out)]
    )
    assert f"accuracy {metrics['test/accuracy']:.1%}" in capsys.readouterr().out
    assert out.stat().st_size > 5_000


def test_a_data_set_that_moved_is_found_where_it_is_said_to_be(
    run: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = home / run / "weights" / "best.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        words = ["--mode", "predictions", "--checkpoint_path", str(checkpoint), "--which", "random"]
        with pytest.raises(SystemExit) as ended:
            main([*words, "--output", "sheet.png"])
        assert ended.value.code == 2
        assert "data/pets" in capsys.readouterr().err
        main([*words, "--output", "sheet.png", "--data_dir", str(home / "data" / "pets")])
        assert (tmp_path / "sheet.png").is_file()


def test_a_search_is_drawn_as_pages_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(study_name="pets", storage="sqlite:///optuna_studies.db")
    for lr in (1e-3, 1e-2, 1e-1):
        trial = optuna.trial.create_trial(
            params={"optimizer.lr": lr},
            distributions={"optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1.0)},
            value=lr,
        )
        study.add_trial(trial)
    words = ["--mode", "search", "--study-name", "pets", "--output", "pages"]
    main([*words, "--plot-type", "slice", "--params", "lr"])
    assert "slice.html" in capsys.readouterr().out
    assert b"cdn.plot.ly" not in (tmp_path / "pages" / "slice.html").read_bytes()[:10_000]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--params", "lrr"])
    assert ended.value.code == 2
    assert "did you mean 'lr'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["samples"], "--config is missing"),
        (["samples", "--config", "nowhere.yaml"], "no configuration at nowhere.yaml"),
        (["samples", "--config", CONFIG, "--fold", "7"], "data.fold is 7; the folds"),
        (["samples", "--config", CONFIG, "--count", "0"], "--count is 0, expected 1 to 1000"),
        (["samples", "--config", CONFIG, "--output", "sheet.txt"], "is no name of a picture"),
        (["samples", "--config", CONFIG, "data.sed=3"], "data.sed is not a key"),
        (["samples", "--config", CONFIG, "data.data_dir=away"], "away"),
        (["predictions", "--checkpoint_path", "nowhere.pt"], "no checkpoint at nowhere.pt"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--mode", *words])
    assert ended.value.code in (1, 2)
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
