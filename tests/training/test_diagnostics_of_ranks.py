"""The diagnostics that sum over processes give, on two, the numbers of one."""

import json
from pathlib import Path

import pytest

from common.testing.trials import TrialServer
from tests.training.conftest import run_two_ranks
from tests.training.test_gradient_callbacks import linear_data

MEASURE = "tests.training.diagnostics_of_ranks:measure"


def test_two_processes_measure_what_one_does(forked: TrialServer, tmp_path: Path) -> None:
    forked.run(MEASURE, out=str(tmp_path / "1.json"))
    run_two_ranks(forked, MEASURE, out=str(tmp_path / "2.json"))
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["valley"] == one["valley"]

    _, gradients = linear_data(12)
    rows = [range(0, 7, 2), range(1, 7, 2), range(7, 12, 2), range(8, 12, 2)]
    whole = gradients.mean(axis=0)
    trace = sum(len(r) * ((gradients[list(r)].mean(axis=0) - whole) ** 2).sum() for r in rows) / 3
    squared = (whole**2).sum() - trace / 12
    assert two["means"] == pytest.approx([trace, squared], rel=1e-5)
