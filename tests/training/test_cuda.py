"""What only a GPU can show; skipped without one: `pytest tests/training/test_cuda.py -n 0`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data import TensorLoader
from common.training import Callback, Task, Throughput, Trainer, TrainerConfig, find_batch_size
from common.training.prefetch import read_ahead
from common.training.snapshot import Snapshot
from common.utils.errors import FaultError, InterruptedRun
from common.utils.paths import get_project_root
from tests.training.conftest import clean_environment
from tests.training.tiny import TinyTask, assert_same_run, fit, loaders, records

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CUDA = torch.device("cuda")


class StopAt(Callback):
    """A stop signal after one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_on_a_gpu_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, precision: str, accumulate: int
) -> None:
    values: dict[str, Any] = {"precision": precision, "accumulate": accumulate, "device": "cuda"}
    fit(tmp_path / "whole", **values)
    with pytest.raises(InterruptedRun):
        fit(tmp_path / "parts", callbacks=[StopAt(5)], **values)
    fit(tmp_path / "parts", resume=tmp_path / "parts" / "checkpoints" / "last.pt", **values)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_in_every_precision(tmp_path: Path, precision: str) -> None:
    fit(tmp_path, precision=precision, device="cuda", max_epochs=60)
    losses = [r["train/loss"] for r in records(tmp_path) if "train/loss" in r]
    assert losses[-1] < 0.7 * losses[0]


def test_a_gpu_computes_what_a_cpu_computes() -> None:
    class Plain(TinyTask):
        def __init__(self) -> None:
            super().__init__(dropout=0.0)

    one, other = (fit(kind=Plain, device=device) for device in ("cpu", "cuda"))
    for ours, theirs in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-4, atol=1e-5)


def test_batches_read_ahead_are_the_batches() -> None:
    train, _ = loaders()
    plain = list(train.batches(2, start=1))
    ahead = list(read_ahead(iter([*plain, None]), CUDA))
    assert ahead.pop() is None
    assert len(ahead) == len(plain)
    for batch, copied in zip(plain, ahead, strict=True):
        assert copied is not None
        assert all(value.is_cuda for value in copied.values())
        assert all(torch.equal(batch[name], copied[name].cpu()) for name in batch)


def test_a_copied_batch_is_not_overwritten_while_a_step_still_reads_it() -> None:
    """The step is slow and memory is reused at once: a missing wait would show."""
    batches = ({"x": torch.full((1 << 20,), float(i))} for i in range(12))
    sums = []
    for batch in read_ahead(batches, CUDA):
        torch.cuda._sleep(20_000_000)
        assert batch is not None
        sums.append(batch["x"].mean())
        del batch
    assert torch.stack(sums).tolist() == list(range(12))


def test_a_snapshot_is_of_the_moment_it_was_taken() -> None:
    weights = torch.arange(1 << 22, dtype=torch.float32, device=CUDA)
    copy = Snapshot(pinned=True).take({"model": {"w": weights, "same": weights}})
    weights.zero_()
    torch.cuda.synchronize()
    assert torch.equal(copy["model"]["w"], torch.arange(1 << 22, dtype=torch.float32))
    assert copy["model"]["same"] is copy["model"]["w"]


class Spoiled(TinyTask):
    """Its loss is not a number from one step on."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def compute_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.training:
            self.calls += 1
        found = super().compute_loss(batch)
        found["loss"] = found["loss"] * torch.where(self.calls == 8, torch.nan, 1.0)
        return found


def test_a_bad_update_is_left_out_on_the_device_and_named_at_the_next_record() -> None:
    class Weights(Callback):
        """Remembers the weights after every step."""

        def __init__(self) -> None:
            self.after: list[Tensor] = []

        def on_step_end(self, trainer: Trainer) -> None:
            self.after.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))

    seen = Weights()
    with pytest.raises(FaultError, match="at step 8"):
        fit(kind=Spoiled, device="cuda", log_every=4, callbacks=[seen])
    assert len(seen.after) >= 8
    assert torch.equal(seen.after[7], seen.after[6])
    assert not torch.equal(seen.after[6], seen.after[5])


class Large(Task):
    """Takes ``width`` floats for every example, a few times over."""

    def __init__(self, width: int = 1 << 28) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.width = width

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.weight * batch["x"].expand(-1, self.width)).square().mean()


def test_memory_that_ends_is_one_line_and_a_batch_size_that_fits_is_found() -> None:
    def loader(size: int) -> TensorLoader:
        return TensorLoader({"x": torch.ones(4096, 1)}, size)

    with pytest.raises(FaultError, match=r"out of memory at step 1 .* use a smaller batch size"):
        Trainer(TrainerConfig(max_steps=1, device="cuda")).fit(Large(), loader(4096))
    config = TrainerConfig(device="cuda")
    found = find_batch_size(Large(), loader, config=config)
    free, total = torch.cuda.mem_get_info()
    assert 1 <= found <= total / (1 << 30)
    assert free > 0.9 * total  # what was tried is given back


def test_the_throughput_of_a_known_gpu_has_a_utilisation(tmp_path: Path) -> None:
    fit(tmp_path, device="cuda", max_epochs=10, callbacks=[Throughput()])
    logged = [r for line in (tmp_path / "metrics.jsonl").open() if (r := json.loads(line))]
    values = [r["time/mfu"] for r in logged if "time/mfu" in r]
    if "H200" in torch.cuda.get_device_name():
        assert values
    assert all(0 < value < 1 for value in values)


def test_tf32_is_used_where_it_is_asked_for() -> None:
    generator = torch.Generator(CUDA).manual_seed(0)
    a, b = torch.randn(2, 1024, 1024, device=CUDA, generator=generator)
    exact = (a.double() @ b.double()).float()

    def error(tf32: bool) -> float:
        Trainer(TrainerConfig(device="cuda", tf32=tf32))
        return float((a @ b - exact).abs().max())

    assert error(tf32=True) > 10 * error(tf32=False)


@pytest.mark.parametrize("values", [{"compile": True}, {"channels_last": True}], ids=str)
def test_what_makes_a_gpu_faster_changes_no_result(values: dict[str, bool]) -> None:
    class Images(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
            )

        def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
            logits = self.net(batch["x"].view(-1, 1, 2, 4))
            return nn.functional.cross_entropy(logits, batch["y"])

    plain, fast = (fit(kind=Images, device="cuda", **extra) for extra in ({}, values))
    for ours, theirs in zip(plain.parameters, fast.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


PROGRAM = """
import sys, torch
from tests.training.tiny import fit
trainer = fit(device="cuda", strategy=sys.argv[1])
torch.save([p.detach().cpu() for p in trainer.parameters], sys.argv[2])
"""


def test_one_rank_over_nccl_gives_the_single_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "1", str(tmp_path / "program.py"), "ddp"]
    environment = clean_environment() | {"PYTHONPATH": str(get_project_root())}
    result = subprocess.run(
        [*command, str(tmp_path / "weights.pt")],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    theirs = torch.load(tmp_path / "weights.pt", weights_only=True)
    for ours, other in zip(fit(device="cuda").parameters, theirs, strict=True):
        torch.testing.assert_close(ours.detach().cpu(), other, rtol=1e-6, atol=1e-7)
