"""``ml-search``: real trainings of tiny networks, stopped, killed, resumed and shared."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.config.tree import leaves, plain
from common.utils.errors import ConfigError, DataError, FaultError
from projects.image_classification.cli.search import main as ml_search
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.search import search
from projects.image_classification.core.training import train_fold
from tests.projects.image_classification import postgresql
from tests.projects.image_classification.small_photos import write_photos

optuna = pytest.importorskip("optuna")

STUDY = Path("runs/optuna_studies/small")
COMMAND = [sys.executable, "-m", "projects.image_classification.cli.search", "--config", "config.yaml"]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table() -> list[dict[str, str]]:
    with open(STUDY / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def study(storage: str = "sqlite:///optuna_studies.db") -> "optuna.Study":
    from projects.image_classification.core.studies import open_storage

    return optuna.load_study(study_name="small", storage=open_storage(storage))


# ---- what comes of it ---------------------------------------------------------------------


def test_the_best_configuration_trains_to_the_best_trials_value_to_the_last_bit():
    report = search("config.yaml")
    assert [row["state"] for row in table()] == ["complete"] * 3
    config, context = load_config(STUDY / "best_config.yaml")
    assert config.optimizer.lr == report.best.params["optimizer.lr"]
    outcome = train_fold(config, context)
    assert outcome.metrics["val/accuracy"] == report.best.value
    assert "test/accuracy" in outcome.metrics
    trial = json.loads((STUDY / report.best.user_attrs["directory"] / "summary.json").read_text())
    assert outcome.metrics["val/loss"] == trial["metrics"]["val/loss"]
    assert "test/accuracy" not in trial["metrics"]


def test_the_command_shows_the_best_trials_and_the_line_that_uses_them(capsys):
    ml_search(["--config", "config.yaml", "--n-trials", "2", "--seed", "3"])
    out = capsys.readouterr().out
    assert "Study small: 2 complete" in out
    assert "optimizer.lr" in out
    assert out.splitlines()[-1] == f"ml-train --config {STUDY}/best_config.yaml"
    assert "Results" not in out, "the tables of the trials are in their records"
    pages = sorted(path.stem for path in (STUDY / "plots").glob("*.html"))
    assert "optimization_history" in pages
    record = json.loads((STUDY / "study.json").read_text())
    assert record["trials"] == {"complete": 2}
    assert record["best"]["params"].keys() == {"optimizer.lr", "training.batch_size"}


def test_the_same_command_on_a_new_study_tries_the_same_values():
    first = search("config.yaml", ["search.study_name=one", "training.num_epochs=1"])
    second = search("config.yaml", ["search.study_name=two", "training.num_epochs=1"])
    ours, theirs = ([(t.params, t.value) for t in r.study.trials] for r in (first, second))
    assert ours == theirs


def test_only_the_best_trial_keeps_its_weights():
    report = search("config.yaml", ["training.num_epochs=1"])
    kept = {path.parents[1].name for path in STUDY.glob("trial_*/weights/*.pt")}
    assert kept == {report.best.user_attrs["directory"]}
    assert len(list(STUDY.glob("trial_*/metrics.jsonl"))) == 3


def test_a_trial_over_all_folds_is_their_mean():
    words = ["search.folds=all", "search.n_trials=1", "training.num_epochs=1"]
    report = search("config.yaml", words)
    assert report.best.value == pytest.approx(sum(report.best.intermediate_values.values()) / 3)
    assert type(report.study.pruner).__name__ == "WilcoxonPruner"
    assert sorted(p.name for p in (STUDY / "trial_0000").iterdir()) == ["fold_0", "fold_1", "fold_2"]
    assert load_config(STUDY / "best_config.yaml")[0].data.fold == "all"


def test_a_grid_ends_when_every_combination_was_tried():
    space = "{training.batch_size: {type: categorical, choices: [6, 12]}}"
    words = [f"search.search_space={space}", "search.sampler.type=GridSampler"]
    # The file's space holds a number without a step.
    text = Path("config.yaml").read_text().replace(
        "    optimizer.lr: {type: loguniform, low: 1.0e-4, high: 1.0e-1}\n", ""
    )
    Path("config.yaml").write_text(text)
    report = search("config.yaml", [words[1], "search.n_trials=9", "training.num_epochs=1"])
    tried = sorted(trial.params["training.batch_size"] for trial in report.study.trials)
    assert tried == [6, 12]


# ---- pruned and failed trials -------------------------------------------------------------


def test_a_pruned_trial_ends_cleanly_and_is_recorded_as_pruned():
    words = [
        "search.pruner.type=ThresholdPruner",
        "search.pruner.options={lower: 2.0}",
        *("training.num_epochs=3", "search.n_trials=1"),
    ]
    with pytest.raises(FaultError, match="no trial came to a value: 1 pruned"):
        search("config.yaml", words)
    (row,) = table()
    assert row["state"] == "pruned"
    assert row["epochs"] == "1"
    assert row["reason"].startswith("pruned after epoch 1 with val_acc")
    run = STUDY / row["directory"]
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert json.loads((run / "summary.json").read_text())["stopped"] == row["reason"]


def test_the_last_epoch_is_not_pruned():
    words = [
        "search.pruner.type=ThresholdPruner",
        "search.pruner.options={lower: 2.0}",
        *("training.num_epochs=1", "search.n_trials=1"),
    ]
    search("config.yaml", words)
    assert [row["state"] for row in table()] == ["complete"]


def test_values_that_cannot_be_trained_with_fail_and_the_search_goes_on():
    lr = "    optimizer.lr: {type: categorical, choices: [1.0e+30, 0.01]}\n"
    text = Path("config.yaml").read_text()
    old = "    optimizer.lr: {type: loguniform, low: 1.0e-4, high: 1.0e-1}\n"
    Path("config.yaml").write_text(text.replace(old, lr) + "  sampler: {type: GridSampler}\n")
    search("config.yaml", ["search.n_trials=4", "optimizer.name=sgd"])
    rows = {float(row["optimizer.lr"]): row for row in table()}
    assert rows[0.01]["state"] == "complete"
    assert rows[1e30]["state"] == "fail"
    assert "not finite" in rows[1e30]["reason"] or "the loss is" in rows[1e30]["reason"]


def test_values_that_do_not_fit_together_fail_and_the_search_goes_on():
    space = "    scheduler.warmup_epochs: {type: categorical, choices: [5, 0]}\n"
    Path("config.yaml").write_text(
        Path("config.yaml").read_text() + space + "  sampler: {type: RandomSampler}\n"
    )
    search("config.yaml", ["search.n_trials=6", "training.num_epochs=1"])
    by_warmup = {(row["scheduler.warmup_epochs"], row["state"]) for row in table()}
    assert by_warmup == {("5", "fail"), ("0", "complete")}
    assert any("warm up for less" in row["reason"] for row in table())


def test_what_every_trial_would_fail_at_stops_at_the_first():
    with pytest.raises(ConfigError, match="tiny_nett"):
        search("config.yaml", ["model.custom_architecture=tiny_nett"])
    assert len(table() if (STUDY / "trials.csv").exists() else study().trials) == 1


def test_nothing_but_failures_ends_the_search():
    text = Path("config.yaml").read_text()
    old = "{type: loguniform, low: 1.0e-4, high: 1.0e-1}"
    Path("config.yaml").write_text(text.replace(old, "{type: uniform, low: 1.0e+29, high: 1.0e+30}"))
    with pytest.raises(FaultError, match="5 trials in a row failed"):
        search("config.yaml", ["search.n_trials=20", "optimizer.name=sgd"])


# ---- refused before there is a study ------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["optimizer.lr=0.1"], ConfigError, "leave one of them out"),
        (["data.fold=1"], ConfigError, "--fold"),
        (["search.folds=7"], ConfigError, "the folds in"),
        (["search.metric=val_f1"], ConfigError, "expected one of val_acc, val_loss"),
        (["search.direction=minimize"], ConfigError, "gets better the other way"),
        (["search.study_name=../up"], Exception, "not a plain name"),
        (["search.sampler.type=TPE"], ConfigError, "did you mean 'TPESampler'"),
        (["search.pruner.type=WilcoxonPruner"], ConfigError, "search.folds=all"),
        (["search.n_trials=0"], ConfigError, "expected >= 1"),
        (["search.search_space.optimizer.lr.low=-1"], ConfigError, "expected > 0"),
        (["search.storage=nothing"], ConfigError, "expected sqlite:///FILE"),
        (["data.data_dir=data/none"], ConfigError, "does not exist"),
    ],
)
def test_a_mistake_is_refused_and_leaves_nothing(photos, words, error, text):
    with pytest.raises(error) as caught:
        search("config.yaml", words)
    assert text in str(caught.value)
    assert not (photos / "optuna_studies.db").exists()
    assert not (photos / "runs").exists()


def test_images_that_are_missing_stop_the_search_before_there_is_a_study(photos):
    for path in (photos / "data/small/raw/dark").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"listed files are missing"):
        search("config.yaml")
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
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, text, capsys):
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


def test_a_study_is_gone_on_with_and_further_trials_are_counted():
    words = ["training.num_epochs=1", "search.n_trials=1"]
    search("config.yaml", words)
    with pytest.raises(ConfigError, match="give --resume"):
        search("config.yaml", words)
    search("config.yaml", words, "resume")
    search("config.yaml", words, "join")
    assert [row["trial"] for row in table()] == ["0", "1", "2"]


def test_a_study_of_other_measures_or_choices_is_not_gone_on_with(logged):
    words = ["training.num_epochs=1", "search.n_trials=1"]
    search("config.yaml", words)
    with pytest.raises(ConfigError, match=r"wants to maximize"):
        search("config.yaml", [*words, "search.metric=val_loss"], "resume")
    with pytest.raises(ConfigError, match=r"search\.folds=0"):
        search("config.yaml", [*words, "search.folds=1"], "resume")
    with pytest.raises(ConfigError, match=r"another search space of training\.batch_size"):
        search(
            "config.yaml",
            [*words, "search.search_space.training.batch_size.choices=[6,24]"],
            "resume",
        )
    search("config.yaml", ["search.n_trials=1", "training.num_epochs=2"], "resume")
    assert any("training.num_epochs (1, now 2)" in line for line in logged)


def started(*words: str, **options) -> subprocess.Popen:
    """The command, with a training that takes minutes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    slow = [] if "training.num_epochs=1" in words else ["training.num_epochs=100000"]
    return subprocess.Popen(
        [*COMMAND, *words, *slow], env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def trains() -> bool:
    return any(
        path.stat().st_size > 500 for path in STUDY.glob("trial_0000/metrics.jsonl")
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_queues_its_trial_again_and_is_resumed(number):
    process = started("--n-trials", "2")
    wait_for(trains, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    message = process.stderr.read().strip().splitlines()[-1]
    assert message.startswith("interrupted: stopped by")
    assert "ml-search --config config.yaml --resume --study-name small" in message
    assert [row["state"] for row in table()] == ["fail", "waiting"]
    search("config.yaml", ["training.num_epochs=1", "search.n_trials=1"], "resume")
    first, second = table()
    assert second["state"] == "complete"
    assert second["optimizer.lr"] == first["optimizer.lr"]


def test_the_trial_of_a_killed_search_is_found_and_tried_again():
    process = started("--n-trials", "2")
    wait_for(trains, process)
    process.kill()
    process.wait()
    assert [trial.state.name for trial in study().trials] == ["RUNNING"]
    search("config.yaml", ["training.num_epochs=1", "search.n_trials=1"], "resume")
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


@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_two_processes_with_the_same_line_share_a_study(kind, request):
    url = "journal:///shared.journal"
    if kind == "postgresql":
        url = request.getfixturevalue("server").url
    words = ["--storage", url, "--join", "--n-trials", "3", "training.num_epochs=1"]
    processes = [started(*words) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert postgresql.ESCAPED not in errors
    trials = study(url).trials
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 6
    assert len({trial.user_attrs["worker"]["pid"] for trial in trials}) == 2
    assert sorted(p.name for p in STUDY.glob("trial_*")) == [f"trial_{n:04d}" for n in range(6)]


def test_a_password_is_in_no_file_and_no_message(server, photos, capsys):
    arguments = ["--config", "config.yaml", "--storage", server.url, "--study-name", "secret"]
    ml_search([*arguments, "--n-trials", "1", "training.num_epochs=1"])
    assert postgresql.ESCAPED not in "".join(capsys.readouterr())
    for path in photos.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert postgresql.ESCAPED.encode() not in content, path
            assert postgresql.PASSWORD.encode() not in content, path


def test_settings_of_the_search_do_not_change_what_a_trial_is():
    search("config.yaml", ["training.num_epochs=1", "search.n_trials=1"])
    theirs = dict(leaves(plain(load_config("config.yaml", ["training.num_epochs=1"])[0])))
    ours = dict(leaves(plain(load_config(STUDY / "trial_0000" / "config.yaml")[0])))
    searched = {"optimizer.lr", "training.batch_size"}
    from_data = {key for key, value in theirs.items() if value is None}
    differ = {key for key in theirs if theirs[key] != ours[key]}
    assert differ <= searched | from_data | {"search.n_trials"}
