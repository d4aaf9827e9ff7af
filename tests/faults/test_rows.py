"""Every row of the fault list has a test, and every test here says which row it is for.

Read from the source, so that a test that was not collected, or is marked slow, counts too.
"""

import ast
from pathlib import Path

import pytest

from common.utils.paths import get_project_root

FOLDER = Path(__file__).parent
ROWS = set(range(1, 28))


def _rows(decorators: list[ast.expr]) -> set[int]:
    """The rows of ``@pytest.mark.fault(1, 2)`` among a test's decorators."""
    calls = [node for node in decorators if isinstance(node, ast.Call)]
    marks = [node for node in calls if ast.unparse(node.func) == "pytest.mark.fault"]
    return {ast.literal_eval(argument) for node in marks for argument in node.args}


def _tests() -> dict[str, tuple[set[int], bool]]:
    """By name: the rows a test is for, and whether only the long suite runs it."""
    found = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        nodes = ast.parse(path.read_text()).body
        marks = [node.value for node in nodes if isinstance(node, ast.Assign)]  # pytestmark = ...
        of_all = _rows([mark for mark in marks if "pytest.mark.fault" in ast.unparse(mark)])
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                slow = "pytest.mark.slow" in map(ast.unparse, node.decorator_list)
                found[f"{path.name}::{node.name}"] = (
                    of_all | _rows(node.decorator_list),
                    slow,
                )
    return found


@pytest.mark.parametrize("row", sorted(ROWS))
def test_every_row_is_tested_by_the_fast_suite(row: int) -> None:
    assert [name for name, (rows, slow) in _tests().items() if row in rows and not slow]


def test_no_test_is_for_a_row_that_does_not_exist() -> None:
    unknown = {name: rows - ROWS for name, (rows, _) in _tests().items()}
    assert not any(unknown.values()), {name: rows for name, rows in unknown.items() if rows}


def test_nearly_every_test_says_its_row() -> None:
    """Those that say none test the tests: the comparison they stand on, and this list."""
    silent = {name for name, (rows, _) in _tests().items() if not rows}
    assert {name.partition("::")[0] for name in silent} <= {
        "test_rows.py",
        "test_kill.py",
        "test_checkpoint_files.py",
    }, silent


def test_the_page_names_every_row_and_files_that_exist() -> None:
    page = (get_project_root() / "docs" / "faults.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = {int(cell) for line in lines if (cell := line.split("|")[1].strip()).isdigit()}
    assert rows == ROWS
    named = {word for line in lines for word in line.split("`") if word.endswith(".py")}
    assert {path.name for path in FOLDER.glob("test_*.py")} - named == {"test_rows.py"}
    assert all((FOLDER / name).exists() for name in named)
