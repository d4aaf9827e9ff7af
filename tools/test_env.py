#!/usr/bin/env python
"""Look over the environment: versions, accelerator, disk, store, Hub.

    python tools/test_env.py

Exits with 1 and says why if something that a paper needs is missing. The Hub is not needed: every
paper has a data set of its own.
"""

import importlib
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_IMPORTED = ("torch", "torchvision", "datasets", "tokenizers")  # a broken wheel shows only here
_INSTALLED = (
    *("timm", "hydra-core", "huggingface-hub", "safetensors", "scikit-learn", "sacrebleu"),
    *("torchmetrics", "matplotlib", "tensorboard", "babel", "einops", "jaxtyping"),
)
_HUB_SECONDS = 3.0
_LEAST_DISK = 1 << 30

Row = tuple[str, str, bool]  # what, how it is, whether that is good enough


def main() -> None:
    """Print the table and exit."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        sys.exit('error: rich is not installed; run: uv pip install -e "."')
    table = Table("", "", "what", "found", show_header=False, box=None, padding=(0, 1))
    problems = []
    for check in (_python, _project, _packages, _accelerator, _processor, _store, _hub):
        for what, found, good in check():
            table.add_row("", "[green]ok[/]" if good else "[red]no[/]", what, found)
            if not good:
                problems.append(f"{what}: {found}")
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
    if problems:
        sys.exit(f"error: {' | '.join(problems)}")


def _python() -> list[Row]:
    return [("Python", f"{platform.python_version()} {sys.prefix}", sys.version_info >= (3, 11))]


def _project() -> list[Row]:
    try:
        import common
    except ImportError:
        return [("project", f'not installed; run: uv pip install -e "{_ROOT}"', False)]
    found = Path(str(common.__file__)).resolve()
    if found.is_relative_to(_ROOT):
        return [("project", str(found), True)]
    return [("project", f"{found} is another copy; expected the one in {_ROOT}", False)]


def _packages() -> list[Row]:
    rows = []
    for name in (*_IMPORTED, *_INSTALLED):
        try:
            if name in _IMPORTED:
                importlib.import_module(name)
            rows.append((name, metadata.version(name), True))
        except Exception as error:  # a broken wheel raises whatever its loader meets
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            rows.append((name, f'{reason}; run: uv pip install -e "{_ROOT}"', False))
    return rows


def _accelerator() -> list[Row]:
    try:
        import torch
    except Exception:  # reported by _packages
        return []
    if not torch.cuda.is_available():
        return [("accelerator", "none: everything runs on the CPU", True)]
    rows = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        rows.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory}", True))
    return rows


def _processor() -> list[Row]:
    try:
        import torch

        threads = f", torch uses {torch.get_num_threads()}"
    except Exception:  # reported by _packages
        threads = ""
    return [("processor", f"{os.cpu_count()} threads{threads}", True)]


def _store() -> list[Row]:
    try:
        from common.utils.paths import get_assets_dir
    except ImportError:
        return []
    assets = get_assets_dir()
    place = assets
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            found, writable = str(assets), True
    except OSError as error:
        found, writable = f"{assets} cannot be written: {error.strerror}", False
    free = shutil.disk_usage(place).free
    return [
        ("assets", found, writable),
        ("disk", f"{free / 2**30:.1f} GiB free there", free >= _LEAST_DISK),
    ]


def _hub() -> list[Row]:
    try:
        from common.data.hub import endpoint, is_offline
        from common.utils.errors import RepriseError
    except ImportError:
        return []
    try:
        address = endpoint()
    except RepriseError as error:
        return [("Hub", str(error), False)]
    if is_offline():
        return [("Hub", "not asked, the environment forbids it (HF_HUB_OFFLINE)", True)]
    outcome = _within(_HUB_SECONDS, lambda: _ask(address))
    return [("Hub", f"{address}: {outcome or 'no answer'}", True)]


def _ask(address: str) -> str:
    from huggingface_hub import get_session
    from huggingface_hub.utils import httpx

    try:
        get_session().head(address, timeout=_HUB_SECONDS)
        return "reachable"
    except httpx.HTTPError as error:
        return f"not reachable ({error}); papers run on their own data"


def _within(seconds: float, call: Callable[[], str]) -> str | None:
    """What ``call`` returns, or ``None`` if it takes longer; it may hang in the resolver."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


if __name__ == "__main__":
    main()
