"""``docs/context.md``: its example runs, and shows what it leaves."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from common.utils.paths import get_project_root

PAGE = (get_project_root() / "docs" / "context.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_runs_and_leaves_the_configuration_it_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name in ("PHOTOS", "HUB_TOKEN"):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    module = ModuleType("example")  # annotations of its dataclasses are looked up there
    monkeypatch.setitem(sys.modules, "example", module)
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "docs/context.md", "exec"), vars(module))
    assert [vars(module)["saved"]] == blocks("yaml")
