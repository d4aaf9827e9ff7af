"""One seed for every generator."""

import random

import numpy as np
import pytest
import torch

from common.utils import seed_everything


def test_the_same_seed_draws_the_same_numbers_from_every_generator() -> None:
    drawn = []
    for seed in (3, 3, 4):
        seed_everything(seed)
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert drawn[0] == drawn[1]
    assert all(ours != other for ours, other in zip(drawn[0], drawn[2], strict=True))


def test_deterministic_algorithms_are_asked_for_and_given_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        seed_everything(0, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        seed_everything(0)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_start_does_not_import_the_compiler(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which ``use_deterministic_algorithms`` does, and takes two seconds."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    try:
        seed_everything(0, deterministic)
    finally:
        seed_everything(0)
    assert asked == []
