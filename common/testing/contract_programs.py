"""What the contract has its forked processes do; each writes what it found to a JSON file.

``TrialServer`` has imported torch before, so one of these costs what it computes.
"""

import functools
import json
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common.training as training


def script(module: str, words: Sequence[str], stop_halfway: bool = False) -> None:
    """``python -m module words``; if asked, with a SIGTERM after half of the steps."""
    if stop_halfway:
        _stop_halfway()
    sys.modules.pop(module, None)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class StopHalfway(training.Callback):
    """Sends this process a SIGTERM between two steps, away from where records are written."""

    def on_step_end(self, trainer: Any) -> None:
        if trainer.run is None:
            return  # it leaves nothing to go on from: what lora trains its base with
        half = trainer.total_steps // 2
        if trainer.state.step == half + (half % trainer.config.log_every == 0):
            os.kill(os.getpid(), signal.SIGTERM)


def _stop_halfway() -> None:
    """Every trainer of this process has the callback, whatever the paper gives it."""
    original = training.Trainer.__init__

    @functools.wraps(original)
    def init(self: training.Trainer, *given: Any, **named: Any) -> None:
        named["callbacks"] = [*named.get("callbacks", ()), StopHalfway()]
        original(self, *given, **named)

    training.Trainer.__init__ = init  # type: ignore[method-assign]


def compare(one: str, other: str, out: str) -> None:
    """Where two run directories differ."""
    from common.testing.equality import run_differences

    Path(out).write_text(json.dumps(run_differences(Path(one), Path(other))))


def clauses(root: str, module: str, names: Sequence[str], out: str) -> None:
    """How a paper stands to clauses that need no run."""
    from common.testing.contract_subject import Subject
    from common.testing.paper_contract import check_static

    family, _, name = module.partition(".")
    subject = Subject(Path(root), family, name)
    Path(out).write_text(json.dumps([asdict(check_static(subject, each)) for each in names]))


def facts(path: str, out: str) -> None:
    """The tests of a file that are marked as facts, and where each fact stands in the paper."""
    import pytest

    found: dict[str, list[Any]] = {}

    class Collector:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            for item in session.items:
                places = [m.args[0] if m.args else "" for m in item.iter_markers("fact")]
                if places:
                    found[item.name] = places

    options = ["--collect-only", "-q", "-n", "0", "-m", "fact", "-p", "no:cacheprovider"]
    code = pytest.main([*options, path], plugins=[Collector()])
    report = {"tests": found, "code": int(code)}
    Path(out).write_text(json.dumps(report))
