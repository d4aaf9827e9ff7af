"""The README of the image classification says what the records say."""

import json
from pathlib import Path

import pytest

from common.utils.errors import ConfigError, DataError
from tools import record_classification as tool


def test_the_readme_is_what_the_records_say() -> None:
    text = (tool.HOME / "README.md").read_text(encoding="utf-8")
    assert tool.page(text) == text


def _summary(dirty: bool) -> dict[str, object]:
    interval = {"low": 0.8, "high": 0.9}
    return {
        "made_by": {
            "command": ["/somewhere/bin/ml-train", "--fold", "all"],
            "code": {"commit": "a" * 40, "dirty": dirty},
            "versions": {},
            "hardware": {},
            "seed": 0,
        },
        "out_of_fold": {
            "spread": {"accuracy": {"values": [0.8, 0.9], "mean": 0.85, "deviation": 0.07}},
            "pooled": {"accuracy": 0.85, "interval": interval},
        },
        "test": {
            "images": 10,
            "accuracy_of_folds": [0.8, 0.9],
            "ensemble": {"accuracy": 0.9, "interval": interval, "macro": {"f1": 0.9}},
        },
    }


def test_a_record_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "HOME", tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(_summary(dirty=False)))
    tool.record(tmp_path, "pets", "pets of a test")
    assert "| pets of a test | 0.8500 ± 0.0700 (n=2) |" in tool.table()
    assert "`ml-train --fold all`, aaaaaaaaa" in tool.table()


def test_what_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(_summary(dirty=True)))
    with pytest.raises(ConfigError, match="in no commit"):
        tool.record(tmp_path, "pets", "pets")
    with pytest.raises(DataError, match="no finished record"):
        tool.record(tmp_path / "nowhere", "pets", "pets")
