"""The READMEs of the projects say what their records say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.utils.errors import ConfigError, DataError
from tools.record_project import CLASSIFICATION, MATCHING, PROJECTS, Project


@pytest.mark.parametrize("project", PROJECTS)
def test_the_readme_is_what_the_records_say(project: Project) -> None:
    text = (project.home / "README.md").read_text(encoding="utf-8")
    assert "<!-- results -->" in text
    assert project.page(text) == text


def _made_by(dirty: bool) -> dict[str, object]:
    return {
        "command": ["/somewhere/bin/ml-train", "--fold", "all"],
        "code": {"commit": "a" * 40, "dirty": dirty},
        "versions": {},
        "hardware": {},
        "seed": 0,
    }


def _summary(dirty: bool) -> dict[str, object]:
    interval = {"low": 0.8, "high": 0.9}
    return {
        "made_by": _made_by(dirty),
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


def test_a_record_becomes_a_row(tmp_path: Path) -> None:
    tool = replace(CLASSIFICATION, home=tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(_summary(dirty=False)))
    tool.record(tmp_path, "pets", "pets of a test")
    assert "| pets of a test | 0.8500 ± 0.0700 (n=2) |" in tool.table()
    assert "`ml-train --fold all`, aaaaaaaaa" in tool.table()


def test_a_session_of_product_matching_becomes_a_row(tmp_path: Path) -> None:
    spread = {"mean": 0.9, "deviation": 0.01}
    pooled = {"f_score": 0.8, "interval": {"low": 0.75, "high": 0.85}}
    folds = {str(n): {"oracle": {"f_score": 0.82 + n / 50}} for n in range(2)}
    program = "/somewhere/projects/product_matching/run.py"
    metrics = {
        "made_by": {**_made_by(dirty=False), "command": [program, "seed=1"]},
        "matching": {"image": {"pooled": pooled, "folds": folds}},
        "retrieval": {"spread": {"precision_at_1": spread, "map_at_r": spread}},
        "data": {"items": 10},
        "beta": 1.0,
        "min_matches": 1,
    }
    tool = replace(MATCHING, home=tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    tool.record(tmp_path, "digits", "digits of a test")
    row = tool.table().splitlines()[-1]
    assert row == (
        "| digits of a test | 0.9000 ± 0.0100 | 0.9000 ± 0.0100 | 0.8000 (0.7500 to 0.8500) by image "
        "| 0.8300 |  | `python -m projects.product_matching.run seed=1`, aaaaaaaaa |"
    )


def test_what_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    tool = replace(CLASSIFICATION, home=tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(_summary(dirty=True)))
    with pytest.raises(ConfigError, match="in no commit"):
        tool.record(tmp_path, "pets", "pets")
    with pytest.raises(DataError, match="no finished record"):
        tool.record(tmp_path / "nowhere", "pets", "pets")
