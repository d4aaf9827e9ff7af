"""Fixtures for pytest; a test module asks for them by ``pytest_plugins = ["common.testing.fixtures"]``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.testing.hub import LoopbackHub

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def loopback_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty Hub on loopback that this process and its children use instead of the real one."""
    with LoopbackHub() as hub:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name in _PROXIES:
            monkeypatch.delenv(name, raising=False)
        for name, value in hub.environment(tmp_path / "hub-cache").items():
            monkeypatch.setenv(name, value)
        yield hub
