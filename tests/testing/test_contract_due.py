"""A change makes the contract due of whoever depends on what changed."""

import subprocess
from pathlib import Path

import pytest

from common.testing.contract_due import changed_files, due
from common.testing.contract_subject import find_subjects
from common.utils.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four papers, one of which builds on another that builds on a third."""
    for name, text in {
        "papers/first/model.py": "x = 1\n",
        "papers/second/model.py": "from papers.first.model import x\n",
        "papers/third/model.py": "from papers import second\n",
        "papers/other/model.py": "import torch\n",
        "papers/__pycache__/old.pyc": "",
        "common/losses.py": "",
        "docs/page.md": "",
        "tests/papers/test_other.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("papers/first/model.py", {"first", "second", "third"}),
        ("papers/second/README.md", {"second", "third"}),
        ("papers/other/configs/new.yaml", {"other"}),
        ("tests/papers/test_other.py", {"other"}),
        ("common/losses.py", {"first", "second", "third", "other"}),
        ("pyproject.toml", {"first", "second", "third", "other"}),
        ("docs/page.md", set()),
    ],
)
def test_who_is_due(root: Path, changed: str, expected: set[str]) -> None:
    assert {subject.name for subject in due(find_subjects(root), [changed])} == expected


def test_what_changed_is_what_git_says_and_what_it_does_not_know_yet(root: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)

    git("init", "-q")
    git("add", "papers", "common", "docs")
    git("commit", "-qm", "first")
    (root / "papers/first/model.py").write_text("x = 2\n")
    git("commit", "-qam", "second")
    (root / "docs/page.md").write_text("changed\n")
    assert changed_files("HEAD~1", root) == [
        "docs/page.md",
        "papers/first/model.py",
        "tests/papers/test_other.py",
    ]
    assert changed_files("HEAD", root) == ["docs/page.md", "tests/papers/test_other.py"]
    for reference in ("nonsense", "--output=x"):
        with pytest.raises(InputError, match=reference):
            changed_files(reference, root)
