"""What made a number: the code, the versions and the machine a run used."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from common.utils.paths import get_project_root

_PACKAGES = ("torch", "numpy", "datasets", "tokenizers", "timm", "torchvision", "hydra-core")


def code_version(root: Path | None = None) -> tuple[dict[str, Any], str]:
    """The commit of the working tree and the difference from it.

    Returns:
        ``{"commit": 40 hex digits or None, "dirty": bool or None}`` and the difference as text
        (tracked files only; empty when clean or outside git).
    """
    root = root or get_project_root()
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}, ""
    difference = _git(root, "diff", "HEAD") or ""
    return {"commit": commit.strip(), "dirty": bool(difference.strip())}, difference


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that change numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and accelerators."""
    import psutil
    import torch

    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
