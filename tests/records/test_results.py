"""``results.json``, verdicts and statuses."""

import json
import statistics
from pathlib import Path

import pytest

from common.records import (
    Measurement,
    Paper,
    Standing,
    Status,
    Verdict,
    add_row,
    judge,
    read_results,
    write_results,
)
from common.utils.errors import ConfigError
from tests.records.examples import PAPER, project, row


def test_a_measurement_is_mean_and_sample_deviation() -> None:
    values = [0.91, 0.93, 0.95]
    measured = Measurement.of(values)
    assert measured.mean == pytest.approx(statistics.mean(values))
    assert measured.std == pytest.approx(0.02)
    assert Measurement.of([0.5]) == Measurement(0.5, None, (0.5,))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = [row(), row(name="three", seeds=(0, 1), metrics={"m": Measurement.of([1.0, 2.0])})]
    write_results(tmp_path, rows)
    assert read_results(tmp_path) == rows


def test_the_same_experiment_replaces_and_another_joins(tmp_path: Path) -> None:
    assert add_row(tmp_path, row()) is None
    assert add_row(tmp_path, row(name="again")) == row()
    assert add_row(tmp_path, row(seeds=(1,))) is None
    assert add_row(tmp_path, row(commit="f" * 40)) is None
    assert [r.name for r in read_results(tmp_path)] == ["again", "full", "full"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("commit", "43eda67", "row 1: commit is '43eda67', expected 40 hex digits"),
        ("scale", "small", "row 1: scale is 'small', expected 'full' or 'reduced: ...'"),
        ("seeds", [], "row 1: seeds is"),
        ("metrics", {"m": 0.5}, r"row 1: metrics\.m is no mean, std and 1 values"),
        ("metrics", {"m": {"mean": 0.6, "std": None, "values": [0.5]}}, "but its values give"),
        ("typo", 1, "row 1: unknown key 'typo'"),
    ],
)
def test_a_damaged_row_is_one_line(tmp_path: Path, key: str, value: object, message: str) -> None:
    write_results(tmp_path, [row()])
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    content[0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("accuracy", "scale", "verdict"),
    [
        (0.895, "full", Verdict.REPRODUCED),  # exactly the tolerance away
        (0.905, "full", Verdict.REPRODUCED),
        (0.8949, "full", Verdict.DIFFERS),
        (0.92, "full", Verdict.DIFFERS),  # better is another result, too
        (0.9, "reduced: one epoch", Verdict.REDUCED),
    ],
)
def test_a_claim_is_judged_by_its_tolerance(
    tmp_path: Path, accuracy: float, scale: str, verdict: Verdict
) -> None:
    (claim,) = Paper.read(project(tmp_path)).claims
    measured = row(metrics={"test/accuracy": Measurement.of([accuracy])}, scale=scale)
    judgement = judge(claim, [measured])
    assert judgement.verdict is verdict
    assert (judgement.gap is None) == (verdict is Verdict.REDUCED)


def test_a_claim_is_not_judged_by_another_configuration(tmp_path: Path) -> None:
    (claim,) = Paper.read(project(tmp_path)).claims
    assert judge(claim, [row(config="config.yaml")]).verdict is Verdict.NOT_RUN


def test_a_full_row_counts_more_than_a_later_reduced_one(tmp_path: Path) -> None:
    (claim,) = Paper.read(project(tmp_path)).claims
    assert judge(claim, [row(), row(scale="reduced: x")]).verdict is Verdict.REPRODUCED


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([], Status.RUNS),
        ([row(config="config.yaml", scale="reduced: digits")], Status.TRAINED),
        ([row(scale="reduced: one epoch")], Status.TRAINED),
        ([row()], Status.REPRODUCED),
        ([row(metrics={"test/accuracy": Measurement.of([0.5])})], Status.DIFFERS),
    ],
)
def test_a_status_is_earned(tmp_path: Path, rows: list, status: Status) -> None:
    folder = project(tmp_path)
    write_results(folder, rows)
    assert Standing.of(Paper.read(folder)).status is status


@pytest.mark.parametrize("metric", ["parameters", "parameters/trained"])
def test_a_parameter_count_alone_reproduces_nothing(tmp_path: Path, metric: str) -> None:
    text = PAPER.replace("metric: test/accuracy, value: 0.9", f"metric: {metric}, value: 1234567")
    folder = project(tmp_path, **{"paper.yaml": text})
    write_results(folder, [row(metrics={"parameters/trained": Measurement.of([1234567])})])
    standing = Standing.of(Paper.read(folder))
    assert standing.judgements[0].verdict is Verdict.REPRODUCED
    assert standing.status is Status.TRAINED


def test_without_what_the_contract_needs_it_is_a_draft(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "evaluate.py").unlink()
    assert Standing.of(Paper.read(folder)).status is Status.DRAFT
