"""The pages on image classification are current, and their Python runs as it stands."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from common.utils.paths import get_project_root
from projects.image_classification.cli.init_config import main as init_config
from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset
from projects.image_classification.core.networks.small import MODEL_REGISTRY
from tests.projects.image_classification.photos import write_coloured

ROOT = get_project_root()
PAGES = ROOT / "docs" / "image_classification"
TOOL = ROOT / "tools" / "make_config_page.py"


def test_the_page_of_the_configuration_has_every_key_as_it_is_now() -> None:
    result = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_every_flag_on_a_page_exists(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    for line in re.findall(r"(?:^|`|\$ )(ml-[\w-]+ [^`\n]*)", text, re.MULTILINE):
        command = line.split()[0].removeprefix("ml-").replace("-", "_")
        monkeypatch.setattr(sys, "argv", [command, "--help"])
        with pytest.raises(SystemExit):
            import_module(f"projects.image_classification.cli.{command}").main()
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        for flag in re.findall(r"(?<!\S)(--[\w-]+)", line.partition("#")[0]):
            assert flag in known, line


def test_the_blocks_on_extending_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # In place of the digits: as many classes, of one size, in a second.
    data = write_coloured(Path("data/digits"), dict.fromkeys("0123456789", 12), (8, 8), "L")
    split_dataset(data / "raw", SplitOptions(folds=3, near_duplicates=False))
    init_config(["data/digits"])
    config = Path("configs/digits_config.yaml")
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("  # plots: true", "  plots: false"), encoding="utf-8")
    page = (PAGES / "extending.md").read_text(encoding="utf-8")
    space: dict[str, object] = {"__name__": "page"}
    try:
        for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            exec(compile(block, "extending.md", "exec"), space)
    finally:
        MODEL_REGISTRY.pop("shallow", None)
    assert "mean distance between digits" in capsys.readouterr().out
    assert (tmp_path / "runs" / "sign_sgd" / "weights" / "last.pt").is_file()
    run = next(path for path in tmp_path.glob("runs/*seed_1*") if path.is_dir())
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert any("validation/error" in json.loads(line) for line in lines)
