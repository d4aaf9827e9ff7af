"""TensorBoard of a run: a real server answers and ends without a trace; only its logs are removed."""

import http.client
import json
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from common.testing.processes import Session
from common.training.loggers import build_logger
from common.utils.runs import Run
from projects.image_classification.cli.visualise import main
from projects.image_classification.core.tensorboard_server import logs_to_clean

COMMAND = (sys.executable, "-m", "projects.image_classification.cli.visualise", "--mode")


def make_run(directory: Path) -> Path:
    """A run with one event file."""
    directory.mkdir(parents=True)
    (directory / "run.json").write_text("{}")
    (directory / "config.yaml").write_text("seed: 0\n")
    logger = build_logger("tensorboard", directory)
    for step in range(3):
        logger.log({"step": step, "loss": 1.0 / (step + 1)})
    logger.close()
    return directory


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_browser_is_answered_until_ctrl_c_and_nothing_is_left_running(
    tmp_path: Path, number: int
) -> None:
    make_run(tmp_path / "runs" / "r")
    with Session([*COMMAND, "launch", "--run_dir", "runs", "--port", "0"], directory=tmp_path) as s:
        s.wait_until(lambda: "Ctrl-C" in s.output)
        port = int(s.output.split("http://127.0.0.1:")[1].split("/")[0])
        servers = psutil.Process(s.pid).children(recursive=True)
        status, page = get(port, "/")
        assert status == 200
        assert b"TensorBoard" in page
        s.wait_until(lambda: json.loads(get(port, "/data/runs")[1]) == ["r/tensorboard"])
        tags = json.loads(get(port, "/data/plugin/scalars/tags")[1])
        assert "loss" in tags["r/tensorboard"]
        os.kill(s.pid, number)
        assert s.wait() == 0
        assert "TensorBoard has ended" in s.output
        assert "Traceback" not in s.errors
    assert servers
    assert psutil.wait_procs(servers, timeout=60)[1] == []


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "r")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["--mode", "launch", "--run_dir", str(run), "--port", str(port)])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert f"port {port} is taken" in errors
    assert "--port 0" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["launch"], "--run_dir is missing"),
        (["launch", "--run_dir", "nowhere"], "no folder at nowhere"),
        (["launch", "--run_dir", "empty"], "holds no TensorBoard logs"),
        (["launch", "--run_dir", "empty", "--port", "70000"], "--port is 70000"),
        (["launch", "--run_dir", "empty", "--port", "-1"], "--port is -1"),
        (["clean", "--run_dir", "nowhere"], "no folder at nowhere"),
        (["clean", "--run_dir", "empty", "--yes"], "neither a run"),
        (["clean", "--run_dir", "empty", "--port", "3"], "--port belongs to --mode launch"),
        (["samples", "--which", "random"], "--which belongs to --mode predictions"),
        (["launch", "--count", "3"], "--count belongs to --mode samples, predictions"),
        (["launch", "--run_dir", "empty", "a.b=3"], "takes no 'a.b=3'"),
        (["predictions"], "--checkpoint_path is missing"),
        (["search"], "--study-name is missing"),
        (["lunch"], "invalid choice"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["--mode", *words])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert problem in errors
    assert errors.count("\n") == 1


def test_cleaning_removes_event_files_only_and_says_how_many_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "runs" / "r")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "events.out.tfevents.1").write_text("not this one")
    (run / "tensorboard" / "link").symlink_to(outside)
    (run / "tensorboard" / "notes.txt").write_text("mine")
    (event,) = (run / "tensorboard").glob("events.*")
    size = event.stat().st_size
    words = ["--mode", "clean", "--run_dir", str(tmp_path / "runs")]
    main([*words, "--dry_run"])
    assert event.exists()
    with pytest.raises(SystemExit):  # no terminal to ask on
        main(words)
    assert event.exists()
    capsys.readouterr()
    main([*words, "--yes"])
    output = capsys.readouterr().out
    assert f"removed 1 file of 1 run, {size:,} bytes" in output
    assert not event.exists()
    assert (outside / "events.out.tfevents.1").exists()
    assert (run / "tensorboard" / "notes.txt").exists()
    assert (run / "config.yaml").exists()
    main([*words, "--yes"])
    assert "nothing was removed" in capsys.readouterr().out


def test_logs_behind_a_link_stay(tmp_path: Path) -> None:
    real = make_run(tmp_path / "real")
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    for name in ("run.json", "config.yaml"):
        (run / name).write_text("{}")
    (run / "tensorboard").symlink_to(real / "tensorboard")
    (tmp_path / "runs" / "linked").symlink_to(real)
    (cleaning,) = logs_to_clean(tmp_path / "runs")
    assert cleaning.files == []
    assert cleaning.kept == [run / "tensorboard"]


def test_the_logs_of_a_run_that_trains_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_run(tmp_path / "r")
    with Run(directory, 0), pytest.raises(SystemExit) as ended:
        main(["--mode", "clean", "--run_dir", str(directory), "--yes"])
    assert ended.value.code == 1
    assert "in use by a process" in capsys.readouterr().err
    assert len(list((directory / "tensorboard").iterdir())) == 1
