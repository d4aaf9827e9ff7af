"""Paths, files, seeds, messages and the log."""

import logging
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.utils import mix_seed, seed_everything, setup_logger
from common.utils.errors import ConfigError, InterruptedRun, UnsafeNameError, exit_on_error
from common.utils.files import atomic_write, atomic_write_text, sha256_file
from common.utils.paths import get_assets_dir, safe_join, validate_name
from common.utils.text import did_you_mean, nearest


@pytest.mark.parametrize("name", ["squad", "bentrevett/multi30k", "a-b_c.1", "run@en-de", "日本"])
def test_plain_names_pass(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "..", "a/../b", "/etc", "a//b", "-rf", ".hidden", "a\\b", "a\0b", "a\nb", "x" * 300]
    + ["a\u202eb", "a/", " a"],
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeNameError):
        validate_name(name)


def test_a_link_does_not_lead_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(UnsafeNameError, match="leads out"):
        safe_join(tmp_path / "root", "link/file")


def test_the_environment_moves_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path / "elsewhere"))
    assert get_assets_dir() == tmp_path / "elsewhere"


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").symlink_to(victim)
    atomic_write_text(tmp_path / "out", "new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "out").is_symlink()
    assert sha256_file(tmp_path / "out") == (
        "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    )


def test_a_seed_repeats_all_generators() -> None:
    def draw() -> tuple[float, float, float]:
        seed_everything(5)
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    assert draw() == draw()


def test_mixed_seeds_are_fixed_for_all_time_and_differ() -> None:
    assert mix_seed(0, 1, 2) == mix_seed(0, 1, 2)
    seeds = {mix_seed(seed, epoch) for seed in range(40) for epoch in range(40)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix_seed(0) == 893442142816765029


def test_the_nearest_name_is_offered() -> None:
    assert nearest("lrr", ["lr", "momentum"]) == "lr"
    assert did_you_mean("lrr", ["lr"]) == "did you mean 'lr'?"
    assert did_you_mean("zzz", ["lr", "eps"]) == "valid: eps, lr"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("bad\nvalue"), 2, "error: bad value"),
        (InterruptedRun("stopped", 15), 143, "interrupted: stopped"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


def test_the_log_file_has_ours_and_the_libraries_records(tmp_path: Path) -> None:
    logger = setup_logger(tmp_path / "logs" / "train.log", level="WARNING")
    logger.info("ours")
    logging.getLogger("some.library").info("theirs")
    logging.getLogger("datasets").info("chatter")
    setup_logger()
    text = (tmp_path / "logs" / "train.log").read_text()
    assert "ours" in text
    assert "theirs" in text
    assert "chatter" not in text


def test_a_tool_does_not_wait_for_torch() -> None:
    code = "import sys, common.utils, common.utils.paths, common.utils.files; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False"
