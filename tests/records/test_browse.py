"""Listing, showing, comparing and cleaning runs."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.records import browse, cleaning, write_results
from common.records.browse import compare_runs, list_runs, main, show_run
from common.records.cleaning import candidates
from common.records.run_record import RunRecord, find_record
from common.utils import Run
from common.utils.errors import ConfigError
from common.utils.paths import get_outputs_dir, get_project_root
from tests.records.examples import make_run, project, row

NOW = datetime.now(UTC).isoformat(timespec="seconds")


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for runs, of a project with one paper."""
    project(tmp_path)
    readable, folders = browse.readable_papers, browse.paper_folders
    for module in (browse, cleaning):
        monkeypatch.setattr(module, "readable_papers", lambda: readable(tmp_path))
    monkeypatch.setattr(browse, "paper_folders", lambda: folders(tmp_path))
    get_outputs_dir().mkdir(parents=True)
    return get_outputs_dir()


def names(text: str) -> list[str]:
    """The runs of a table, in its order."""
    return [line.split()[0] for line in text.splitlines() if line.strip().startswith("2026")]


def test_runs_are_listed_the_newest_first_with_their_headline(outputs: Path) -> None:
    for day in (1, 3, 2):
        make_run(outputs, f"2026-01-0{day}_00-00-00")
    text = list_runs()
    assert names(text) == [f"2026-01-0{day}_00-00-00" for day in (3, 2, 1)]
    assert "test/accuracy 0.9" in text
    assert "2.0 h" in text


def test_runs_are_filtered(outputs: Path) -> None:
    make_run(outputs, "2026-01-01_00-00-00", state="failed")
    make_run(outputs, "2026-01-02_00-00-00", started=NOW)
    make_run(outputs, "2026-01-03_00-00-00", experiment="another")
    assert names(list_runs(state="failed")) == ["2026-01-01_00-00-00"]
    assert names(list_runs(experiment="another")) == ["2026-01-03_00-00-00"]
    since = datetime.now(UTC) - timedelta(hours=1)
    assert names(list_runs(since=since)) == ["2026-01-02_00-00-00"]
    assert list_runs(state="interrupted").startswith("no such runs")


def test_a_run_that_says_running_is_running_only_while_it_is_owned(outputs: Path) -> None:
    directory = make_run(outputs, state="running", pid=1)
    (directory / "owner.lock").write_text("1")
    assert RunRecord.read(directory).state == "killed"
    with Run(directory, 0):
        assert RunRecord.read(directory).state == "running"
    assert RunRecord.read(directory).state == "finished"


@pytest.mark.parametrize("text", ["{torn", "[]", '{"state": "finished", "started": "once"}'])
def test_a_damaged_record_is_named_and_hides_no_other(outputs: Path, text: str) -> None:
    make_run(outputs, "2026-01-01_00-00-00")
    (make_run(outputs, "2026-01-02_00-00-00") / "run.json").write_text(text)
    text = list_runs()
    assert names(text) == ["2026-01-01_00-00-00"]
    assert "2026-01-02_00-00-00/run.json" in text


def test_a_run_is_found_by_path_name_and_beginning(outputs: Path) -> None:
    one = make_run(outputs, "2026-01-01_00-00-00")
    two = make_run(outputs, "2026-01-02_00-00-00_lr=1")
    for name in (str(two), two.name, "2026-01-02", "method/2026-01-02"):
        assert find_record(name).directory == two
    assert find_record("2026-01-01_00-00-00").directory == one
    with pytest.raises(ConfigError, match="'2026-01' means 2 runs: "):
        find_record("2026-01")
    with pytest.raises(ConfigError, match="there is no run '2025'"):
        find_record("2025")


def test_a_whole_name_wins_over_a_longer_one(outputs: Path) -> None:
    one = make_run(outputs, "2026-01-01_00-00-00")
    make_run(outputs, "2026-01-01_00-00-00-2")
    assert find_record(one.name).directory == one


def test_show_has_the_values_that_are_no_defaults_and_what_to_type_next(outputs: Path) -> None:
    directory = make_run(outputs, overrides={"lr": 0.5})
    config = directory / "config.yaml"
    config.write_text(config.read_text() + "width: 8  # DEFAULT\n")
    text = show_run(RunRecord.read(directory))
    assert "USER: command line" in text
    assert "width" not in text
    assert "python -m papers.method.evaluate --run 2026-01-01_00-00-00" in text
    stopped = make_run(outputs, "2026-01-02_00-00-00", state="interrupted")
    assert "no checkpoint to go on from" in show_run(RunRecord.read(stopped))
    (stopped / "checkpoints").mkdir()
    (stopped / "checkpoints" / "last.pt").write_text("")
    assert "--resume 2026-01-02_00-00-00" in show_run(RunRecord.read(stopped))


