"""The contract itself: copies of the template that are broken in one way break one clause."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import papers
from common.testing.contract_runs import contract_server
from common.testing.contract_subject import Subject, choose_subjects, find_subjects
from common.testing.paper_contract import CLAUSES, Outcome, check, check_static, main
from common.testing.trials import TrialServer
from common.utils.errors import InputError
from common.utils.paths import get_project_root

ROOT = get_project_root()
TRAIN = "python -m papers.{name}.train"
LOSS = 'F.cross_entropy(logits, batch["label"])'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own, which shares ``common`` with this one."""
    place = tmp_path_factory.mktemp("repository")
    for name in ("common", "tools", "pyproject.toml"):
        (place / name).symlink_to(ROOT / name)
    for folder in ("papers", "tests/papers"):
        (place / folder).mkdir(parents=True)
    (place / "papers" / "__init__.py").touch()
    return place


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[TrialServer]:
    with contract_server(root) as forking:
        yield forking


def copy_of_template(
    root: Path, name: str, file: str = "", old: str = "", new: str = ""
) -> Subject:
    """``papers/<name>`` with one text of one file replaced; ``{name}`` stands for the name."""
    folder = root / "papers" / name
    shutil.copytree(
        ROOT / "papers" / "_template", folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    tests = root / "tests" / "papers" / f"test_{name}.py"
    shutil.copy(ROOT / "tests" / "papers" / "test_template.py", tests)
    for path in [*folder.rglob("*.*"), folder / "docker" / "Dockerfile", tests]:
        if path.is_file():
            path.write_text(path.read_text().replace("_template", name))
    if file:
        path = tests if file == "tests" else folder / file
        text, old, new = path.read_text(), old.format(name=name), new.replace("{name}", name)
        assert old in text
        path.write_text(text.replace(old, new, 1))
    return Subject(root, "papers", name)


def shorten_smoke(subject: Subject) -> Subject:
    """A smoke run that evaluates once and logs to no service: it draws and imports less."""
    path = subject.folder / "paper.yaml"
    short = "smoke: [trainer.max_steps=40, trainer.eval_every=40, 'trainer.loggers=[]',"
    text = path.read_text()
    long = "smoke: [trainer.max_steps=40, trainer.eval_every=20,"
    assert long in text
    path.write_text(text.replace(long, short))
    return subject


@pytest.fixture
def importable(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(root / "papers")])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("papers."):
            del sys.modules[name]


STATIC_FAULTS = {
    "unknown_key_in_a_command": ("readme", "README.md", TRAIN, TRAIN + " optim.rl=1", "optim.rl"),
    "unknown_option": ("readme", "README.md", TRAIN, TRAIN + " --confg x", "--config"),
    "missing_module": ("readme", "README.md", TRAIN, TRAIN + "s", "there is no module"),
    "missing_config": ("readme", "README.md", "fashion_mnist.yaml", "mnist.yaml", "mnist.yaml"),
    "unknown_option_of_a_tool": ("readme", "README.md", "--name", "--nom", "--nom"),
    "command_in_a_header": ("readme", "config.yaml", TRAIN, TRAIN + " sed=1", "config.yaml:2"),
    "unknown_key_in_a_file": ("configs", "config.yaml", "d_hidden", "d_hiden", "model.d_hiden"),
    "path_of_a_machine": ("configs", "config.yaml", "seed: 0", "# /home/me/x\nseed: 0", "/home/me"),
    "header_without_command": (
        "configs",
        "configs/fashion_mnist.yaml",
        "--config configs/fashion_mnist.yaml",
        "",
        "header",
    ),
    "no_docstring": ("files", "dataset.py", '"""The images', 'x = """The images', "docstring"),
    "unknown_key_in_the_card": ("files", "paper.yaml", "year", "yaer", "year"),
    "no_smoke": ("files", "paper.yaml", "smoke", "# smoke", "no smoke"),
    "ratio_of_one": ("files", "paper.yaml", "ratio: 0.2", "ratio: 1.5", "overfit.ratio"),
    "relative_import": ("independence", "train.py", "papers.{name}.model", ".model", "relative"),
    "import_of_a_paper": (
        "independence",
        "dataset.py",
        "import torch",
        "import torch\nfrom papers.gpt2 import model",
        "builds_on: [gpt2]",
    ),
    "import_of_a_test": ("independence", "dataset.py", "import torch", "import tests", "tests"),
    "another_table": ("results", "README.md", "Nothing is recorded", "0.99 is", "make_index"),
    "claim_without_config": (
        "results",
        "paper.yaml",
        "claims: []",
        "claims: [{name: a, metric: test/accuracy, value: 0.9, where: Table 1, tolerance: 0.1, "
        "config: configs/none.yaml}]",
        "configs/none.yaml",
    ),
    "latest": ("docker", "docker/Dockerfile", "3.11.7-slim-bookworm", "latest", "fixed version"),
    "any_uv": ("docker", "docker/Dockerfile", "uv==0.13.9", "uv", "fixed version"),
    "secret": ("docker", "docker/Dockerfile", "ENV PATH=", "ENV HF_TOKEN=x PATH=", "HF_TOKEN"),
    "piped": (
        "docker",
        "docker/Dockerfile",
        "RUN uv sync",
        "RUN curl https://example.org/i.sh | sh && uv sync",
        "what a server sends",
    ),
    "copies_all": ("docker", "docker/Dockerfile", "COPY common common", "COPY . .", "copies ."),
    "extra": ("docker", "docker/Dockerfile", "--no-dev", "--extra none", "--extra none"),
    "other_command": ("docker", "docker/Dockerfile", '.train"]', '.evaluate"]', "last line"),
}


