"""A task under Lightning trains as under our Trainer; its checkpoints come back, and only safely."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning")

import lightning.pytorch as pl

from common.data import DatasetInfo, TensorLoader
from common.training import (
    OptimizerConfig,
    ScheduleConfig,
    StepOutput,
    Task,
    Trainer,
    TrainerConfig,
)
from common.training.lightning import LightningLoader, LightningTask
from common.training.lightning_checkpoints import load_lightning_checkpoint
from common.utils.errors import CheckpointError, ConfigError
from papers.attention_is_all_you_need.model import ModelConfig, TranslationTask
from tests.training.tiny import TinyTask, TokenTask, features, loaders

SMALL = ModelConfig(d_model=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, d_ff=32)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def lightning_trainer(directory: Path, **values: Any) -> Any:
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False} | values
    return pl.Trainer(
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **settings,
    )


def test_both_trainers_give_the_same_weights(tmp_path: Path) -> None:
    """Same order, groups, schedule, dropout generator."""
    torch.manual_seed(0)
    ours, theirs = TinyTask(dropout=0.3), TinyTask(dropout=0.3)
    theirs.load_state_dict(ours.state_dict())
    optim = OptimizerConfig("adamw", lr=0.01, weight_decay=0.1)
    schedule = ScheduleConfig("cosine", warmup_steps=3)
    train, _ = loaders()
    torch.manual_seed(1)
    Trainer(TrainerConfig(max_epochs=3)).fit(ours, train, optim=optim, schedule=schedule)
    torch.manual_seed(1)
    module = LightningTask(theirs, optim, schedule)
    lightning_trainer(tmp_path, max_epochs=3).fit(module, LightningLoader(train))
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], value, rtol=1e-6, atol=1e-6)


class Counting(TokenTask):
    def eval_step(self, batch: dict[str, Tensor]) -> StepOutput:
        output = self.train_step(batch)
        output.collected = {"tokens": batch["tokens"]}
        output.metrics = {"odd": ((batch["tokens"] % 2) == 1).sum()}
        return output

    def compute_metrics(self, collected: Any) -> dict[str, float]:
        return {"rows": float(len(collected["tokens"]))}


def tokens() -> Tensor:
    drawn = torch.randint(1, 10, (37, 12), generator=torch.Generator().manual_seed(0))
    for row in range(37):
        drawn[row, 12 - row // 4 :] = 0
    return drawn


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_metrics_are_those_of_our_evaluation(tmp_path: Path, verb: str) -> None:
    """Batches of unequal numbers of tokens, and a metric over the whole."""
    loader = TensorLoader({"tokens": tokens()}, 8)
    task = Counting()
    prefix = "validation" if verb == "validate" else "test"
    expected = Trainer().evaluate(task, loader, prefix=prefix)
    trainer = lightning_trainer(tmp_path)
    (found,) = getattr(trainer, verb)(LightningTask(task), LightningLoader(loader), verbose=False)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found[f"{prefix}/rows"] == 37.0


class Kept(pl.Callback):
    """Writes what each rank found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        (self.directory / f"{trainer.global_rank}.json").write_text(json.dumps(found))


def test_two_ranks_of_unequal_numbers_of_examples_give_the_metrics_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, loader = Counting(), TensorLoader({"tokens": tokens()[:35]}, 9)
    expected = Trainer().evaluate(task, loader, prefix="validation")
    trainer = lightning_trainer(
        tmp_path,
        strategy="ddp_fork",  # of this process: two new ones would import everything again
        devices=2,
        use_distributed_sampler=False,
        callbacks=[Kept(tmp_path)],
    )
    trainer.validate(LightningTask(task), LightningLoader(loader), verbose=False)
    for rank in ("0", "1"):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(expected, rel=1e-6)


def test_training_metrics_weigh_every_token_the_same(tmp_path: Path) -> None:
    loader = TensorLoader({"tokens": tokens()}, 8)
    task = Counting()
    expected = Trainer().evaluate(task, loader)["test/loss"]
    trainer = lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(LightningTask(task, OptimizerConfig("sgd", lr=1e-12)), LightningLoader(loader))
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-5)


def test_every_epoch_has_an_order_of_its_own(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    class Remember(TinyTask):
        def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
            seen.append(batch["x"][:, 0].tolist())
            return super().train_step(batch)

    train, _ = loaders()
    lightning_trainer(tmp_path).fit(LightningTask(Remember()), LightningLoader(train))
    expected = [batch["x"][:, 0].tolist() for epoch in (0, 1) for batch in train.batches(epoch)]
    assert seen == expected
    assert seen[:7] != seen[7:]


# ---- checkpoints -----------------------------------------------------------------------------


def sentences() -> TensorLoader:
    drawn = torch.randint(2, 20, (16, 6), generator=torch.Generator().manual_seed(0))
    return TensorLoader({"source": drawn, "target": drawn}, 8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TranslationTask]:
    """A checkpoint of a paper's task, with optimizer, schedule and callback states."""
    directory = tmp_path_factory.mktemp("written")
    task = TranslationTask(SMALL, label_smoothing=0.2)
    module = LightningTask(
        task,
        schedule=ScheduleConfig("cosine"),
        info=DatasetInfo(name="x", vocab_size=20, class_names=("a",)),
        arguments={"config": SMALL, "label_smoothing": 0.2},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            default_root_dir=directory,
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, LightningLoader(sentences()))
    return next(directory.glob("**/*.ckpt")), task


def test_a_checkpoint_builds_its_task_again(written: tuple[Path, TranslationTask]) -> None:
    path, task = written
    loaded = load_lightning_checkpoint(path)
    assert isinstance(loaded, TranslationTask)
    assert loaded.config == SMALL
    assert loaded.label_smoothing == 0.2
    for name, value in task.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_an_argument_wins_over_the_recorded_one(written: tuple[Path, TranslationTask]) -> None:
    assert load_lightning_checkpoint(written[0], label_smoothing=0.0).label_smoothing == 0.0


def test_a_task_on_no_list_is_refused_unless_it_is_given(tmp_path: Path) -> None:
    module = LightningTask(TinyTask(), arguments={"dropout": 0.5})
    trainer = lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, LightningLoader(loaders()[0]))
    path = tmp_path / "tiny.ckpt"
    trainer.save_checkpoint(path)
    with pytest.raises(ConfigError, match=r"is 'tests\.training\.tiny\.TinyTask', which is not"):
        load_lightning_checkpoint(path)
    loaded = load_lightning_checkpoint(path, TinyTask)
    assert loaded.net[2].p == 0.5
    torch.testing.assert_close(loaded.state_dict(), module.task.state_dict())


