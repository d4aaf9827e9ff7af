"""``ml-search``: real trainings of tiny networks, stopped, killed, resumed and shared."""

import contextlib
import csv
import gc
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.config import Source
from common.config.tree import leaves, plain
from common.testing.trials import Trial
from common.utils.errors import ConfigError, DataError, FaultError
from projects.image_classification.cli.search import main as ml_search
from projects.image_classification.cli.train import main as ml_train
from projects.image_classification.core.config_files import load_config, run_config
from projects.image_classification.core.search.search import search
from projects.image_classification.core.search.studies import open_storage
from tests.projects.image_classification import postgresql
from tests.projects.image_classification.small_photos import write_photos

optuna = pytest.importorskip("optuna")

STUDY = Path("runs/optuna_studies/small")
COMMAND = "tests.projects.image_classification.programs:ml_search"


@dataclass(frozen=True)
class Finished:
    """A search that is over, and what the command showed."""

    folder: Path
    out: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    write_photos(folder, epochs=2)
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        ml_search(["--config", "config.yaml", "--n-trials", "3", "--seed", "3"])
    return Finished(folder, out.getvalue())


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    gc.freeze()  # memory is tidied after every trial, and this process holds a whole suite
    yield tmp_path
    gc.unfreeze()


def run(words: list[str], mode: str = "create"):
    """A search of short trainings, without plots."""
    short = [] if any("num_epochs" in word for word in words) else ["training.num_epochs=1"]
    return search("config.yaml", [*words, *short], mode, draws=False)


def set_space(text: str) -> None:
    """Put another search space at the end of the configuration."""
    head = Path("config.yaml").read_text().split("  search_space:")[0]
    Path("config.yaml").write_text(f"{head}  search_space:\n{text}")


