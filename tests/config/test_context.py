"""Provenance and lifetimes: who decided a value, and how long it stays."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import (
    ConfigConflictError,
    Lifetime,
    RunContext,
    Source,
    compose,
    load_run_config,
)
from common.config.files import parse_config
from common.utils.errors import ConfigError


@pytest.fixture
def composed(module: Any) -> tuple[Any, RunContext]:
    """A configuration with a value from every kind of place."""
    overrides = ["optim.lr=1e-2", "+new.key=1", "title='a: \"b\" # c'"]
    return compose(module.Config, module.__file__, None, overrides)


def test_every_value_knows_who_decided_it(composed: tuple[Any, RunContext]):
    _, context = composed
    assert context.source("optim.lr") is Source.USER
    assert context.source("seed") is Source.USER
    assert context.source("new.key") is Source.USER
    assert context.source("batch_size") is Source.DEFAULT
    with pytest.raises(KeyError):
        context.source("no.such.key")


def test_values_are_read_by_their_key(composed: tuple[Any, RunContext]):
    _, context = composed
    assert context.get("optim.lr") == 0.01
    assert context.get("new.key") == 1
    assert context.get("no.such.key", 5) == 5


def test_data_fills_what_nobody_set(composed: tuple[Any, RunContext]):
    config, context = composed
    assert context.resolve("model.vocab_size", 97) == 97
    assert config.model.vocab_size == 97
    assert context.source("model.vocab_size") is Source.DATA


def test_data_replaces_a_default(composed: tuple[Any, RunContext]):
    config, context = composed
    context.resolve("batch_size", 16)
    assert (config.batch_size, context.source("batch_size")) == (16, Source.DATA)


def test_data_that_contradicts_the_user_stops_the_run(module: Any):
    config, context = compose(module.Config, module.__file__, None, ["model.vocab_size=100"])
    with pytest.raises(
        ConfigConflictError, match=r"is 100 \(command line\).*data says 97"
    ) as error:
        context.resolve("model.vocab_size", 97)
    assert isinstance(error.value, ConfigError)
    assert config.model.vocab_size == 100


def test_a_conflict_names_the_line_of_the_file(toy: Path, module: Any):
    (toy / "config.yaml").write_text("seed: 1\nmodel:\n  vocab_size: 100\n")
    _, context = compose(module.Config, module.__file__)
    with pytest.raises(ConfigConflictError, match=r"config\.yaml:3\)"):
        context.resolve("model.vocab_size", 97)


def test_data_that_agrees_leaves_the_users_value(module: Any):
    _, context = compose(module.Config, module.__file__, None, ["model.vocab_size=97"])
    assert context.resolve("model.vocab_size", 97) == 97
    assert context.source("model.vocab_size") is Source.USER


def test_data_fills_a_null_of_the_user(module: Any):
    config, context = compose(module.Config, module.__file__, None, ["model.vocab_size=null"])
    context.resolve("model.vocab_size", 97)
    assert config.model.vocab_size == 97


@pytest.mark.parametrize(
    ("first", "second", "stays"),
    [
        (Source.DATA, Source.DERIVED, 1),
        (Source.DERIVED, Source.DATA, 2),
        (Source.DERIVED, Source.DERIVED, 2),
    ],
)
def test_a_derivation_gives_way_to_data(first: Source, second: Source, stays: int):
    context = RunContext()
    context.resolve("total_steps", 1, first)
    assert context.resolve("total_steps", 2, second) == stays
    assert context.get("total_steps") == stays


def test_a_derivation_gives_way_to_the_user(module: Any):
    config, context = compose(module.Config, module.__file__, None, ["batch_size=3"])
    assert context.resolve("batch_size", 8, Source.DERIVED) == 3
    assert config.batch_size == 3


def test_two_parts_of_the_data_that_disagree_stop_the_run():
    context = RunContext()
    context.resolve("data.num_classes", 10, by="train.csv")
    context.resolve("data.num_classes", 10, by="test.csv")
    with pytest.raises(
        ConfigConflictError,
        match=r"data.num_classes is 10 \(DATA: test.csv\), but other.csv says 12",
    ):
        context.resolve("data.num_classes", 12, by="other.csv")
    assert context.to_yaml() == "data:\n  num_classes: 10  # DATA: test.csv\n"


def test_a_user_who_overrules_a_derivation_is_told_once(module: Any, logged: list[str]):
    _, context = compose(module.Config, module.__file__, None, ["batch_size=3"])
    for _ in range(2):
        assert context.resolve("batch_size", 8, Source.DERIVED) == 3
    assert logged == ["batch_size stays 3 (command line); derived, it would be 8"]


def test_a_section_keeps_its_keys_below_its_name():
    context = RunContext()
    data = context.namespace("data")
    data.resolve("num_classes", 10)
    data.set("mean", 0.5, Source.DATA, by="train.csv")
    data.derive("bits", lambda classes: classes.bit_length(), ("data.num_classes",))
    assert data.get("num_classes") == context.get("data.num_classes") == 10
    assert data.source("mean") is context.source("data.mean") is Source.DATA
    assert context.get("data.bits") == 4
    assert data.get("other", 7) == 7
    assert context.get("num_classes") is None


def test_a_section_beside_the_configuration_is_refused():
    with pytest.raises(TypeError, match="data is a section"):
        RunContext().set("data", {"mean": 0.5}, Source.DATA)


def test_values_live_for_a_step_an_epoch_or_the_run():
    context = RunContext()
    context.set("x", "run", Source.DERIVED)
    context.set("x", "epoch", Source.DERIVED, Lifetime.EPOCH)
    context.set("x", torch.zeros(2), Source.DATA, Lifetime.STEP)
    assert context.source("x") is Source.DATA
    context.end(Lifetime.STEP)
    assert context.get("x") == "epoch"
    context.set("x", "step", Source.DERIVED, Lifetime.STEP)
    context.end(Lifetime.EPOCH)
    assert context.get("x") == "run"
    context.end(Lifetime.RUN)
    assert context.get("x") is None


def test_a_run_keeps_only_what_can_be_saved():
    with pytest.raises(TypeError, match="not a configuration value"):
        RunContext().set("x", object(), Source.DATA)


def test_numbers_of_arrays_and_tensors_are_saved_as_numbers():
    context = RunContext()
    context.set("data.mean", torch.tensor(0.5), Source.DATA)
    assert context.to_yaml() == "data:\n  mean: 0.5  # DATA\n"


def test_values_lists_what_one_source_decided(composed: tuple[Any, RunContext]):
    _, context = composed
    context.resolve("model.vocab_size", 97)
    context.set("data.num_examples", 60, Source.DATA)
    context.set("trainer.total_steps", 500, Source.DERIVED)
    assert context.values(Source.DATA) == {"model.vocab_size": 97, "data.num_examples": 60}
    assert context.values(Source.DERIVED) == {"trainer.total_steps": 500}


def test_every_line_of_the_saved_configuration_names_its_source(composed: tuple[Any, RunContext]):
    _, context = composed
    context.resolve("model.vocab_size", 97)
    context.set("trainer.total_steps", 500, Source.DERIVED)
    lines = context.to_yaml().splitlines()
    for line in (
        "seed: 1  # USER: config.yaml",
        "  d_model: 16  # USER: configs/model/base.yaml",
        "  vocab_size: 97  # DATA",
        "  lr: 0.01  # USER: command line",
        "  betas: [0.9, 0.98]  # DEFAULT",
        "  key: 1  # USER: + command line",
        "  total_steps: 500  # DERIVED",
    ):
        assert line in lines
    assert all(line.endswith(":") or "  # " in line for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "plain", "a b", "", "null", "true", "yes", "1e-3", "12", "- x", "a: b", "a # b", "#", "'",
        '"', "\\", "tab\t", "line\nbreak", "é", "日本", "\U0001f600", "\x7f", "\u2028", "~", "{a}",
        "[a]", "*a", "&a", "!a", "%a", "@a", "`a", " lead", "trail ", "$HOME", "2024-01-01",
    ],
)  # fmt: skip
def test_any_text_reads_back_as_it_was(text: str):
    context = RunContext()
    context.set("key", text, Source.DATA)
    context.set("list", [text, {text or "x": text}], Source.DATA)
    content = parse_config(context.to_yaml(), "file").content
    assert content == {"key": text, "list": [text, {text or "x": text}]}


@pytest.mark.parametrize("number", [1e-05, 1e16, 0.1, -0.0, 1 / 3, 5e-324, 2**70, -7, float("inf")])
def test_any_number_reads_back_as_it_was(number: float):
    context = RunContext()
    context.set("key", number, Source.DATA)
    assert repr(parse_config(context.to_yaml(), "file").content["key"]) == repr(number)


def test_a_saved_configuration_reads_back_with_its_sources(
    module: Any, composed: tuple[Any, RunContext], tmp_path: Path
):
    config, context = composed
    context.resolve("model.vocab_size", 97)
    context.set("trainer.total_steps", 500, Source.DERIVED)
    (tmp_path / "config.yaml").write_text(context.to_yaml())
    config_again, again = load_run_config(module.Config, tmp_path)
    assert config_again == config
    assert again.extra == context.extra
    assert again.to_yaml() == context.to_yaml()
    again.resolve("model.vocab_size", 98)  # DATA, not USER: other data may say otherwise
    assert config_again.model.vocab_size == 98
