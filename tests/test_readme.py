"""Every command in the README works as it is written.

The blocks are parsed out of ``README.md`` and run one line at a time, in order, by a shell in the
project's root. Data and models come from a Hub on loopback; nothing else is replaced. Three kinds
of line are not run here, because this suite is part of them: the one that runs it, the one that
makes an environment, and what installs ``uv`` itself (``.ci/run`` does all three).
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.testing import LoopbackHub
from common.utils.paths import get_project_root

pytest_plugins = ["common.testing.fixtures"]

ROOT = get_project_root()
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_RUN_HERE = ("pip install uv && uv run pytest", "uv venv && source")
INSTALL = "pip install uv && "


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line for block in _blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *NOT_RUN_HERE))]


def _serve(hub: LoopbackHub) -> None:
    rows = b"text,label\nhello,0\nworld,1\n"
    card = b"---\nconfigs:\n- config_name: de-en\n  data_files:\n  - {split: train, path: de-en/train.csv}\n---\n"
    hub.push(
        "datasets/rajpurkar/squad",
        {"validation.csv": rows, "README.md": b"---\nlicense: mit\n---\n"},
    )
    hub.push("datasets/wmt/wmt14", {"de-en/train.csv": rows, "README.md": card})
    files = {"config.json": b"{}", "vocab.txt": b"a\nb\n"}
    hub.push("models/google-bert/bert-base-uncased", files)
    hub.push("models/openai-community/gpt2", {"pytorch_model.bin": os.urandom(2_000)})


@pytest.mark.timeout(900)  # it trains the first paper as a newcomer does
def test_the_commands_of_the_readme_run_as_written(
    loopback_hub: LoopbackHub, tmp_path: Path
) -> None:
    _serve(loopback_hub)
    environment = loopback_hub.environment(tmp_path / "cache") | {
        "ASSETS_DIR": str(tmp_path / "assets"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "UV_NO_SYNC": "1",  # the environment is this one
        "UV_OFFLINE": "1",
    }
    link = ROOT / "papers" / "attention_is_all_you_need" / "data"
    before = link.readlink() if link.is_symlink() else None
    try:
        for command in _commands():
            command = command.removeprefix(INSTALL)
            if shutil.which("uv", path=environment["PATH"]) is None:
                command = command.removeprefix("uv run ")
            result = subprocess.run(
                ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
            if command.endswith(".train"):
                _check_first_run(result.stdout)
    finally:
        link.unlink(missing_ok=True)
        if before is not None:
            link.symlink_to(before)
        (ROOT / "attention.png").unlink(missing_ok=True)


def _check_first_run(output: str) -> None:
    """The default run of the first paper: nearly every unseen date is read exactly."""
    found = re.search(r"test/exact_match\s+([0-9.]+)", output)
    assert found, output
    assert float(found[1]) >= 0.98


def test_the_imports_of_the_readme_work() -> None:
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_example_of_private_training_runs_and_gives_about_what_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("opacus")
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    result = re.compile(r"test accuracy ([0-9.]+) at epsilon ([0-9.]+)\n")
    exec(compile(block, "privacy.md", "exec"), {"__name__": "page"})
    accuracy, epsilon = map(float, result.search(capsys.readouterr().out).groups())
    said_accuracy, said_epsilon = map(float, result.search(page).groups())
    assert accuracy == pytest.approx(said_accuracy, abs=0.03)
    assert epsilon == said_epsilon <= 3.0


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_python_block_of_the_documentation_compiles(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        compile(block, page.name, "exec")
