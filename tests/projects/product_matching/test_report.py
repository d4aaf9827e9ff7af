"""How the report and the last lines of a session name what was measured."""

from pathlib import Path
from typing import Any

import pytest
import torch

from projects.product_matching.core import report
from projects.product_matching.core.evaluation import judge_folds
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.training import FoldOutcome
from tests.projects.product_matching.sessions import composed


@pytest.mark.parametrize("k", [3, 5])
def test_every_measure_of_retrieval_has_a_name(
    k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"{row}.png" for row in range(8))
    blank = ("",) * 8
    items = Items(names, blank, tuple("aabbccdd"), blank, blank, "made up")
    embeddings = torch.eye(4).repeat_interleave(2, 0)
    retrieval = {"precision_at_1": 1.0, "gallery_accuracy": 0.5, f"gallery_hit_at_{k}": 0.75}
    outcomes = {0: FoldOutcome(tmp_path, items, embeddings, retrieval, {})}
    config = composed()[0]
    judged = judge_folds({0: items}, {0: embeddings}, None, config)
    monkeypatch.setattr(report, "_made_by", lambda _: {})
    facts: dict[str, Any] = {
        "origin": "made up",
        "items": 8,
        "labels": 4,
        "alone": 0,
        "unreadable": 0,
    }
    metrics = report.write_report(tmp_path, config, outcomes, judged, facts)
    assert metrics["retrieval"]["folds"]["0"] == retrieval  # for programs, as they are called
    text = (tmp_path / "report.md").read_text()
    table = report.summary_table(metrics)
    for shown in (text, table):
        assert f"hit@{k} against what was trained on" in shown
        assert "gallery_" not in shown
