"""``ml-train``: what a run leaves, that it is exact, and what it says of mistakes."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.testing.equality import differences, metric_records
from common.testing.trials import TrialServer
from common.training import Callback, Trainer
from common.utils.checkpoint import load_checkpoint
from common.utils.paths import get_project_root
from projects.image_classification.core.index_files import read_index
from tests.projects.image_classification.small_photos import CLASSES, write_photos

PROGRAMS = "tests.projects.image_classification.programs"
TRAIN = f"{PROGRAMS}:ml_train"
ALL_RANDOM = (  # everything that draws a random number
    "augmentation.random_crop=true",
    "augmentation.horizontal_flip=0.5",
    "augmentation.trivial_augment=true",
    "augmentation.mixup_alpha=0.4",
    "augmentation.mix_probability=0.5",
    "model.dropout=0.2",
    "training.ema_decay=0.99",
    "training.gradient_accumulation_steps=2",
    "data.sampling=balanced",
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path)
    return tmp_path


def _train(trials: TrialServer, folder: Path, *words: str, expect: int = 0) -> str:
    config = () if "--resume" in words else ("--config", "config.yaml")
    return trials.run(TRAIN, directory=str(folder), words=[*config, *words], expect=expect)


def _same_weights(one: Path, other: Path) -> list[str]:
    states = [load_checkpoint(run / "weights" / "last.pt")["model"] for run in (one, other)]
    return differences(states[0], states[1], "last.pt")


def test_a_run_leaves_what_its_documentation_names(trials: TrialServer, photos: Path) -> None:
    config = photos / "config.yaml"
    config.write_text(config.read_text().replace("plots: false", "plots: true"))
    said = _train(
        trials, photos, "--batch_size", "6", "--lr", "0.01", "training.loggers=[tensorboard]"
    )

    run = photos / "runs" / "small_batch_6_lr_0.01_loggers_-tensorboard_fold_0"
    assert f"record: {run.relative_to(photos)}" in said
    for name in (
        *("weights/best.pt", "weights/last.pt", "logs/train.log", "config.yaml", "run.json"),
        *("summary.json", "MODEL_CARD.md", "model.safetensors", "metrics.jsonl", "history.json"),
        *("evaluation/test/report.txt", "evaluation/test/predictions.csv"),
        *("evaluation/test/plots/confusion_matrix.png", "evaluation/val/report.json"),
    ):
        assert (run / name).is_file(), name
    assert list((run / "tensorboard").iterdir())
    summary = json.loads((run / "summary.json").read_text())
    assert summary["dataset"] == "small"
    assert 0.0 <= summary["metrics"]["test/accuracy"] <= 1.0
    config = (run / "config.yaml").read_text()
    assert "batch_size: 6  # USER" in config
    assert "num_classes: 3  # DATA" in config


def test_the_best_checkpoint_alone_says_classes_recipe_and_temperature(
    trials: TrialServer, photos: Path
) -> None:
    _train(trials, photos)

    state = load_checkpoint(photos / "runs" / "small_fold_0" / "weights" / "best.pt")
    for words in ("class_names", *CLASSES, "image_size", "mean"):
        assert words in state["config"]
    summary = json.loads((photos / "runs" / "small_fold_0" / "summary.json").read_text())
    assert state["calibration"]["temperature"] == summary["temperature"]


def test_no_run_is_overwritten(trials: TrialServer, photos: Path) -> None:
    _train(trials, photos, "--num_epochs", "1")
    first = (photos / "runs" / "small_epochs_1_fold_0" / "weights" / "best.pt").read_bytes()
    _train(trials, photos, "--num_epochs", "1")

    assert (photos / "runs" / "small_epochs_1_fold_0-2").is_dir()
    kept = (photos / "runs" / "small_epochs_1_fold_0" / "weights" / "best.pt").read_bytes()
    assert kept == first


def test_the_same_command_twice_gives_the_same_weights(trials: TrialServer, photos: Path) -> None:
    for _ in range(2):
        _train(trials, photos, *ALL_RANDOM, "training.num_epochs=2")

    one, other = sorted((photos / "runs").iterdir())
    assert _same_weights(one, other) == []
    assert metric_records(one) == metric_records(other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_as_the_one_that_was_not(
    trials: TrialServer, photos: Path, workers: int
) -> None:
    words = [*ALL_RANDOM, "training.num_epochs=4"]
    _train(trials, photos, *words)
    whole = next((photos / "runs").iterdir())
    words = [*words, f"data.num_workers={workers}"]
    killed = trials.start(f"{PROGRAMS}:killed", directory=str(photos), words=words, kill_at=4)
    assert killed.wait() == -signal.SIGKILL
    open_run = next(run for run in (photos / "runs").iterdir() if run != whole)

    _train(trials, photos, "--resume", str(open_run / "weights" / "last.pt"))

    assert _same_weights(whole, open_run) == []
    assert metric_records(whole) == metric_records(open_run)
    tested = [run / "evaluation" / "test" / "predictions.csv" for run in (whole, open_run)]
    assert tested[0].read_bytes() == tested[1].read_bytes()


def test_a_cache_and_workers_change_no_pixel(trials: TrialServer, photos: Path) -> None:
    for words in ((), ("data.cache=memory",), ("data.cache=disk", "data.num_workers=2")):
        _train(trials, photos, "augmentation.horizontal_flip=0.5", *words)

    first, *others = sorted((photos / "runs").iterdir())
    for other in others:
        assert _same_weights(first, other) == []


def test_all_folds_give_out_of_fold_predictions_and_an_ensemble(
    trials: TrialServer, photos: Path
) -> None:
    said = _train(trials, photos, "--fold", "all")

    home = photos / "runs" / "small_fold_all"
    assert "ensemble of the folds" in said
    summary = json.loads((home / "summary.json").read_text())
    assert list(summary["folds"]) == ["0", "1", "2"]
    with open(home / "out_of_fold.csv", newline="") as file:
        judged = {row["file"] for row in csv.DictReader(file)}
    splits = photos / "data" / "small" / "splits"
    held_out = {name for k in range(3) for name in read_index(splits / f"fold_{k}_val.txt")}
    assert judged == held_out
    assert 0.0 <= summary["test"]["ensemble"]["accuracy"] <= 1.0


def test_the_interval_of_a_grouped_split_is_over_its_groups(
    tmp_path: Path, logged: list[str]
) -> None:
    from projects.image_classification.core.cross_validation import groups_of

    names = ["raw/dark/p1_a.png", "raw/dark/p1_b.png", "raw/light/p2_a.png"]
    assert groups_of(tmp_path, names) is None
    (tmp_path / "splits").mkdir()
    split = tmp_path / "splits" / "split.json"
    split.write_text(json.dumps({"options": {"group_by": r"(p\d)_"}}))
    assert groups_of(tmp_path, names) == ["p1", "p1", "p2"]
    split.write_text(json.dumps({"options": {"group_by": "patients.csv"}}))  # gone since
    assert groups_of(tmp_path, names) is None
    assert any("takes images as independent" in line for line in logged)


def test_a_killed_cross_validation_keeps_the_folds_that_are_done(
    trials: TrialServer, photos: Path
) -> None:
    _train(trials, photos, "--fold", "all")
    home = photos / "runs" / "small_fold_all"
    before = json.loads((home / "summary.json").read_text())
    done = photos / "runs" / "small_fold_0" / "weights" / "best.pt"
    stamp = done.stat().st_mtime_ns
    for number in (1, 2):  # as if it had been killed between two checkpoints of fold 1
        (photos / "runs" / f"small_fold_{number}" / "summary.json").unlink()
    (home / "summary.json").unlink()

    _train(trials, photos, "--resume", str(home))

    assert done.stat().st_mtime_ns == stamp
    after = json.loads((home / "summary.json").read_text())
    assert after["out_of_fold"]["pooled"] == before["out_of_fold"]["pooled"]


def test_labels_follow_the_names_in_the_configuration(trials: TrialServer, photos: Path) -> None:
    order = list(reversed(CLASSES))
    _train(trials, photos, f"data.class_names=[{','.join(order)}]")

    path = photos / "runs"
    run = next(path.iterdir())
    saved = load_checkpoint(run / "evaluation" / "test.pt")
    names = [order[label] for label in saved["labels"].tolist()]
    assert names == [name.split("/")[1] for name in saved["ids"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fold", "7"], "data.fold is 7; the folds in data/small/splits: 0, 1, 2"),
        (["--batchsize", "7"], "did you mean --batch_size?"),
        (["optimizer.lrr=1"], "did you mean 'optimizer.lr'?"),
        (["data.class_names=[dark,light,other]"], "'middle' only in splits/classes.json"),
        (["data.num_classes=4"], "data.num_classes is 4"),
        (["data.data_dir=data/missing"], "ml-split --raw_data data/missing/raw"),
        (["model.custom_architecture=simple_cn"], "did you mean 'simple_cnn'?"),
        (["scheduler.warmup_epochs=9"], "warm up for less than the whole run"),
        (["--trainer_type", "dp"], "exactly one of noise_multiplier"),
        (
            [
                "--trainer_type",
                "dp",
                "training.dp.noise_multiplier=1",
                "training.dp.target_epsilon=3",
            ],
            "both are set",
        ),
        (
            [
                "--trainer_type",
                "dp",
                "training.dp.noise_multiplier=1",
                "augmentation.mixup_alpha=1",
            ],
            "augmentation.mixup_alpha is 1, but with trainer_type dp",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    trials: TrialServer, photos: Path, words: list[str], said: str
) -> None:
    answer = _train(trials, photos, *words, expect=2)

    assert said in answer
    assert "Traceback" not in answer
    assert not list((photos / "runs").glob("*"))


def test_a_moved_raw_folder_is_named(trials: TrialServer, photos: Path) -> None:
    data = photos / "data" / "small"
    (data / "raw").rename(data / "elsewhere")

    answer = _train(trials, photos, expect=2)

    assert "data/small/raw is not there" in answer


def test_a_bad_image_fails_or_is_skipped_and_counted(trials: TrialServer, photos: Path) -> None:
    broken = photos / "data" / "small" / "raw" / "dark" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])

    answer = _train(trials, photos, "data.on_bad=fail", expect=2)
    assert "raw/dark/1.png" in answer
    answer = _train(trials, photos, "data.on_bad=skip")
    assert "skipped 1 of" in answer


def test_a_private_run_records_what_it_spent(trials: TrialServer, photos: Path) -> None:
    pytest.importorskip("opacus")
    _train(
        trials,
        photos,
        *("--trainer_type", "dp", "training.dp.noise_multiplier=1.0", "model.norm=group"),
        *("optimizer.name=sgd", "optimizer.lr=0.1"),
    )

    card = next((photos / "runs").glob("*/MODEL_CARD.md")).read_text()
    assert "differential privacy (DP-SGD)" in card
    assert "epsilon" in card


def test_a_network_that_never_saw_a_class_still_trains(trials: TrialServer, photos: Path) -> None:
    splits = photos / "data" / "small" / "splits"
    kept = [n for n in read_index(splits / "fold_0_train.txt") if "/dark/" not in n]
    (splits / "fold_0_train.txt").write_text("\n".join(kept) + "\n")
    (splits / "classes.json").write_text(json.dumps({"class_names": list(CLASSES)}))

    answer = _train(trials, photos, "loss.class_weights=balanced")

    assert "record:" in answer


def test_the_engine_takes_parts_of_ones_own(tmp_path: Path) -> None:
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from projects.image_classification.core.config import Config
    from projects.image_classification.core.trainers import get_trainer

    torch.manual_seed(0)
    images = torch.randn(60, 3, 4, 4)
    labels = (images.mean((1, 2, 3)) > 0).long()
    loader = DataLoader(TensorDataset(images, labels), batch_size=10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    config = Config()
    config.training.num_epochs, config.training.loggers = 5, []

    trainer = get_trainer(
        config,
        model,
        {"train": loader, "val": loader, "test": loader},
        nn.CrossEntropyLoss(),
        optimizer,
        scheduler,
        "cpu",
        tmp_path / "run",
        num_classes=2,
    )
    trainer.train()

    assert trainer.evaluate("test")["test/accuracy"] > 0.9
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()
    rates = [record["lr"] for record in metric_records(tmp_path / "run") if "lr" in record]
    assert rates[-1] == pytest.approx(0.5 * 0.1**2)


def test_a_scheduler_gives_each_group_its_own_rates(tmp_path: Path) -> None:
    from torch import nn
    from torch.optim.lr_scheduler import CosineAnnealingLR

    from projects.image_classification.core.config import Config
    from projects.image_classification.core.trainers import get_trainer

    def parts() -> tuple[nn.Module, torch.optim.Optimizer, CosineAnnealingLR]:
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
        groups = [{"params": model[1].parameters(), "lr": 0.5}, {"params": model[2].parameters()}]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        return model, optimizer, CosineAnnealingLR(optimizer, 4, eta_min=0.04)

    _, optimizer, scheduler = parts()
    expected = []
    for _ in range(4):
        expected.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    model, optimizer, scheduler = parts()
    seen = []

    class Watch(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            seen.append([group["lr"] for group in trainer.optimizer.param_groups])

    config = Config()
    config.training.num_epochs, config.training.loggers = 4, []
    batch = {"image": torch.randn(6, 3, 2, 2), "label": torch.arange(6) % 2}
    trainer = get_trainer(
        *(config, model, {"train": [batch]}, nn.CrossEntropyLoss(), optimizer, scheduler, "cpu"),
        *(tmp_path / "run", 2),
    )
    trainer.callbacks.append(Watch())
    trainer.train()

    assert len(seen) == len(expected)
    for found, wanted in zip(seen, expected, strict=True):
        assert found == pytest.approx(wanted)


@pytest.mark.slow  # three processes import everything
def test_the_documented_line_of_accelerate_trains_in_two_processes(photos: Path) -> None:
    pytest.importorskip("accelerate")
    bin_folder = Path(sys.executable).parent
    if not (bin_folder / "ml-train").exists():
        pytest.skip("the project is not installed, so there is no command ml-train")
    line = (
        "accelerate launch --no_python --multi_gpu --num_processes 2 "
        "ml-train --config config.yaml --trainer_type accelerate"
    )
    assert line.rpartition(" --trainer_type")[0].replace("config.yaml", "") in (
        get_project_root() / "docs" / "image_classification" / "training.md"
    ).read_text(encoding="utf-8")
    result = subprocess.run(
        line.split(),
        cwd=photos,
        env={**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    runs = list((photos / "runs").iterdir())
    assert len(runs) == 1
    assert (runs[0] / "weights" / "best.pt").is_file()
    assert "cpu x 2" in result.stderr