def table() -> list[dict[str, str]]:
    with open(STUDY / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def study(storage: str = "sqlite:///optuna_studies.db"):
    return optuna.load_study(study_name="small", storage=open_storage(storage))


# ---- what comes of it ---------------------------------------------------------------------


def test_the_command_shows_the_best_trials_and_the_line_that_uses_them(finished):
    assert "Study small: 3 complete" in finished.out
    assert "optimizer.lr" in finished.out
    assert finished.out.splitlines()[-1] == f"ml-train --config {STUDY}/best_config.yaml"
    assert "Results" not in finished.out, "the tables of the trials are in their records"


def test_a_study_leaves_its_table_its_record_and_its_plots(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    assert [row["state"] for row in table()] == ["complete"] * 3
    record = json.loads((STUDY / "study.json").read_text())
    assert record["trials"] == {"complete": 3}
    best = max(table(), key=lambda row: float(row["val_acc"]))
    assert record["best"]["value"] == float(best["val_acc"])
    pages = {path.stem for path in (STUDY / "plots").glob("*.html")}
    assert {"optimization_history", "contour", "parallel_coordinate", "slice"} <= pages


def test_the_best_configuration_trains_to_the_best_trials_value_to_the_last_bit(
    finished, monkeypatch
):
    monkeypatch.chdir(finished.folder)
    best = json.loads((STUDY / "study.json").read_text())["best"]
    ml_train(["--config", f"{STUDY}/best_config.yaml"])
    (summary,) = Path("runs").glob("small_*fold_0/summary.json")
    again = json.loads(summary.read_text())["metrics"]
    trial = json.loads((STUDY / best["directory"] / "summary.json").read_text())["metrics"]
    assert again["val/accuracy"] == trial["val/accuracy"] == best["value"]
    assert again["val/log_loss"] == trial["val/log_loss"]
    assert "test/accuracy" in again
    assert "test/accuracy" not in trial, "a search does not look at the test images"


def test_only_the_best_trial_keeps_its_weights(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    best = json.loads((STUDY / "study.json").read_text())["best"]["directory"]
    assert {path.parents[1].name for path in STUDY.glob("trial_*/weights/*.pt")} == {best}
    assert len(list(STUDY.glob("trial_*/metrics.jsonl"))) == 3


def test_a_trial_is_a_run_of_the_configuration_with_its_values(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    theirs = dict(leaves(plain(load_config("config.yaml")[0])))
    config, context = run_config(STUDY / "trial_0000")
    ours = dict(leaves(plain(config)))
    searched = {"optimizer.lr", "training.batch_size", "search.n_trials", "seed"}
    from_data = set(context.values(Source.DATA))
    assert {key for key in theirs if theirs[key] != ours[key]} <= searched | from_data


def test_the_best_configuration_sets_what_was_set_and_shows_defaults_as_comments(
    finished, monkeypatch
):
    monkeypatch.chdir(finished.folder)
    text = (STUDY / "best_config.yaml").read_text()
    _, context = load_config(STUDY / "best_config.yaml")
    assert context.source("optimizer.lr") is Source.USER
    assert context.source("preprocessing.crop_share") is Source.DEFAULT
    assert "  # crop_share: " in text
    assert "deterministic: true" in text


def test_the_same_command_on_a_new_study_tries_the_same_values(photos):
    reports = [run([f"search.study_name={name}", "search.n_trials=2"]) for name in ("a", "b")]
    ours, theirs = ([(t.params, t.value) for t in r.study.trials] for r in reports)
    assert ours == theirs


def test_a_trial_over_all_folds_is_their_mean(photos):
    report = run(["search.fold=all", "search.n_trials=1"])
    assert report.best.value == pytest.approx(sum(report.best.intermediate_values.values()) / 3)
    assert type(report.study.pruner).__name__ == "WilcoxonPruner"
    assert sorted(p.name for p in (STUDY / "trial_0000").iterdir()) == [
        "fold_0",
        "fold_1",
        "fold_2",
    ]
    assert load_config(STUDY / "best_config.yaml")[0].data.fold == "all"


# ---- pruned and failed trials -------------------------------------------------------------

_GIVES_UP = ["search.pruner.type=ThresholdPruner", "search.pruner.options={lower: 2.0}"]


def test_a_pruned_trial_ends_cleanly_and_is_recorded_as_pruned(photos):
    with pytest.raises(FaultError, match="no trial came to a value: 1 pruned"):
        run([*_GIVES_UP, "training.num_epochs=3", "search.n_trials=1"])
    (row,) = table()
    assert (row["state"], row["epochs"]) == ("pruned", "1")
    assert row["reason"].startswith("pruned after epoch 1 with val_acc")
    directory = STUDY / row["directory"]
    assert json.loads((directory / "run.json").read_text())["state"] == "finished"
    assert json.loads((directory / "summary.json").read_text())["stopped"] == row["reason"]


def test_the_last_epoch_is_not_pruned(photos):
    run([*_GIVES_UP, "search.n_trials=1"])
    assert [row["state"] for row in table()] == ["complete"]


def test_values_that_cannot_be_trained_with_fail_and_the_search_goes_on(photos):
    set_space(
        "    optimizer.lr: {type: categorical, choices: [1.0e+30, 0.01]}\n"
        "    scheduler.warmup_epochs: {type: categorical, choices: [5, 0]}\n"
    )
    # Asked for nine, but a grid ends when every combination was tried.
    run(["search.n_trials=9", "optimizer.name=sgd", "search.sampler.type=GridSampler"])
    found = {(float(r["optimizer.lr"]), r["scheduler.warmup_epochs"]): r for r in table()}
    states = {key: row["state"] for key, row in found.items()}
    assert states == {
        **{(1e30, "5"): "fail", (0.01, "5"): "fail"},
        **{(1e30, "0"): "fail", (0.01, "0"): "complete"},
    }
    assert "warm up for less" in found[0.01, "5"]["reason"]
    assert "finite" in found[1e30, "0"]["reason"] or "nan" in found[1e30, "0"]["reason"]
    run(["optimizer.name=sgd", "search.sampler.type=GridSampler"], "resume")
    assert len(table()) == 4, "the grid is complete"


def test_what_every_trial_would_fail_at_stops_at_the_first(photos):
    with pytest.raises(ConfigError, match="tiny_nett"):
        run(["model.custom_architecture=tiny_nett"])
    assert [trial.state.name for trial in study().trials] == ["FAIL"]


def test_an_image_that_cannot_be_read_stops_the_search(photos):
    (photos / "data/small/raw/dark/0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png"):
        run([])
    (trial,) = study().trials
    assert trial.state.name == "FAIL"
    assert "0.png" in trial.user_attrs["reason"]


def test_nothing_but_failures_ends_the_search(photos):
    set_space("    optimizer.lr: {type: uniform, low: 1.0e+29, high: 1.0e+30}\n")
    with pytest.raises(FaultError, match="5 trials in a row failed"):
        run(["search.n_trials=20", "optimizer.name=sgd"])


# ---- refused before there is a study ------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["optimizer.lr=0.1"], ConfigError, "leave one of them out"),
        (["data.fold=1"], ConfigError, "--fold"),
        (["search.fold=7"], ConfigError, "the folds in"),
        (["search.metric=val_f1"], ConfigError, "expected one of val_acc, val_loss"),
        (["search.direction=minimize"], ConfigError, "gets better the other way"),
        (["search.study_name=../up"], Exception, "not a plain name"),
        (["search.sampler.type=TPESample"], ConfigError, "did you mean 'TPESampler'"),
        (["search.pruner.type=WilcoxonPruner"], ConfigError, "search.fold=all"),
        (["search.n_trials=0"], ConfigError, "expected >= 1"),
        (["search.search_space.optimizer.lr.low=-1"], ConfigError, "expected > 0"),
        (["search.storage=nothing"], ConfigError, "expected sqlite:///FILE"),
        (["data.data_dir=data/none"], ConfigError, "does not exist"),
    ],
)
def test_a_mistake_is_refused_and_leaves_nothing(photos, words, error, text):
    with pytest.raises(error) as caught:
        search("config.yaml", words, draws=False)
    assert text in str(caught.value)
    assert not (photos / "optuna_studies.db").exists()
    assert not (photos / "runs").exists()


def test_images_that_are_missing_stop_the_search_before_there_is_a_study(photos):
    for path in (photos / "data/small/raw/dark").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="listed files are missing"):
        run([])
    assert not (photos / "optuna_studies.db").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--config is missing"),
        (["--config", "config.yaml", "--n-jobs", "4"], "--join"),
        (["--config", "config.yaml", "--resume", "--join"], "give one of"),
        (["--config", "config.yaml", "--n-trials", "many"], "search.n_trials is 'many'"),
        (["--config", "config.yaml", "--resumee"], "did you mean --resume"),
        (["--config", "config.yaml", "--resume"], "there is no such file"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(photos, arguments, text, capsys):
    with pytest.raises(SystemExit) as caught:
        ml_search(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert text in message
    assert message.count("\n") == 1


def test_the_help_imports_no_library_and_shows_examples():
    code = (
        "import sys\n"
        "from projects.image_classification.cli.search import parser\n"
        "assert 'ml-search --config' in parser().format_help()\n"
        "assert not {'torch', 'optuna', 'matplotlib', 'hydra'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


# ---- going on -----------------------------------------------------------------------------


def test_a_study_is_gone_on_with_and_further_trials_are_counted(photos):
    run(["search.n_trials=1"])
    with pytest.raises(ConfigError, match="give --resume"):
        run(["search.n_trials=1"])
    run(["search.n_trials=1"], "resume")
    run(["search.n_trials=1"], "join")
    assert [row["trial"] for row in table()] == ["0", "1", "2"]


def test_a_study_of_other_measures_or_choices_is_not_gone_on_with(photos, capsys):
    run(["search.n_trials=1"])
    with pytest.raises(ConfigError, match="wants to maximize"):
        run(["search.metric=val_loss"], "resume")
    with pytest.raises(ConfigError, match=r"search\.fold=0"):
        run(["search.fold=1"], "resume")
    with pytest.raises(ConfigError, match=r"another search space of training\.batch_size"):
        run(["search.search_space.training.batch_size.choices=[6,24]"], "resume")
    run(["search.n_trials=1", "training.num_epochs=2"], "resume")
    assert "training.num_epochs (1, now 2)" in capsys.readouterr().err


@pytest.fixture
def started(photos, trials) -> Callable[..., Trial]:
    """Begins the command in a process of its own, with a training that takes minutes."""

    def start(*words: str) -> Trial:
        slow = [] if "training.num_epochs=1" in words else ["training.num_epochs=100000"]
        words = ("--config", "config.yaml", *words, *slow)
        return trials.start(COMMAND, directory=str(photos), words=words)

    return start


def wait_for(condition, trial: Trial) -> None:
    for _ in range(600):
        if condition():
            return
        assert trial.running, trial.errors
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def trains() -> bool:
    return any(path.stat().st_size > 500 for path in STUDY.glob("trial_0000/metrics.jsonl"))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_search_queues_its_trial_again_and_is_resumed(started, number):
    process = started("--n-trials", "2")
    wait_for(trains, process)
    process.signal(number)
    assert process.wait() == 128 + number
    message = process.errors.strip().splitlines()[-1]
    assert message.startswith("interrupted: stopped by")
    assert "ml-search --config config.yaml --resume --study-name small" in message
    assert [row["state"] for row in table()] == ["fail", "waiting"]
    run(["search.n_trials=1"], "resume")
    first, second = table()
    assert second["state"] == "complete"
    assert second["optimizer.lr"] == first["optimizer.lr"]


@pytest.mark.slow
def test_the_trial_of_a_killed_search_is_found_and_tried_again(started):
    process = started("--n-trials", "2")
    wait_for(trains, process)
    process.signal(signal.SIGKILL)
    process.wait()
    assert [trial.state.name for trial in study().trials] == ["RUNNING"]
    run(["search.n_trials=1"], "resume")
    first, second = table()
    assert (first["state"], second["state"]) == ("fail", "complete")
    assert first["reason"] == "its process ended without a word"
    assert second["optimizer.lr"] == first["optimizer.lr"]


# ---- several processes --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    if postgresql.programs() is None or find_spec("psycopg") is None:
        pytest.skip("PostgreSQL or its driver psycopg is not installed")
    with postgresql.server() as running:
        yield running


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("journal", marks=pytest.mark.slow)])
def test_two_processes_with_the_same_line_share_a_study(photos, started, kind, request):
    url = "journal:///shared.journal"
    if kind == "postgresql":
        url = request.getfixturevalue("server").url
    words = ["--storage", url, "--join", "--n-trials", "3", "training.num_epochs=1"]
    processes = [started(*words) for _ in range(2)]
    for process in processes:
        assert process.wait(120) == 0, process.errors
        assert postgresql.ESCAPED not in process.errors
    trials = study(url).trials
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 6
    assert len({trial.user_attrs["worker"]["pid"] for trial in trials}) == 2
    assert sorted(p.name for p in STUDY.glob("trial_*")) == [f"trial_{n:04d}" for n in range(6)]
    assert "***" in (STUDY / "trial_0000" / "run.json").read_text() or kind == "journal"
    files = [path for path in photos.rglob("*") if path.is_file()]
    assert not [f for f in files if postgresql.ESCAPED.encode() in f.read_bytes()]


def test_a_password_is_in_no_file_and_no_message(server, photos, capsys):
    arguments = ["--config", "config.yaml", "--storage", server.url, "--study-name", "secret"]
    ml_search([*arguments, "--n-trials", "1", "training.num_epochs=1"])
    assert postgresql.ESCAPED not in "".join(capsys.readouterr())
    for path in photos.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert postgresql.ESCAPED.encode() not in content, path
            assert postgresql.PASSWORD.encode() not in content, path


def test_a_password_of_the_environment_stays_a_reference(server, photos, monkeypatch):
    monkeypatch.setenv("STUDY_PASSWORD", postgresql.ESCAPED)
    url = server.url.replace(postgresql.ESCAPED, "${oc.env:STUDY_PASSWORD}")
    with open("config.yaml", "a") as file:
        file.write(f"  storage: {url}\n  study_name: env\n")
    report = run(["search.n_trials=1"])
    text = report.best_config.read_text()
    assert "${oc.env:STUDY_PASSWORD}" in text
    assert postgresql.ESCAPED not in text


def test_a_file_that_changes_while_it_is_searched_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from projects.image_classification.core.search.plan import SearchPlan

    write_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    plan = SearchPlan("config.yaml", [])
    values = {"optimizer.lr": 0.01, "training.batch_size": 6}
    assert plan.load(values, 0)[0].optimizer.lr == 0.01
    with open("config.yaml", "a") as file:
        file.write("seed: 7\n")
    with pytest.raises(DataError, match="has changed since the search began"):
        plan.load(values, 0)