@pytest.mark.parametrize("fault", STATIC_FAULTS)
def test_a_fault_in_a_file_breaks_its_clause(root: Path, importable: None, fault: str) -> None:
    clause, file, old, new, found = STATIC_FAULTS[fault]
    subject = copy_of_template(root, f"broken_{fault}", file, old, new)
    outcome = check_static(subject, clause)
    assert outcome.problems
    message = str(outcome)
    assert found in message
    assert message.startswith(f"papers.broken_{fault} breaks the clause '{clause}': ")
    assert f"--clause {clause}" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["README.md", "results.json", "evaluate.py", "paper.yaml"])
def test_a_file_that_is_missing_is_named(root: Path, name: str) -> None:
    subject = copy_of_template(root, f"without_{name.replace('.', '_').lower()}")
    (subject.folder / name).unlink()
    assert f"{name} is missing" in check_static(subject, "files").problems


def broken(outcomes: Iterator[Outcome]) -> dict[str, str]:
    return {outcome.clause: str(outcome) for outcome in outcomes if outcome.problems}


def test_a_loss_that_does_not_fall_breaks_smoke_and_overfit(
    root: Path, server: TrialServer, tmp_path: Path
) -> None:
    still = LOSS.replace("logits", "logits.detach() + 0 * logits")
    subject = shorten_smoke(copy_of_template(root, "still", "model.py", LOSS, still))
    clauses = ["facts", "overfit", "smoke", "evaluate"]
    found = broken(check(subject, clauses, server, tmp_path))
    assert found.keys() == {"smoke", "overfit"}
    assert "expected a fall" in found["smoke"]


def test_another_number_of_evaluate_breaks_evaluate(
    root: Path, server: TrialServer, tmp_path: Path
) -> None:
    old = "report(metrics, context)"
    new = "report({k: v + 1e-4 for k, v in metrics.items()}, context)"
    subject = shorten_smoke(copy_of_template(root, "other_number", "evaluate.py", old, new))
    found = broken(check(subject, ["smoke", "evaluate"], server, tmp_path))
    assert found.keys() == {"evaluate"}
    assert "test/accuracy" in found["evaluate"]


def test_facts_without_a_mark_or_a_place_break_facts(
    root: Path, server: TrialServer, tmp_path: Path
) -> None:
    for number, (new, message) in enumerate(
        [("", "has no test marked"), ("@pytest.mark.fact('')", "where")]
    ):
        subject = copy_of_template(
            root, f"fact{number}", "tests", '@pytest.mark.fact("eq. 1")', new
        )
        found = broken(check(subject, ["facts"], server, tmp_path / str(number)))
        assert message in found["facts"]


@pytest.mark.slow
def test_randomness_without_a_seed_breaks_seed_and_resume(
    root: Path, server: TrialServer, tmp_path: Path
) -> None:
    new = "torch.randint(0, 3, (2,), generator=_OWN)"
    subject = copy_of_template(root, "unseeded", "dataset.py", "torch.randint(0, 3, (2,))", new)
    path = subject.folder / "dataset.py"
    path.write_text(f"{path.read_text()}\n\n_OWN = torch.Generator()\n_OWN.seed()\n")
    found = broken(check(subject, ["smoke", "evaluate", "seed", "resume"], server, tmp_path))
    assert found.keys() == {"seed", "resume"}


@pytest.mark.slow
def test_a_connection_breaks_smoke(root: Path, server: TrialServer, tmp_path: Path) -> None:
    old = "        data = build_data"
    new = f'        __import__("socket").create_connection(("192.0.2.1", 80), timeout=5)\n{old}'
    subject = copy_of_template(root, "online", "train.py", old, new)
    found = broken(check(subject, ["smoke", "evaluate"], server, tmp_path))
    assert found.keys() == {"smoke", "evaluate"}
    assert "unreachable" in found["smoke"] or "cut off" in found["smoke"]
    assert "see the clause smoke" in found["evaluate"]


def test_an_import_that_fails_names_the_file_and_an_error_of_ours_no_class(
    root: Path, importable: None
) -> None:
    subject = copy_of_template(
        root,
        "no_import",
        "model.py",
        "import torch\n",
        "import torch\nimport nowhere_to_be_found\n",
    )
    for clause in ("configs", "readme"):
        (problem,) = check_static(subject, clause).problems
        assert re.fullmatch(
            r"papers/no_import/model\.py:\d+: ModuleNotFoundError: .*'nowhere_to_be_found'", problem
        )
    subject = copy_of_template(root, "no_card", "paper.yaml", "title:", "titel:")
    (problem,) = check_static(subject, "results").problems
    assert "Error:" not in problem
    assert "paper.yaml: title is missing" in problem


def test_papers_are_named_as_people_name_them() -> None:
    names = ["papers.attention_is_all_you_need", "papers/_template/", "_template"]
    modules = [subject.module for subject in choose_subjects(names)]
    assert modules == ["papers.attention_is_all_you_need", "papers._template", "papers._template"]
    with pytest.raises(InputError, match=r"no paper '_tamplate'.*papers\._template"):
        choose_subjects(["_tamplate"])
    assert {"papers._template", *modules} <= {subject.module for subject in find_subjects()}


def test_the_command_line_lists_papers_and_refuses_unknown_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--list", "_template"]) == 0
    assert capsys.readouterr().out == "papers._template\n"
    with pytest.raises(SystemExit) as stopped:
        main(["nothing", "--clause", CLAUSES[0]])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
