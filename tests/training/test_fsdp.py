"""What only sharded weights can do wrong."""

from collections.abc import Callable
from pathlib import Path

import torch

from common.utils import load_checkpoint
from tests.training.ranks import last
from tests.training.test_distributed import assert_close_run, note

Ran = Callable[[str], Path]


def test_every_rank_has_the_whole_task_back_after_a_run(ran: Ran) -> None:
    root = ran("fsdp")
    saved = load_checkpoint(last(root / "whole"))["model"]
    for rank in (0, 1):
        assert note(root, "sharded", rank) == []
        assert note(root, "kind", rank) == "StackTask"
        for name, values in note(root, "weights", rank).items():
            assert torch.equal(torch.tensor(values), saved[name]), name


def test_a_task_can_be_trained_again(ran: Ran) -> None:
    assert load_checkpoint(last(ran("fsdp") / "again"))["state"]["step"] == 2


def test_a_sharded_run_goes_on_under_ddp(ran: Ran) -> None:
    assert_close_run(ran("fsdp") / "single", ran("fsdp") / "other_strategy", 1e-5)


def test_a_scalar_parameter_is_named_and_refused(ran: Ran) -> None:
    for rank in (0, 1):
        message = note(ran("fsdp"), "scalar", rank)
        assert "ScalarTask.temperature" in message
        assert "trainer.strategy=ddp" in message
