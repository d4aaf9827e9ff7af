"""Where trials are kept: addresses, passwords, dead processes, a real PostgreSQL server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.utils.errors import ConfigError, FaultError
from projects.image_classification.core.search import studies
from projects.image_classification.core.search.studies import (
    RETRIES,
    RETRY_OF,
    WORKER,
    fail_dead_trials,
    masked,
    open_storage,
    open_study,
)
from tests.projects.image_classification import postgresql

optuna = pytest.importorskip("optuna")

NAMES = {state.name.lower(): state for state in optuna.trial.TrialState}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    if postgresql.programs() is None or find_spec("psycopg") is None:
        pytest.skip("PostgreSQL or its driver psycopg is not installed")
    with postgresql.server() as running:
        yield running


def study_in(url: str, mode: str = "create", direction: str = "maximize"):
    return open_study(open_storage(url), url, "s", direction, mode)


# ---- addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:a@b:c@host/db", "mysql+pymysql://me:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret",
            "postgresql://host/db?user=me&password=***",
        ),
        ("--storage=postgresql://me:secret@host/db", "--storage=postgresql://me:***@host/db"),
        (
            "postgresql://me:${oc.env:PASSWORD}@host/db",
            "postgresql://me:${oc.env:PASSWORD}@host/db",
        ),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("mail me@host about 1:2", "mail me@host about 1:2"),
    ],
)
def test_a_password_is_masked(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("studies.db", "expected sqlite:///FILE"),
        ("postgres://me:secret@host/db", "did you mean postgresql://"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("journal://here", "names no file"),
        ("sqlite:///nowhere/a.db", "there is no folder"),
        ("journal:///.", "is a folder"),
        ("postgresql://me:secret@host:port/db", "expected sqlite:///FILE"),
        ("mysql+mysqldb://me:secret@host/db", "uv pip install 'mysqlclient'"),
    ],
)
def test_a_wrong_address_is_named_without_its_password(url, words):
    with pytest.raises(ConfigError) as caught:
        open_storage(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_file_that_holds_something_else_is_refused_and_kept(tmp_path, scheme):
    (tmp_path / "notes.txt").write_text("my notes, long enough to be no empty data base\n" * 9)
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        open_storage(f"{scheme}:///notes.txt")
    assert (tmp_path / "notes.txt").read_text().startswith("my notes")


def test_resuming_makes_no_file(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        open_storage("sqlite:///a.db", must_exist=True)
    assert not list(tmp_path.iterdir())


def test_a_journal_in_a_folder_is_locked_where_it_lies(tmp_path):
    (tmp_path / "sub").mkdir()
    study, _ = study_in("journal:///sub/a.journal")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    again, is_new = study_in("journal:///sub/a.journal", "resume")
    assert not is_new
    assert len(again.trials) == 2


# ---- studies ------------------------------------------------------------------------------


def test_a_study_is_begun_once_resumed_or_joined():
    with pytest.raises(ConfigError, match="no study 's'"):
        study_in("sqlite:///a.db", "resume")
    assert study_in("sqlite:///a.db")[1]
    with pytest.raises(ConfigError, match=r"already.*--resume"):
        study_in("sqlite:///a.db")
    assert not study_in("sqlite:///a.db", "resume")[1]
    assert not study_in("sqlite:///a.db", "join")[1]
    assert study_in("sqlite:///b.db", "join")[1]


def test_a_study_of_the_other_direction_is_refused():
    study_in("sqlite:///a.db")
    with pytest.raises(ConfigError, match="wants to maximize"):
        study_in("sqlite:///a.db", "resume", "minimize")


# ---- dead processes -----------------------------------------------------------------------

_RUNS_A_TRIAL = """
import sys, time
from dataclasses import asdict
from projects.image_classification.core.search.studies import WORKER, Worker, open_storage, open_study
url = sys.argv[1]
study, _ = open_study(open_storage(url), url, "s", "maximize", "join")
trial = study.ask()
trial.set_user_attr(WORKER, asdict(Worker.here()))
trial.suggest_float("x", 0, 1)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def running_trial() -> Iterator:
    """Starts a process with a running trial, and ends it afterwards."""
    started: list[subprocess.Popen] = []

    def start(url: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUNS_A_TRIAL, url], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("url", ["sqlite:///a.db", "journal:///a.journal"])