def test_compare_shows_what_differs_and_only_that(outputs: Path) -> None:
    make_run(outputs, "2026-01-01_00-00-00")
    make_run(outputs, "2026-01-02_00-00-00", overrides={"lr": 0.5}, metrics={"test/accuracy": 0.7})
    records = [find_record("2026-01-01"), find_record("2026-01-02")]
    text = compare_runs(records)
    assert "lr=0.1" in text
    assert "lr=0.5" in text
    assert "data.name" not in text
    assert "0.7" in text
    (picture,) = outputs.glob("compare_*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_compare_refuses_a_picture_of_no_kind(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in (1, 2):
        make_run(outputs, f"2026-01-0{day}_00-00-00")
    with pytest.raises(SystemExit) as caught:
        main(["compare", "2026-01-01", "2026-01-02", "--out", "x.nope"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: x.nope is no name of a picture; expected")


def test_a_key_that_a_run_does_not_have_is_a_dash_and_none_is_none(outputs: Path) -> None:
    make_run(outputs, "2026-01-01_00-00-00")
    make_run(outputs, "2026-01-02_00-00-00", overrides={"top": None, "low": 1})
    text = compare_runs([find_record("2026-01-01"), find_record("2026-01-02")])
    cells = [line.split() for line in text.splitlines()]
    assert ["top", "-", "None"] in cells
    assert ["low", "-", "1"] in cells


def test_clean_takes_what_ended_with_nothing_and_only_that(outputs: Path) -> None:
    make_run(outputs, "2026-01-01_00-00-00")
    make_run(outputs, "2026-01-02_00-00-00", command=["train.py", "--dry-run"])
    make_run(outputs, "2026-01-03_00-00-00", state="failed")
    make_run(outputs, "2026-01-04_00-00-00", state="interrupted", files={"checkpoints/last.pt": ""})
    make_run(outputs, "2026-01-05_00-00-00", state="running")
    found = {candidate.record.name[8:10]: candidate.reason for candidate in candidates()}
    assert found == {
        "02": "a dry run",
        "03": "failed, no checkpoint",
        "05": "killed, no checkpoint",
    }


def test_a_half_edited_paper_protects_its_own_runs_and_hides_no_others(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project(tmp_path, "another", **{"paper.yaml": "title: An\n"})
    make_run(outputs, "2026-01-01_00-00-00", state="failed")
    make_run(outputs, "2026-01-02_00-00-00", state="failed", experiment="another")
    for name in ("2026-01-01", "2026-01-02"):
        assert "no checkpoint to go on from" in show_run(find_record(name))
    text = list_runs()
    assert len(names(text)) == 2
    assert "another/paper.yaml: authors is missing" in text
    assert "paper.yaml" not in list_runs(experiment="method")
    assert [c.record.experiment for c in candidates("1d", keep_best=True)] == ["method"]
    main(["clean"])
    warning = capsys.readouterr().err
    assert "another/paper.yaml: authors is missing" in warning
    assert warning.endswith("; the runs of another are kept\n")


def test_a_run_that_is_owned_is_never_cleaned(outputs: Path) -> None:
    directory = make_run(outputs, state="failed", command=["train.py", "--dry-run"])
    with Run(directory, 0):
        assert candidates("2026-06-01") == []
    (found,) = candidates("2026-06-01")
    with Run(directory, 0):  # somebody resumed it while the list was read
        assert not cleaning.delete(found)
    assert directory.exists()


def test_a_run_that_a_result_names_is_never_cleaned(outputs: Path, tmp_path: Path) -> None:
    make_run(outputs, "2026-01-01_00-00-00")
    make_run(outputs, "2026-01-02_00-00-00")
    write_results(tmp_path / "papers" / "method", [row(runs=("2026-01-01_00-00-00",))])
    (found,) = candidates(older_than="30d")
    assert found.record.name == "2026-01-02_00-00-00"


def test_the_best_run_of_a_paper_may_be_kept(outputs: Path) -> None:
    for day, accuracy in ((1, 0.8), (2, 0.9), (3, 0.7)):
        make_run(outputs, f"2026-01-0{day}_00-00-00", metrics={"test/accuracy": accuracy})
    make_run(outputs, "2026-01-04_00-00-00", started=NOW)
    found = candidates(older_than="30d", keep_best=True)
    assert [c.record.name[8:10] for c in found] == ["03", "02", "01"]  # the new one is as good
    make_run(outputs, "2026-01-05_00-00-00", metrics={"test/accuracy": 0.95})
    assert "2026-01-05_00-00-00" not in [c.record.name for c in candidates("30d", keep_best=True)]


def test_nothing_is_deleted_before_it_was_shown(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_run(outputs, state="failed")
    outside = outputs.parent / "precious"
    outside.mkdir()
    (outside / "file").write_text("x")
    (directory / "data").symlink_to(outside)
    main(["clean"])
    assert "nothing is deleted yet" in capsys.readouterr().out
    assert directory.exists()
    main(["clean", "--yes"])
    assert "deleted 1 run" in capsys.readouterr().out
    assert not directory.exists()
    assert (outside / "file").exists()


def test_a_time_that_is_none_is_one_line(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["list", "--since", "yesterday"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: 'yesterday' is no time; expected a date")


def test_the_command_works_and_does_not_wait_for_torch(tmp_path: Path) -> None:
    make_run(get_outputs_dir())
    code = (
        "import sys, runpy; sys.argv = ['runs', 'list']\n"
        "runpy.run_module('common.utils.runs', run_name='__main__', alter_sys=True)\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=get_project_root()
    )
    assert result.returncode == 0, result.stderr
    assert names(result.stdout) == ["2026-01-01_00-00-00"]
