"""Which images a run is about: judged before training, kept apart, and the same when it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.utils.errors import DataError
from projects.image_classification.core import folds
from projects.image_classification.core.config import Config
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.datasets import data_splits, get_datasets
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.folder.grouping import read_groups
from projects.image_classification.core.index_files import read_index, write_index
from projects.image_classification.core.training import FoldOutcome, resume_fold, train_fold
from tests.projects.image_classification.small_photos import write_photos

SPLITS = Path("data/small/splits")
SHORT = ("training.num_epochs=1", "evaluation.grad_cam=0", "evaluation.num_mistakes=0")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _config(*words: str) -> Config:
    config, context = load_config("config.yaml", list(words))
    resolve_facts(config, context, 0)
    return config


def _trained(*words: str) -> FoldOutcome:
    return train_fold(*load_config("config.yaml", [*SHORT, *words]))


def test_looking_for_bad_images_draws_no_random_number() -> None:
    config = _config("data.on_bad=skip", "augmentation.random_crop=true")
    before = torch.random.get_rng_state()

    get_datasets(config)

    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_transform_that_fails_makes_no_image_bad() -> None:
    grey = "{_target_: torchvision.transforms.v2.Grayscale, num_output_channels: 3}"
    config = _config(
        "data.on_bad=skip", f"augmentation.transforms=[{grey}]", "preprocessing.mode=L"
    )
    train = get_datasets(config)["train"]

    assert not train.skipped
    with pytest.raises(DataError, match="Grayscale gives the shape"):
        train[0]


def test_a_missing_list_is_named_and_one_of_blank_lines_is_empty() -> None:
    config = _config()
    (SPLITS / "test.txt").write_text("\n  \n")
    assert sorted(get_datasets(config)) == ["train", "val"]

    (SPLITS / "test.txt").unlink()
    with pytest.raises(DataError, match=r"test\.txt: No such file"):
        get_datasets(config)


@pytest.mark.parametrize("other", ["fold_0_val.txt", "test.txt"])
def test_an_image_that_is_trained_on_and_measured_is_refused(other: str) -> None:
    shared = read_index(SPLITS / "fold_0_train.txt")[0]
    write_index(SPLITS / other, [*read_index(SPLITS / other), shared])

    with pytest.raises(DataError, match=f"1 images are in .*fold_0_train.txt and in {other}"):
        get_datasets(_config())


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_no_training_batch_is_a_single_image(sampling: str) -> None:
    config = _config(f"data.sampling={sampling}", "training.batch_size=17")  # of 18 images
    order = data_splits(config, get_datasets(config)).train.order

    assert [len(batch) for batch in order(0)] == [17]


def test_a_regular_expression_may_be_longer_than_a_files_name() -> None:
    expression = "|".join(f"patient_{number:03d}" for number in range(60))

    assert read_groups(expression, ["raw/a/patient_007.png"]) == ["patient_007"]


def test_a_run_does_not_go_on_with_a_test_set_it_would_train_on() -> None:
    run = _trained().directory
    trained, tested = (read_index(SPLITS / name) for name in ("fold_0_train.txt", "test.txt"))
    write_index(SPLITS / "fold_0_train.txt", [*trained[len(tested) :], *tested])
    write_index(SPLITS / "test.txt", trained[: len(tested)])

    with pytest.raises(DataError, match=r"is not the train list that .* began with"):
        resume_fold(run, ["training.num_epochs=2"])


def test_a_run_does_not_go_on_with_another_fold() -> None:
    run = _trained().directory

    with pytest.raises(DataError, match=r"fold_1_train\.txt is not the train list"):
        resume_fold(run, ["training.num_epochs=2", "data.fold=1"])


def _cross_validated(monkeypatch: pytest.MonkeyPatch, before: Any) -> dict[str, str]:
    """Train all folds, with ``before(directory)`` ahead of each; the record's runs."""

    def train(config: Any, context: Any, *, directory: Path, **options: Any) -> FoldOutcome:
        before(directory)
        return train_fold(config, context, directory=directory, **options)

    monkeypatch.setattr(folds, "train_fold", train)
    folds.train_folds(*load_config("config.yaml", [*SHORT, "data.fold=all"]))
    record = next(Path("runs").glob(f"*/{folds.RECORD}"))
    runs: dict[str, str] = json.loads(record.read_text())["folds"]
    return runs


def test_a_file_edited_during_a_cross_validation_changes_no_fold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = Path("config.yaml")

    def edit(_: Path) -> None:
        file.write_text(file.read_text().replace("lr: 0.01", "lr: 0.5"))

    runs = _cross_validated(monkeypatch, edit)

    assert len(runs) == 3
    for run in runs.values():
        assert "lr: 0.01  # USER: config.yaml" in (Path("runs") / run / "config.yaml").read_text()


def test_a_cross_validation_knows_its_runs_when_another_takes_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = _cross_validated(monkeypatch, lambda directory: directory.mkdir())

    assert all(run.endswith(f"fold_{number}-2") for number, run in runs.items())