class OfAScript(TinyTask):
    """As a script that is run defines it: nobody else can import ``__main__.OfAScript``."""


OfAScript.__module__ = "__main__"


def test_a_task_of_a_script_says_that_its_class_must_be_given(tmp_path: Path) -> None:
    module = LightningTask(OfAScript(), arguments={"dropout": 0.5})
    trainer = lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, LightningLoader(loaders()[0]))
    path = tmp_path / "script.ckpt"
    trainer.save_checkpoint(path)
    with pytest.raises(ConfigError) as caught:
        load_lightning_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: its task was defined in the script that was run (__main__.OfAScript), which "
        "cannot be found by name; give its class"
    )
    loaded = load_lightning_checkpoint(path, OfAScript)
    torch.testing.assert_close(loaded.state_dict(), module.task.state_dict())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system", "is 'os.system', which is not allowed"),
        ("papers.attention_is_all_you_need.model.os.system", "there is no"),
        ("common.utils.files.os.system", "not on the allow-list"),
        ("torch.nn.Linear", "is 'torch.nn.Linear', which is no Task"),
    ],
)
def test_a_name_in_the_file_goes_through_the_allow_list(
    tmp_path: Path, name: str, message: str
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "named.ckpt"
    arguments = {"command": f"touch {canary}"}
    record = {"task": name, "arguments": arguments, "info": None}
    torch.save({"state_dict": {}, "hyper_parameters": record}, path)
    with pytest.raises(ConfigError, match=message):
        load_lightning_checkpoint(path)
    assert not canary.exists()


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "state_dict"])
def test_a_malicious_checkpoint_is_refused(tmp_path: Path, place: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "bad.ckpt"
    state = {"state_dict": dict(TinyTask().state_dict()), "hyper_parameters": {}}
    torch.save(state | {place: {"x": _Bomb(canary)}}, path)
    for task in (None, TinyTask()):
        with pytest.raises(CheckpointError, match="cannot be read safely"):
            load_lightning_checkpoint(path, task)
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the bomb is a real one
    assert canary.exists()


class Foreign(pl.LightningModule):
    """What somebody else wrote: a network under ``model``, and a buffer beside it."""

    def __init__(self, width: int = 16, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = Network(width)
        self.register_buffer("class_weights", torch.ones(3))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch["x"]), batch["y"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)


class Network(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, Foreign]:
    module = Foreign(width=12)
    trainer = lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, LightningLoader(TensorLoader(features(64), 32)))
    trainer.save_checkpoint(tmp_path / "foreign.ckpt")
    return tmp_path / "foreign.ckpt", module


def test_weights_of_another_module_come_without_their_prefix(
    foreign: tuple[Path, Foreign],
) -> None:
    path, module = foreign
    for given in (Network(12), Network):  # a module of the right size; a class, built from the file
        loaded = load_lightning_checkpoint(path, given)
        assert torch.equal(loaded[2].weight, module.model[2].weight)


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(foreign: tuple[Path, Foreign]) -> None:
    task = Network(20)
    before = [p.clone() for p in task.parameters()]
    with pytest.raises(CheckpointError, match=r"3 differences: .*0\.weight has shape \(12, 8\)"):
        load_lightning_checkpoint(foreign[0], task)
    assert all(torch.equal(p, q) for p, q in zip(task.parameters(), before, strict=True))
    with pytest.raises(CheckpointError, match=r"missing net\.0\.weight"):
        load_lightning_checkpoint(foreign[0], TinyTask())
    with pytest.raises(ConfigError, match="does not say which task it holds"):
        load_lightning_checkpoint(foreign[0])


def test_a_task_of_unknown_arguments_is_not_guessed(tmp_path: Path) -> None:
    task: Task = TranslationTask(SMALL)
    module = LightningTask(task, info=DatasetInfo(vocab_size=20))
    trainer = lightning_trainer(tmp_path, max_steps=1)
    trainer.fit(module, LightningLoader(sentences()))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="what TranslationTask was built with; give config"):
        load_lightning_checkpoint(tmp_path / "a.ckpt")
    loaded = load_lightning_checkpoint(tmp_path / "a.ckpt", config=SMALL)
    torch.testing.assert_close(loaded.state_dict(), task.state_dict())
