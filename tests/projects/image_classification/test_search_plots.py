"""The plots of a study: pages that need no network, and a word where there is too little to draw."""

import re
from pathlib import Path

import pytest

from common.utils.errors import ConfigError, DataError
from projects.image_classification.core.search.plots import PLOT_TYPES, plot_study

optuna = pytest.importorskip("optuna")
pytest.importorskip("plotly")

STORAGE = "sqlite:///optuna_studies.db"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_study(trials: int, name: str = "toy"):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(
        storage=STORAGE, study_name=name, direction="maximize", sampler=sampler
    )
    study.set_user_attr("settings", {"metric": "val_acc"})

    def objective(trial):
        lr = trial.suggest_float("optimizer.lr", 1e-5, 1.0, log=True)
        size = trial.suggest_int("training.batch_size", 8, 64)
        return lr + size / 1000

    study.optimize(objective, n_trials=trials)
    return study


def test_every_plot_is_a_page_that_needs_no_network():
    make_study(5)
    written = plot_study("toy")
    folder = Path("runs/optuna_studies/toy/plots")
    assert written == [folder / f"{name}.html" for name in PLOT_TYPES]
    for path in written:
        page = path.read_text()
        assert "val_acc" in page
        assert not re.search(r"<script[^>]*\ssrc=|<link[^>]*\shref=|<img[^>]*\ssrc=", page)


def test_one_plot_of_some_parameters_by_their_short_names():
    make_study(5)
    (path,) = plot_study("toy", STORAGE, "slice", ["lr"], "one/lr.html")
    page = path.read_text().split("Plotly.newPlot(")[-1]
    assert path == Path("one/lr.html")
    assert "optimizer.lr" in page
    assert "training.batch_size" not in page


def test_what_needs_more_trials_is_left_out(logged):
    make_study(1)
    names = [path.stem for path in plot_study("toy", out="p")]
    assert names == ["optimization_history", "parallel_coordinate", "slice"]
    assert any("param_importances: needs 2 completed trials" in line for line in logged)


def test_a_plot_that_was_asked_for_and_cannot_be_drawn_is_an_error():
    make_study(1)
    with pytest.raises(DataError, match="contour: needs 2 completed trials, there are 1"):
        plot_study("toy", plot_type="contour")
    with pytest.raises(DataError, match="none of them is complete"):
        make_study(0, "empty")
        plot_study("empty")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"study_name": "toyy"}, "did you mean 'toy'"),
        ({"plot_type": "countour"}, "did you mean 'contour'"),
        ({"params": ["lrr"]}, "did you mean 'lr'"),
        ({"storage": "sqlite:///other.db"}, "there is no such file"),
        ({"out": "all.html"}, "name a folder"),
    ],
)
def test_a_wrong_name_is_named_with_the_nearest(arguments, words):
    make_study(2)
    with pytest.raises(ConfigError) as caught:
        plot_study(**{"study_name": "toy", **arguments})
    assert words in str(caught.value)


def test_a_short_name_that_may_be_two_parameters_is_asked_back():
    study = make_study(0)
    study.optimize(
        lambda t: t.suggest_float("a.x", 0, 1) + t.suggest_float("b.x", 0, 1), n_trials=2
    )
    with pytest.raises(ConfigError, match=r"may be a\.x or b\.x"):
        plot_study("toy", params=["x"])
