"""Every paper keeps the contract (``common/testing/paper_contract.py``).

Clauses that are read off the files are a test each. Those that run the paper share its runs, so they
are one test, which names every clause that is broken.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.testing.contract_runs import RUNNING, contract_server
from common.testing.contract_subject import Subject, find_subjects
from common.testing.paper_contract import STATIC, check, check_static
from common.testing.trials import TrialServer
from common.utils.paths import get_project_root

SUBJECTS = {subject.module: subject for subject in find_subjects()}


@pytest.fixture(scope="session")
def server() -> Iterator[TrialServer]:
    with contract_server(get_project_root()) as forking:
        yield forking


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
@pytest.mark.parametrize("clause", STATIC)
def test_contract(subject: Subject, clause: str) -> None:
    outcome = check_static(subject, clause)
    assert not outcome.problems, str(outcome)


@pytest.mark.timeout(600)  # a machine that is busy with other tests
@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_contract_of_the_runs(subject: Subject, server: TrialServer, tmp_path: Path) -> None:
    outcomes = list(check(subject, list(RUNNING), server, tmp_path))
    broken = [str(outcome) for outcome in outcomes if outcome.problems]
    assert not broken, "\n".join(broken)
    assert [outcome.clause for outcome in outcomes] == list(RUNNING)
