"""``ml-lr-finder``: the record it leaves, the line it prints, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.image_classification.cli.lr_finder import main as ml_lr_finder
from projects.image_classification.cli.train import main as ml_train
from tests.projects.image_classification.small_photos import write_photos

CONFIG = ["--config", "config.yaml"]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record() -> Path:
    (found,) = Path("runs").glob("lr_finder_*")
    return found


def test_a_sweep_leaves_a_picture_its_numbers_its_log_and_its_configuration(capsys):
    ml_lr_finder([*CONFIG, "--num_iter", "40", "--end_lr", "10", "--diverge_threshold", "9"])
    directory = record()
    names = {path.name for path in directory.iterdir()}
    assert {"lr_plot.png", "results.json", "lr_finder.log", "config.yaml"} <= names
    results = json.loads((directory / "results.json").read_text())
    rates = results["rates"]
    assert rates[0] == pytest.approx(1e-7)
    assert rates[1] / rates[0] == pytest.approx((10 / 1e-7) ** (1 / 39))
    assert len(rates) == len(results["losses"]) == len(results["smoothed"]) <= 40
    assert "18 train" in (directory / "lr_finder.log").read_text()
    with Image.open(directory / "lr_plot.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5, "something is drawn"
    assert f"record: {directory}" in capsys.readouterr().out


def test_the_line_it_prints_trains_at_the_rate_it_found(capsys):
    ml_lr_finder([*CONFIG, "--num_iter", "60", "--fold", "2", "optimizer.betas=[0.8,0.9]"])
    last = capsys.readouterr().out.splitlines()[-1]
    results = json.loads((record() / "results.json").read_text())
    found = results["valley"] or results["steepest"]
    assert last.startswith(f"ml-train --config config.yaml --lr {found:.2e} ")
    words = [word.strip("'") for word in last.split()[1:]]
    ml_train([*words])
    (run,) = Path("runs").glob("small_*_fold_2")
    text = (run / "config.yaml").read_text()
    assert f"lr: {float(f'{found:.2e}')!r} " in text
    assert "betas: [0.8, 0.9]" in text


def test_the_same_sweep_twice_sees_the_same_losses():
    losses = []
    for _ in range(2):
        ml_lr_finder([*CONFIG, "--num_iter", "12"])
        directory = record()
        losses.append(json.loads((directory / "results.json").read_text())["losses"])
        directory.rename(directory.with_name(f"done_{len(losses)}"))
    assert losses[0] == losses[1]


def test_a_sweep_that_finds_nothing_says_why(capsys):
    ml_lr_finder([*CONFIG, "--num_iter", "4"])
    out = capsys.readouterr().out
    assert "valley         none" in out
    assert "too few for a suggestion" in out
    assert "ml-train" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config is missing"),
        (["--config", "none.yaml"], "no configuration at none.yaml"),
        ([*CONFIG, "--start_lr", "0"], "expected 0 < start_lr < end_lr"),
        ([*CONFIG, "--start_lr", "2"], "expected 0 < start_lr < end_lr"),
        ([*CONFIG, "--end_lr", "inf"], "expected 0 < start_lr < end_lr"),
        ([*CONFIG, "--num_iter", "0"], "expected at least 1"),
        ([*CONFIG, "--num_iter", "many"], "invalid int value"),
        ([*CONFIG, "--beta", "1"], "expected a value in [0, 1)"),
        ([*CONFIG, "--beta", "nan"], "expected a value in [0, 1)"),
        ([*CONFIG, "--diverge_threshold", "1"], "expected more than 1"),
        ([*CONFIG, "--fold", "7"], "the folds in data/small/splits: 0, 1, 2"),
        ([*CONFIG, "--num_iterations", "3"], "did you mean --num_iter"),
        ([*CONFIG, "optimizer.name=adamm"], "adamm"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        ml_lr_finder(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert len([line for line in message.splitlines() if line.startswith("error")]) == 1
    assert "Traceback" not in message
    assert not list(Path("runs").glob("*")) if Path("runs").exists() else True


def test_the_help_imports_no_library_and_shows_examples():
    code = (
        "import sys\n"
        "from projects.image_classification.cli.lr_finder import parser\n"
        "assert 'ml-lr-finder --config' in parser().format_help()\n"
        "assert not {'torch', 'matplotlib', 'hydra'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
