"""``ml-split`` as a person meets it: a process, its exit code, and what it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from projects.image_classification.cli.split import main
from projects.image_classification.core.folder.demo import write_demo
from projects.image_classification.core.folder.split_files import read_split
from tests.projects.image_classification.photos import write_photos

COMMAND = [sys.executable, "-m", "projects.image_classification.cli.split"]
ROOT = Path(__file__).parents[3]


def ml_split(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [*COMMAND, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_digits_are_unpacked_split_and_reported(tmp_path: Path):
    done = ml_split(tmp_path, "--dataset", "embedded/digits", "--folds", "3")
    assert done.returncode == 0, done.stderr
    assert "1,797" in done.stdout
    assert "written: " in done.stdout
    split = read_split(tmp_path / "data" / "digits")
    assert split.class_names == tuple("0123456789")
    assert len(split.folds) == 3
    assert all(re.fullmatch(r"raw/\d/test_\d{6}\.png", name) for name in split.test)


def test_help_has_examples_and_imports_no_pytorch(tmp_path: Path):
    done = ml_split(tmp_path, "--help")
    assert done.returncode == 0
    assert "ml-split --raw_data data/pets/raw --folds 5" in done.stdout
    code = (
        "import sys, projects.image_classification.cli.split\n"
        "print(sorted({'torch', 'sklearn', 'matplotlib', 'PIL', 'datasets'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --raw_data"),
        (("--raw_data", "nowhere"), "does not exist"),
        (("--raw_data", "empty"), "has no images in class folders"),
        (("--raw_data", "pets"), "did you mean"),
        (("--raw_data", "pets/raw", "--folds", "0"), "--folds is 0, expected 1"),
        (("--raw_data", "pets/raw", "--folds", "x"), "--folds: invalid int value: 'x'"),
        (("--raw_data", "pets/raw", "--fold", "3"), "did you mean --folds"),
        (("--raw_data", "pets/raw", "--test_share", "2"), "--test-share is 2.0"),
        (("--raw_data", "pets/raw", "--folds", "6"), "at most --folds 5 is possible"),
        (("--raw_data", "pets/raw", "--test-share", "2"), "--test-share is 2.0"),
        (("--raw_data", "pets/raw", "--group-by", r"p(\d+)x"), "does not match 12 of the 12"),
        (("--raw_data", "pets/raw", "--on-bad", "fail"), "raw/cat/bad.jpg: empty file"),
        (("--dataset", "embedded/dates"), "expected images with labels"),
        (("--dataset", "embedded/digit"), "did you mean 'embedded/digits'"),
        (("--dataset", "../x"), "is not a plain name"),
        (("--dataset", "embedded/digits", "--raw_data", "pets/raw"), "does not come from"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    write_photos(tmp_path / "pets" / "raw", {"cat": 7, "dog": 5})
    (tmp_path / "pets" / "raw" / "cat" / "bad.jpg").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ml-split", *words])
    monkeypatch.setattr("common.utils.logging.setup_logger", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert not list((tmp_path / "pets").glob("splits/*"))


def test_the_demo_is_written_once(tmp_path: Path):
    raw = write_demo(tmp_path / "digits")
    files = sorted(raw.rglob("*.png"))
    assert len(files) == 1797
    assert sorted(path.name for path in raw.iterdir()) == list("0123456789")
    before = [path.stat().st_mtime_ns for path in files]
    assert write_demo(tmp_path / "digits") == raw
    assert [path.stat().st_mtime_ns for path in files] == before
    source = json.loads((tmp_path / "digits" / "source.json").read_text())
    assert source["dataset"] == "embedded/digits"
    assert sum(source["images"].values()) == 1797
