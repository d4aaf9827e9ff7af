"""A low precision that this CPU is slow at is told, once."""

import pytest
import torch

from common.training import precision
from common.training.precision import Precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_at_the_start() -> None:
    precision._warn_once.cache_clear()


def _has(flags: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_without_instructions_one_warning_is_given_for_any_number_of_trainers(
    name: str, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    _has({"avx2": True}, monkeypatch)
    Precision(name, CPU)
    Precision(name, CPU)
    assert len([line for line in logged if "use trainer.precision=fp32" in line]) == 1


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("bf16", {"amx_bf16": True}),
        ("bf16", {"avx512_bf16": True}),
        ("fp16", {"amx_fp16": True}),
        ("fp32", {}),
    ],
)
def test_with_instructions_or_in_fp32_there_is_nothing_to_say(
    name: str, flags: dict[str, bool], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    _has(flags, monkeypatch)
    Precision(name, CPU)
    assert logged == []


def test_units_for_one_kind_are_none_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    _has({"amx_bf16": True, "amx_fp16": False}, monkeypatch)
    assert precision.multiplies_fast("bf16")
    assert not precision.multiplies_fast("fp16")


def test_this_processor_is_asked() -> None:
    flags = torch.cpu.get_capabilities()
    expected = bool(flags.get("amx_bf16") or flags.get("avx512_bf16"))
    assert precision.multiplies_fast("bf16") == expected
