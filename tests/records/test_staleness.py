"""How far the code has moved: in real repositories."""

from pathlib import Path

from common.records import Paper, write_results
from common.records.staleness import dependencies, report_lines, staleness
from tests.records.examples import commit, git, project, row


def test_what_is_imported_directly_or_not_is_what_a_paper_depends_on(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "unused.py").write_text("")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("")
    (tmp_path / "common" / "deep.py").write_text("def f():\n    from common import deeper\n")
    (tmp_path / "common" / "deeper.py").write_text("import numpy\n")
    (folder / "model.py").write_text("import common.deep\n")
    assert dependencies(Paper.read(folder), tmp_path) == [
        "common/__init__.py",
        "common/deep.py",
        "common/deeper.py",
        "papers/__init__.py",
        "papers/method/__init__.py",
        "papers/method/evaluate.py",
        "papers/method/model.py",
        "papers/method/train.py",
    ]


def test_only_changes_of_what_it_depends_on_make_a_row_stale(tmp_path: Path) -> None:
    folder = project(tmp_path)
    recorded = commit(tmp_path)
    paper, measured = Paper.read(folder), row(commit=recorded)
    assert str(staleness(paper, measured, tmp_path)).endswith("; up to date")
    (folder / "README.md").write_text("other prose\n")
    (folder / "config.yaml").write_text("seed: 1\n")  # not the row's configuration
    commit(tmp_path)
    assert staleness(paper, measured, tmp_path).changed == ()
    (folder / "model.py").write_text("WIDTH = 4\n")
    (folder / "configs" / "full.yaml").write_text("seed: 1\n")
    commit(tmp_path)
    found = staleness(paper, measured, tmp_path)
    assert found.changed == ("papers/method/configs/full.yaml", "papers/method/model.py")
    assert f"verified at commit {recorded[:7]}; 2 files it depends on changed since" in str(found)


def test_a_commit_that_is_not_in_the_clone_is_said(tmp_path: Path) -> None:
    folder = project(tmp_path)
    commit(tmp_path)
    write_results(folder, [row()])
    (line,) = report_lines(tmp_path)
    assert line == "papers.method, full: verified at commit 0123456, which this clone does not hold"


def test_it_is_the_same_from_a_branch_that_was_merged(tmp_path: Path) -> None:
    folder = project(tmp_path)
    commit(tmp_path)
    git(tmp_path, "checkout", "--quiet", "-b", "work")
    (folder / "model.py").write_text("WIDTH = 5\n")
    recorded = commit(tmp_path)
    git(tmp_path, "checkout", "--quiet", "-")
    git(tmp_path, "merge", "--quiet", "--no-ff", "-m", "merge", "work")
    assert staleness(Paper.read(folder), row(commit=recorded), tmp_path).changed == ()


def test_the_first_paper_depends_on_the_engine() -> None:
    from common.records import find_paper
    from common.utils.paths import get_project_root

    files = dependencies(find_paper("attention_is_all_you_need"), get_project_root())
    assert {"common/training/trainer.py", "common/models/attention.py"} <= set(files)
    assert "common/testing/hub.py" not in files
    assert "common/models/resnet.py" in files  # its package imports it


def test_the_site_says_how_stale_each_row_is() -> None:
    from types import SimpleNamespace

    from tools.site_hooks import on_page_markdown

    for uri, is_added in (("papers.md", True), ("runs.md", False)):
        page = SimpleNamespace(file=SimpleNamespace(src_uri=uri))
        text = on_page_markdown("# Page", page=page, config=None, files=None)
        assert text.startswith("# Page")
        assert ("verified at commit 43eda67" in text) == is_added
