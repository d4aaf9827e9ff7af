"""The look over the environment."""

import os
import runpy
import socket
import subprocess
import sys
import time
import tomllib

import pytest

from common.utils.paths import get_project_root

TOOL = get_project_root() / "tools" / "test_env.py"


@pytest.fixture
def tool(monkeypatch):
    """The tool's functions, in this process."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return runpy.run_path(str(TOOL))


def test_it_runs_as_typed_and_finds_this_environment_good(tmp_path):
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(TOOL)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for what in ("Python", "torch", "accelerator", "processor", "assets", "disk", "Hub"):
        assert f" {what} " in done.stdout
    assert str(get_project_root() / "common") in done.stdout
    assert "HF_HUB_OFFLINE" in done.stdout


def test_another_copy_of_common_and_a_store_that_cannot_be_written_fail(
    tool, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(tool["main"].__globals__, "_ROOT", tmp_path)
    monkeypatch.setenv("ASSETS_DIR", "/proc/assets")
    with pytest.raises(SystemExit) as stopped:
        tool["main"]()
    reason = str(stopped.value)
    assert reason.startswith("error: project: ")
    assert f"is another copy; expected the one in {tmp_path}" in reason
    assert "/proc/assets cannot be written" in reason
    assert "\n" not in reason
    assert capsys.readouterr().out.count(" no ") == 3  # nor does /proc have space


def test_a_package_that_is_not_installed_fails_with_the_command(tool, monkeypatch):
    monkeypatch.setitem(tool["main"].__globals__, "_INSTALLED", ("no-such-package",))
    *_, (what, found, good) = tool["_packages"]()
    assert (what, good) == ("no-such-package", False)
    assert "uv pip install -e" in found


def test_a_hub_that_never_answers_is_given_up_soon(tool, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        ((what, found, good),) = tool["_hub"]()
        assert time.monotonic() - started < 5
    assert (what, good) == ("Hub", True)
    assert "no answer" in found or "not reachable" in found


def test_pytest_does_not_collect_the_tool():
    settings = tomllib.loads((get_project_root() / "pyproject.toml").read_text())
    assert settings["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]