def test_the_trial_of_a_killed_process_fails_and_its_values_are_queued_once(running_trial, url):
    process = running_trial(url)
    study, _ = study_in(url, "resume")
    assert fail_dead_trials(study) == 0, "it lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert fail_dead_trials(study) == 1
    assert fail_dead_trials(study) == 0
    failed, queued = study.get_trials()
    assert failed.state is NAMES["fail"]
    assert queued.state is NAMES["waiting"]
    assert queued.user_attrs[RETRY_OF] == 0
    assert study.ask().suggest_float("x", 0, 1) == failed.params["x"]


def test_values_that_kill_their_process_every_time_are_given_up():
    study, _ = study_in("sqlite:///a.db")
    gone = {"host": os.uname().nodename, "pid": 2**22 + 1, "started": 0.0}
    study.enqueue_trial({"x": 0.5})
    for attempt in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr(WORKER, gone)
        assert trial.number == attempt
        assert fail_dead_trials(study) == 1
    assert [t.user_attrs.get(RETRIES, 0) for t in study.trials] == [0, 1, 2]
    assert {t.state for t in study.trials} == {NAMES["fail"]}


def test_the_process_of_another_machine_is_left_alone():
    study, _ = study_in("journal:///a.journal")
    trial = study.ask()
    trial.set_user_attr(WORKER, {"host": "elsewhere", "pid": 1, "started": 0.0})
    assert fail_dead_trials(study) == 0


# ---- PostgreSQL ---------------------------------------------------------------------------

_WORKS = """
import sys
from projects.image_classification.core.search.studies import explained_storage, open_storage, open_study
url = sys.argv[1]
with explained_storage(url):
    study, _ = open_study(open_storage(url), url, "shared", "maximize", "join")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=10)
"""


def test_two_processes_that_begin_at_once_share_a_study_on_postgresql(server):
    workers = [subprocess.Popen([sys.executable, "-c", _WORKS, server.url]) for _ in range(2)]
    assert [worker.wait(timeout=100) for worker in workers] == [0, 0]
    study, is_new = open_study(open_storage(server.url), server.url, "shared", "maximize", "resume")
    assert not is_new
    assert sorted(trial.number for trial in study.trials) == list(range(20))
    assert len({trial.params["x"] for trial in study.trials}) == 20
    assert {trial.state for trial in study.trials} == {NAMES["complete"]}


def test_a_wrong_password_database_or_port_is_one_line_without_the_password(server):
    wrong = server.url.replace(postgresql.ESCAPED, "hunter2")
    with pytest.raises(ConfigError, match="password authentication failed") as caught:
        open_storage(wrong)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match='"nowhere" does not exist'):
        open_storage(server.url.removesuffix("/postgres") + "/nowhere")
    closed = server.url.replace(f":{server.port}/", f":{postgresql.free_port()}/")
    started = time.monotonic()
    with pytest.raises(FaultError, match=r"does not answer: .*refused") as refused:
        open_storage(closed)
    assert time.monotonic() - started < 15
    assert postgresql.ESCAPED not in str(refused.value)
    assert postgresql.PASSWORD not in str(refused.value)


def test_a_machine_that_shows_itself_no_more_is_noticed_by_another(server, monkeypatch):
    monkeypatch.setattr(studies, "_HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(studies, "_GRACE_SECONDS", 2)
    study, _ = open_study(open_storage(server.url), server.url, "beats", "maximize", "create")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr(WORKER, {"host": "elsewhere", "pid": 1, "started": 0.0})
    study._storage.record_heartbeat(trial._trial_id)
    fail_dead_trials(study)
    assert study.trials[0].state is NAMES["running"]
    time.sleep(3.5)
    fail_dead_trials(study)
    failed, queued = study.trials
    assert (failed.state, queued.state) == (NAMES["fail"], NAMES["waiting"])
    assert study.ask().suggest_float("x", 0, 1) == failed.params["x"]
