"""The profile of a few updates is a trace and a table that name what ran."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.training import Trainer, TrainerConfig
from common.training.callbacks import Profiler
from common.utils.errors import ConfigError, FaultError
from tests.training.tiny import TinyTask, fit, loaders


def trace_of(directory: Path) -> list[dict[str, Any]]:
    events = json.loads((directory / "profile" / "trace.json").read_text())["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


def test_a_trace_and_a_table_name_operators_modules_and_the_parts_of_a_step(tmp_path: Path) -> None:
    fit(tmp_path, callbacks=[Profiler(wait=2, warmup=1, active=6)], accumulate=2)
    events = trace_of(tmp_path)
    names = [event["name"] for event in events]
    steps = sorted({name for name in names if name.startswith("ProfilerStep#")})
    assert steps == [f"ProfilerStep#{number}" for number in range(3, 9)]
    assert {"aten::addmm", "forward/net.0", "forward/net.3"} <= set(names)
    assert names.count("step/update") == 6
    assert names.count("step/validation") == 2  # after updates 4 and 8, counted from 1
    assert any(name.startswith("Optimizer.step#AdamW") for name in names)
    table = (tmp_path / "profile" / "hot_ops.txt").read_text()
    assert "aten::addmm" in table
    assert "Self CPU" in table


def test_what_belongs_to_the_update_lies_inside_it(tmp_path: Path) -> None:
    fit(tmp_path, callbacks=[Profiler(wait=1, warmup=1, active=2)])
    events = trace_of(tmp_path)

    def spans(name: str) -> list[tuple[float, float]]:
        return [(e["ts"], e["ts"] + e["dur"]) for e in events if e["name"].startswith(name)]

    for inner, outer in (
        ("Optimizer.step#", "step/update"),
        ("forward/net.0", "step/gradients"),
        ("step/update", "ProfilerStep#"),
    ):
        assert len(spans(inner)) >= 2
        for start, end in spans(inner):
            assert any(s <= start and end <= e + 1 for s, e in spans(outer)), (inner, outer)


def test_a_run_shorter_than_the_schedule_is_profiled_at_its_end(tmp_path: Path) -> None:
    fit(tmp_path, callbacks=[Profiler(wait=10, warmup=2, active=5)], max_steps=3)
    names = [event["name"] for event in trace_of(tmp_path)]
    assert names.count("step/update") == 1  # two of the three are for warming up
    assert "ProfilerStep#2" in names


def test_profiling_changes_no_weight_and_leaves_no_hook(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", max_epochs=1)
    profiled = fit(
        tmp_path / "profiled", callbacks=[Profiler(wait=1, warmup=1, active=1)], max_epochs=1
    )
    for one, other in zip(plain.task.parameters(), profiled.task.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in profiled.task.modules())


def test_a_run_that_fails_while_profiled_ends_with_its_own_error(tmp_path: Path) -> None:
    class Fails(TinyTask):
        def compute_loss(self, batch: Any) -> Any:
            self.calls = getattr(self, "calls", 0) + 1
            result = super().compute_loss(batch)
            return {"loss": result["loss"] * (float("nan") if self.calls == 4 else 1.0)}

    with pytest.raises(FaultError, match="the loss is nan at step 4"):
        fit(tmp_path, callbacks=[Profiler(wait=1, warmup=1, active=5)], kind=Fails)
    assert sum(e["name"] == "forward/net.0" for e in trace_of(tmp_path)) == 2  # steps 3 and 4
    fit(tmp_path / "next", callbacks=[Profiler(wait=0, warmup=0, active=1)])  # nothing is left on
    assert trace_of(tmp_path / "next")


def test_without_a_place_to_write_it_is_refused() -> None:
    trainer = Trainer(TrainerConfig(max_steps=1, loggers=[]), callbacks=[Profiler()])
    with pytest.raises(ConfigError, match="nowhere to write"):
        trainer.fit(TinyTask(), loaders()[0])
