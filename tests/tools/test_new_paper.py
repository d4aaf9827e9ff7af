"""``tools/new_paper.py`` makes a paper that passes, or says in one line why it makes none."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.testing.paper_contract import STATIC
from common.utils.paths import get_project_root

ROOT = get_project_root()
PAGE = (ROOT / "docs" / "add_a_paper.md").read_text(encoding="utf-8")
COPIED = ("common", "docs", "papers", "projects", "tests", "tools", "pyproject.toml", "README.md")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the repository, which a newcomer may change."""
    for name in COPIED:
        source, target = ROOT / name, tmp_path / "tree" / name
        if source.is_dir():
            # With compiled files, which a newcomer has after the first command.
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(".*"))
        else:
            shutil.copy2(source, target)
    return tmp_path / "tree"


def run(tree: Path, command: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", command.replace("python ", f"{sys.executable} ", 1)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "ASSETS_DIR": str(tree / "assets")}
    environment["GIT_CEILING_DIRECTORIES"] = str(tree.parent)
    return subprocess.run(words, cwd=tree, env=environment, capture_output=True, text=True)


def commands(project: bool = False) -> list[str]:
    """The commands of the page, for a paper or for a project (of another name)."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    found = [line for block in blocks for line in block.splitlines()]
    if not project:
        return found
    found = [line.replace("--arxiv 1801.07698", "--project") for line in found]
    found = [line.replace("my_method", "my_project") for line in found]
    return [line.replace("papers.", "projects.").replace("papers/", "projects/") for line in found]


@pytest.mark.timeout(600)
def test_a_new_paper_and_a_new_project_pass_their_contract_unchanged(tree: Path) -> None:
    """Every clause that looks at names, and one run of each with its evaluation.

    That a run resumes, repeats itself and overfits is the template's own (``tests/test_papers.py``);
    all clauses of a copy: ``pytest -n 0 -m slow tests/tools/test_new_paper.py``.
    """
    made = {"papers.my_method": commands(), "projects.my_project": commands(project=True)}
    for module, (scaffold, *others) in made.items():
        done = run(tree, scaffold)
        assert done.returncode == 0, done.stderr
        assert f"python -m {module}.train" in done.stdout
        assert f"python -m common.testing.paper_contract {module}" in others
    chosen = " ".join(f"--clause {clause}" for clause in (*STATIC, "facts", "smoke", "evaluate"))
    kept = run(tree, f"python -m common.testing.paper_contract {' '.join(made)} {chosen}")
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert kept.stdout.count("kept") == 2 * 9
    for module in made:
        text = "".join(
            p.read_text()
            for p in tree.joinpath(*module.split(".")).rglob("*")
            if p.is_file() and p.suffix != ".pyc"
        )
        assert not re.search(
            r"_template|TemplateTask|A Template|1801\.00000|reprise-template", text
        )
        assert ("arxiv" in text) is module.startswith("papers.")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("project", [False, True], ids=["paper", "project"])
def test_the_page_runs_as_it_is_written(tree: Path, project: bool) -> None:
    (tree / ".gitignore").write_text("__pycache__\nassets\n")
    commit = "git add -A . && git -c user.name=a -c user.email=a@b.org commit -qm now"
    assert run(tree, f"git init -q && {commit}").returncode == 0
    module = "projects.my_project" if project else "papers.my_method"
    for command in commands(project):
        if "record_result.py RUN " in command:  # a run of committed code
            assert run(tree, f"{commit} && python -m {module}.train").returncode == 0
            outputs = tree / "assets" / "outputs" / module.partition(".")[2]
            runs = sorted(p.name for p in outputs.iterdir())
            command = command.replace("RUN", runs[-1])
        done = run(tree, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_what_is_made_is_formatted_whatever_its_name(tree: Path) -> None:
    pytest.importorskip("black")
    names = ["xl", "zebra_crossing_of_many_stripes", "neural_ode", "m2"]
    for name in names:
        made = run(
            tree,
            f"python tools/new_paper.py --name {name} --arxiv 0706.1234 --title 'On {name}: 3/4'",
        )
        assert made.returncode == 0, made.stderr
    folders = [f"papers/{name} tests/papers/test_{name}.py" for name in names]
    for tool in ("black --check -q", "ruff check -q", "ruff format --check -q"):
        done = run(tree, f"python -m {tool} {' '.join(folders)}")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--name Resnet", "lower-case"),
        ("--name 2net", "a letter first"),
        ("--name ../x", "plain name"),
        ("--name " + "x" * 31, "at most 30"),
        ("--name class", "Python language"),
        ("--name match", "Python language"),
        ("--name json", "module already"),
        ("--name common", "module already"),
        ("--name torch", "module already"),
        ("--name trainer", "class Trainer"),
        ("--name attention_is_all_you_need", "taken by papers/"),
        ("--name attention_is_all_you_need --project", "taken by papers/"),
        ("--name _template", "lower-case"),
        ("--name fine --arxiv 1813.00001", "arXiv id"),
        ("--name fine --arxiv 1801.1234", "arXiv id"),
        ("--name fine --arxiv 0706.12345", "arXiv id"),
        ("--name fine --arxiv 9901.00001", "arXiv id"),
        ("--name fine --arxiv hep-th/9901001", "arXiv id"),
        ('--name fine --title \'"""\'', "no title"),
        ("--name fine --title ''", "no title"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(words: str, message: str) -> None:
    before = _listing()
    title = "" if "--title" in words else "--title 'A B'"
    arxiv = "" if "--arxiv" in words or "--project" in words else "--arxiv 1801.07698"
    done = run(ROOT, f"python tools/new_paper.py {words} {title} {arxiv}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert _listing() == before


def test_a_paper_needs_an_arxiv_id() -> None:
    done = run(ROOT, "python tools/new_paper.py --name fine --title 'A B'")
    assert done.returncode == 2
    assert "--arxiv is missing" in done.stderr


def test_nothing_is_left_where_the_folder_cannot_be_made(tree: Path) -> None:
    (tree / "tests" / "papers" / "test_fine.py").touch()
    before = _listing(tree)
    command = "python tools/new_paper.py --name fine --arxiv 1801.07698 --title 'A B'"
    done = run(tree, command)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert _listing(tree) == before


def _listing(root: Path = ROOT) -> set[str]:
    homes = ("papers", "projects", "tests/papers", "tests/projects")
    found = (path for home in homes for path in (root / home).glob("[!_]*"))
    return {path.relative_to(root).as_posix() for path in found}
