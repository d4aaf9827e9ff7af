"""Numbers that are not finite, batches with nothing in them, memory that is not there (rows 24, 27)."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data import TensorLoader
from common.models import MultiHeadAttention, scaled_dot_product
from common.training import Callback, OptimizerConfig, Task, Trainer, TrainerConfig
from common.training.callbacks import NanGuard
from common.utils import Run
from common.utils.errors import FaultError
from tests.training.tiny import TinyTask, TokenTask, features, loaders


@pytest.mark.fault(24)
def test_a_nan_stops_before_the_update_and_the_record_says_which_batch(tmp_path: Path) -> None:
    data = features(64)
    data["x"][37] = math.nan
    task = TinyTask()
    before: list[Tensor] = []

    class Remember(Callback):
        priority = -200

        def before_update(self, trainer: Trainer) -> None:
            before[:] = [p.detach().clone() for p in trainer.task.parameters()]

    with pytest.raises(FaultError) as caught, Run(tmp_path, 0) as run:
        config = TrainerConfig(max_epochs=1, loggers=[])
        trainer = Trainer(config, run=run, callbacks=[Remember()])
        trainer.fit(task, TensorLoader(data, 8, shuffle=True))
    message, step = str(caught.value), trainer.state.step
    ids = trainer.train_loader.indices(0, step)
    assert 37 in ids
    for part in (f"step {step + 1}", "lr 0.001", str(ids)):
        assert part in message
    assert all(map(torch.equal, before, task.parameters()))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["state"] == "failed"
    assert record["not_finite"] == {
        "what": "the loss is nan",
        "step": step + 1,
        "epoch": 0,
        "batch": step,
        "lr": 0.001,
        "examples": ids,
    }


@pytest.mark.fault(24)
@pytest.mark.parametrize("asks", ["log", "checkpoint"])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_guard_that_does_not_wait_leaves_the_weights_of_before_the_nan(
    tmp_path: Path, name: str, asks: str
) -> None:
    """As on a GPU: the optimizer skips, and the host hears of it at a log record or a checkpoint."""
    data = features(64)
    data["x"][29] = math.nan  # the fourth batch of eight
    weights: list[list[Tensor]] = []

    class Remember(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            weights.append([p.detach().clone() for p in trainer.task.parameters()])

    task = TinyTask()
    every = {"log_every": 6} if asks == "log" else {"log_every": 100, "save_every": 7}
    config = TrainerConfig(max_epochs=1, loggers=[], **every)
    with pytest.raises(FaultError) as caught, Run(tmp_path, 0) as run:
        guard = NanGuard(deferred=True)
        trainer = Trainer(config, run=run, callbacks=[guard, Remember()])
        trainer.fit(task, TensorLoader(data, 8), optim=OptimizerConfig(name, lr=0.1))
    assert trainer.state.step == (6 if asks == "log" else 7)
    for part in ("step 4", "batch 3", str(list(range(24, 32)))):
        assert part in str(caught.value)
    assert all(map(torch.equal, weights[2], task.parameters()))
    assert not all(map(torch.equal, weights[1], weights[2]))
    assert not list((tmp_path / "checkpoints").glob("*.pt"))
    assert json.loads((tmp_path / "run.json").read_text())["not_finite"]["step"] == 4


@pytest.mark.fault(24)
def test_every_example_of_a_long_batch_is_in_the_record(tmp_path: Path) -> None:
    data = features(200)
    data["x"][:] = math.inf
    with pytest.raises(FaultError, match=r", \.\.\.\]"), Run(tmp_path, 0) as run:
        config = TrainerConfig(max_epochs=1, accumulate=2, loggers=[])
        Trainer(config, run=run).fit(TinyTask(), TensorLoader(data, 50))
    record = json.loads((tmp_path / "run.json").read_text())["not_finite"]
    assert record["examples"] == list(range(100))


@pytest.mark.fault(24)
def test_an_infinite_gradient_with_a_finite_loss_is_found() -> None:
    class SquareRoot(Task):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def compute_loss(self, batch: Any) -> Tensor:
            return (self.weight * batch["x"].sum()).abs().sqrt().sum()

    with pytest.raises(FaultError, match="a gradient is not finite"):
        Trainer(TrainerConfig(max_steps=1)).fit(SquareRoot(), loaders()[0])


@pytest.mark.fault(24)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_without_a_single_unit_is_skipped_and_counted(accumulate: int) -> None:
    tokens = torch.ones(8 * accumulate, 4, dtype=torch.long)
    tokens[4 * accumulate :] = 0  # the second update is all padding
    task = TokenTask()
    trainer = Trainer(TrainerConfig(max_epochs=1, accumulate=accumulate))
    trainer.fit(task, TensorLoader({"tokens": tokens}, 4))
    assert trainer.state.step == 2
    assert trainer.state.skipped == 1
    assert all(p.isfinite().all() for p in task.parameters())


@pytest.mark.fault(24)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_fp16_goes_on_after_a_batch_without_a_unit_as_if_it_had_not_been(accumulate: int) -> None:
    """The scaler has unscaled gradients for which no update comes, and must be told."""
    size = 4 * accumulate
    rows = torch.randint(1, 10, (3 * size, 4), generator=torch.Generator().manual_seed(0))
    padded = rows.clone()
    padded[size : 2 * size] = 0
    trainers = []
    for tokens in (padded, torch.cat([rows[:size], rows[2 * size :]])):
        torch.manual_seed(0)
        trainers.append(
            Trainer(TrainerConfig(max_epochs=1, accumulate=accumulate, precision="fp16"))
        )
        trainers[-1].fit(TokenTask(), TensorLoader({"tokens": tokens}, 4))
    ours, reference = trainers
    assert (ours.state.step, ours.state.skipped) == (3, 1)
    assert (reference.state.step, reference.state.skipped) == (2, 0)
    for one, other in zip(ours.task.parameters(), reference.task.parameters(), strict=True):
        assert torch.equal(one, other)
    scales = [trainer.precision.state_dict()["scale"] for trainer in trainers]
    assert scales[0] == scales[1]


@pytest.mark.fault(24)
def test_a_micro_batch_of_padding_does_not_change_the_gradient_of_the_others() -> None:
    tokens = torch.randint(1, 10, (8, 4), generator=torch.Generator().manual_seed(0))
    weights = []
    for rows, accumulate in ((tokens, 1), (torch.cat([tokens, torch.zeros_like(tokens)]), 2)):
        torch.manual_seed(0)
        task = TokenTask()
        config = TrainerConfig(max_steps=1, accumulate=accumulate)
        Trainer(config).fit(
            task, TensorLoader({"tokens": rows}, 8), optim=OptimizerConfig("sgd", lr=1.0)
        )
        weights.append(task.out.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-6)


@pytest.mark.fault(24)
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_may_attend_to_nothing_gives_zero_and_finite_gradients(
    need_weights: bool, dtype: torch.dtype
) -> None:
    inputs = [torch.randn(2, 2, 4, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    keep = (torch.arange(4) < torch.tensor([[0], [4]]))[:, None, None]
    output, weights = scaled_dot_product(*inputs, keep=keep, causal=True, need_weights=need_weights)
    assert not output[0].any()
    assert output[1].any()
    if weights is not None:
        assert not weights[0].any()
        torch.testing.assert_close(weights[1].sum(-1), torch.ones(2, 4, dtype=dtype))
    for gradient in torch.autograd.grad(output.float().square().sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.fault(24)
def test_a_layer_over_a_sentence_of_padding_trains_on() -> None:
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2)
    x = torch.randn(2, 3, 8)
    keep = torch.tensor([[True, True, False], [False, False, False]])[:, None, None]
    output, _ = layer(x, keep=keep)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)


class Greedy(TinyTask):
    """Asks for more memory than any machine has, in one of its calls."""

    def __init__(self, fatal: int = 3) -> None:
        super().__init__()
        self.calls, self.fatal = 0, fatal

    def compute_loss(self, batch: dict[str, Tensor]) -> Any:
        self.calls += 1
        if self.calls == self.fatal:
            torch.empty(2**52)
        return super().compute_loss(batch)


@pytest.mark.fault(24)
def test_memory_that_is_not_there_names_the_batch_and_what_to_do() -> None:
    trainer = Trainer(TrainerConfig(max_epochs=1))
    with pytest.raises(FaultError) as caught:
        trainer.fit(Greedy(), *loaders(batch_size=32))
    message = str(caught.value)
    assert message.startswith("out of memory at step 3 (epoch 0, batch 2, 32 examples")
    assert "smaller batch" in message
    assert "trainer.accumulate" in message
    assert trainer.state.step == 2


@pytest.mark.fault(24)
def test_memory_that_is_not_there_in_an_evaluation_says_so() -> None:
    with pytest.raises(FaultError, match=r"out of memory in the evaluation after step 7: .*alloc"):
        Trainer(TrainerConfig(max_epochs=1)).fit(Greedy(fatal=9), *loaders(batch_size=32))


@pytest.mark.fault(24)
def test_another_runtime_error_of_a_step_keeps_its_traceback() -> None:
    class Broken(TinyTask):
        def compute_loss(self, batch: dict[str, Tensor]) -> Any:
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        Trainer(TrainerConfig(max_epochs=1)).fit(Broken(), loaders()[0])


@pytest.mark.fault(27)
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_does_not_change_the_gradient(accumulate: int) -> None:
    """Micro-batches with unequal numbers of tokens give the gradient of the whole."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 10, (16, 12), generator=generator)
    for row in range(16):
        tokens[row, 12 - row // 2 :] = 0  # later rows are shorter
    gradients = []
    for batch_size, parts in ((16, 1), (16 // accumulate, accumulate)):
        torch.manual_seed(1)
        task = TokenTask()
        kept: list[Tensor] = []

        class Keep(Callback):
            def before_update(self, trainer: Trainer, kept: list[Tensor] = kept) -> None:
                kept.extend(p.grad.clone() for p in trainer.task.parameters())

        config = TrainerConfig(max_steps=1, accumulate=parts)
        trainer = Trainer(config, callbacks=[Keep()])
        trainer.fit(task, TensorLoader({"tokens": tokens}, batch_size))
        gradients.append(kept)
    for whole, cut in zip(*gradients, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-6)
