"""The page on diagnostics runs from top to bottom, and what it prints is what it says."""

import re
from pathlib import Path
from typing import Any

import pytest

from common.utils.paths import get_project_root

PAGE = (get_project_root() / "docs" / "diagnostics.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks("python"):
        exec(compile(block, "diagnostics.md", "exec"), names)
    printed = capsys.readouterr().out
    (table,) = blocks("text")
    assert table.strip() in printed
    run = names["run"].directory
    lines = (run / "metrics.jsonl").read_text()
    assert "gradient_noise_scale" in lines
    assert "update_ratio/net.2" in lines
    for file in (tmp_path / "lr_range" / "lr_plot.png", run / "profile" / "trace.json"):
        assert file.stat().st_size > 1_000
    assert names["trainer"].metrics["validation/loss"] < 0.5  # the rate of the valley trains
