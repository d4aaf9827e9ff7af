"""Values made from others, those who hear of values, and what a checkpoint holds of them."""

from pathlib import Path
from typing import Any

import pytest

from common.config import (
    Lifetime,
    RunContext,
    Source,
    StaleValueError,
    compose,
    load_run_config,
)
from common.utils.errors import ConfigError


def save(context: RunContext, directory: Path) -> Path:
    (directory / "config.yaml").write_text(context.to_yaml())
    return directory


@pytest.fixture
def context(module: Any) -> RunContext:
    """The toy's, with a learning rate of 1e-2 that the user set."""
    return compose(module.Config, module.__file__, None, ["optim.lr=1e-2"])[1]


# ---- depends_on --------------------------------------------------------------------------


def test_a_derived_value_says_what_it_was_made_from(context: RunContext):
    context.set("floor", 1e-4, Source.DERIVED, depends_on=("optim.lr", "batch_size"))
    assert "floor: 0.0001  # DERIVED: from optim.lr, batch_size" in context.to_yaml().splitlines()


def test_a_function_computes_the_value_anew_in_the_configuration_too(module: Any):
    config, context = compose(module.Config, module.__file__)
    context.set("steps", 100, Source.DERIVED)
    context.derive("batch_size", lambda steps: steps // 10, ("steps",))
    assert config.batch_size == 10
    context.set("steps", 200, Source.DERIVED)
    assert config.batch_size == context.get("batch_size") == 20


def test_values_behind_one_another_are_computed_in_order():
    context = RunContext()
    calls: list[str] = []

    def traced(name: str, function: Any) -> Any:
        return lambda *values: (calls.append(name), function(*values))[1]

    context.set("a", 1, Source.DATA)
    context.derive("b", traced("b", lambda a: a + 1), ("a",))
    context.derive("c", traced("c", lambda a: a + 2), ("a",))
    context.derive("d", traced("d", lambda b, c: b * c), ("b", "c"))
    calls.clear()
    context.set("a", 10, Source.DATA)
    assert context.get("d") == 11 * 12
    assert sorted(calls) == ["b", "c", "d"]  # each once, d last
    assert calls[-1] == "d"


def test_without_a_function_a_value_is_stale_until_it_is_set_again():
    context = RunContext()
    context.set("a", 1, Source.DATA)
    context.set("b", 2, Source.DERIVED, depends_on=("a",))
    context.derive("c", lambda b: b + 1, ("b",))
    context.set("a", 1, Source.DATA)  # the same
    assert context.get("c") == 3
    context.set("a", 5, Source.DATA)
    for key, outer in (("b", "a"), ("c", "b")):
        with pytest.raises(StaleValueError, match=f"{key} was derived from {outer}, which changed"):
            context.get(key)
    assert "b: 2  # DERIVED: stale, from a" in context.to_yaml()
    context.set("b", 10, Source.DERIVED, depends_on=("a",))
    assert context.get("c") == 11


def test_a_function_that_fails_leaves_no_old_value_to_be_read():
    context = RunContext()
    context.set("a", 1, Source.DATA)
    context.derive("b", lambda a: 1 // a, ("a",))
    with pytest.raises(ZeroDivisionError):
        context.set("a", 0, Source.DATA)
    with pytest.raises(StaleValueError):
        context.get("b")


def test_the_users_value_is_not_derived_anew(module: Any):
    config, context = compose(module.Config, module.__file__, None, ["batch_size=3"])
    context.set("steps", 100, Source.DERIVED)
    assert context.derive("batch_size", lambda steps: steps // 10, ("steps",)) == 3
    context.set("steps", 200, Source.DERIVED)
    assert (config.batch_size, context.source("batch_size")) == (3, Source.USER)


def test_a_circle_is_refused_by_name():
    context = RunContext()
    context.set("a", 1, Source.DATA)
    context.set("b", 2, Source.DERIVED, depends_on=("a",))
    context.set("c", 3, Source.DERIVED, depends_on=("b",))
    with pytest.raises(ConfigError, match=r"in a circle: (a|b|c) <- .*b.*"):
        context.set("a", 4, Source.DERIVED, depends_on=("c",))
    with pytest.raises(ConfigError, match="in a circle: d <- d"):
        context.derive("d", lambda d: d, ("d",))
    assert context.get("a") == 1


@pytest.mark.parametrize(
    ("name", "problem"), [("optim.lrr", "is no value"), ("optim", "a section")]
)
def test_a_value_depends_on_values_that_are_there(context: RunContext, name: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        context.derive("floor", float, (name,))


def test_only_values_of_the_run_are_derived_from_others(context: RunContext):
    with pytest.raises(ConfigError, match="only a DERIVED value of the RUN"):
        context.set("x", 1, Source.DERIVED, Lifetime.EPOCH, depends_on=("seed",))
    with pytest.raises(ConfigError, match="only a DERIVED value of the RUN"):
        context.set("x", 1, Source.DATA, depends_on=("seed",))


def test_a_resumed_run_knows_what_an_override_makes_stale(
    module: Any, context: RunContext, tmp_path: Path
):
    context.set("floor", 1e-4, Source.DERIVED, depends_on=("optim.lr",))
    save(context, tmp_path)
    _, same = load_run_config(module.Config, tmp_path, ["optim.lr=1e-2", "seed=8"])
    assert same.get("floor") == 1e-4
    _, changed = load_run_config(module.Config, tmp_path, ["optim.lr=1e-3"])
    with pytest.raises(StaleValueError, match=r"floor was derived from optim\.lr"):
        changed.get("floor")
    changed.derive("floor", lambda rate: rate / 100, ("optim.lr",))
    assert changed.get("floor") == 1e-5


def test_comments_that_claim_a_circle_are_one_line(module: Any, tmp_path: Path):
    text = "seed: 1  # DERIVED: from a\na: 1  # DERIVED: from seed\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="in a circle"):
        load_run_config(module.Config, tmp_path, ["batch_size=2"])


# ---- subscribe ---------------------------------------------------------------------------


def test_who_subscribes_hears_of_a_key_or_a_section(context: RunContext):
    heard: list[Any] = []
    context.subscribe("data", lambda *message: heard.append(message))
    context.subscribe("data.num_classes", lambda *message: heard.append(message))
    context.subscribe("dat", lambda *message: heard.append(message))
    context.resolve("data.num_classes", 10)
    context.set("data.loss", [1.0], Source.DERIVED, Lifetime.STEP)
    context.set("database", 1, Source.DATA)
    first = ("data.num_classes", 10, Source.DATA)
    assert heard == [first, first, ("data.loss", [1.0], Source.DERIVED)]


def test_the_value_that_is_heard_is_the_one_that_holds(context: RunContext):
    heard: list[Any] = []
    context.subscribe("optim", lambda *message: heard.append(message))
    context.resolve("optim.lr", 0.5, Source.DERIVED)
    with pytest.raises(ConfigError):
        context.resolve("optim.lr", 0.5, Source.DATA)
    assert heard == [("optim.lr", 0.01, Source.USER)]


def test_a_value_derived_anew_is_heard():
    context = RunContext()
    heard: list[Any] = []
    context.set("a", 1, Source.DATA)
    context.derive("b", lambda a: a + 1, ("a",))
    context.subscribe("b", lambda *message: heard.append(message))
    context.set("a", 2, Source.DATA)
    assert heard == [("b", 3, Source.DERIVED)]


def test_a_subscription_ends_also_while_it_is_called(context: RunContext):
    heard: list[int] = []

    def once(key: str, value: Any, source: Source) -> None:
        heard.append(value)
        end()

    end = context.subscribe("x", once)
    context.subscribe("x", lambda key, value, source: heard.append(-value))
    context.set("x", 1, Source.DATA)
    context.set("x", 2, Source.DATA)
    end()  # a second time does nothing
    assert heard == [1, -1, -2]


def test_what_a_subscriber_raises_reaches_whoever_set_the_value(context: RunContext):
    def refuse(key: str, value: Any, source: Source) -> None:
        raise ConfigError(f"{key} may not be {value}")

    context.subscribe("data", refuse)
    with pytest.raises(ConfigError, match=r"data\.x may not be 1"):
        context.set("data.x", 1, Source.DATA)


# ---- what is in a checkpoint -------------------------------------------------------------


def test_a_checkpoint_brings_back_facts_and_the_epochs_values(context: RunContext):
    context.resolve("data.num_classes", 10, by="train.csv")
    context.set("data.limit", 3, Source.DERIVED, depends_on=("data.num_classes",))
    context.set("seen", [1, 2], Source.DERIVED, Lifetime.EPOCH)
    context.set("loss", object(), Source.DERIVED, Lifetime.STEP)
    state = context.state_dict()
    again = RunContext()
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert (again.get("data.num_classes"), again.source("data.num_classes")) == (10, Source.DATA)
    assert again.get("seen") == [1, 2]
    assert again.get("loss") is None
    again.end(Lifetime.EPOCH)
    assert again.get("seen") is None
    again.set("data.num_classes", 12, Source.DATA)
    with pytest.raises(StaleValueError):
        again.get("data.limit")


def test_the_state_of_a_context_passes_a_checkpoint_file(context: RunContext, tmp_path: Path):
    from common.utils import load_checkpoint, save_checkpoint

    context.set("data.mean", [0.1, None, True, "x"], Source.DATA)
    context.set("seen", {"a": 1}, Source.DERIVED, Lifetime.EPOCH)
    save_checkpoint({"context": context.state_dict()}, tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt")["context"] == context.state_dict()


def test_contradictions_of_the_data_are_named_one_by_one(module: Any, logged: list[str]):
    def said(size: int, classes: int, steps: int) -> RunContext:
        context = compose(module.Config, module.__file__)[1]
        context.resolve("model.vocab_size", size)
        context.resolve("data.num_classes", classes)
        context.set("steps", steps, Source.DERIVED)
        return context

    state = said(100, 10, 5).state_dict()
    assert said(100, 10, 6).contradictions(state) == []
    now = said(120, 12, 6)
    now.set("data.mean", 0.5, Source.DATA)
    assert sorted(now.contradictions(state)) == [
        "data.mean was not known, is 0.5 (DATA)",
        "data.num_classes was 10 (DATA), is 12 (DATA)",
        "model.vocab_size was 100 (DATA), is 120 (DATA)",
    ]
    said(100, 10, 6).load_state_dict(state)
    assert logged == ["steps was 5 (DERIVED), is 6 (DERIVED)"]


def test_data_that_says_otherwise_than_in_the_earlier_run_is_named(
    module: Any, context: RunContext, tmp_path: Path, logged: list[str]
):
    context.resolve("model.vocab_size", 97)
    config, again = load_run_config(module.Config, save(context, tmp_path))
    again.resolve("model.vocab_size", 98)
    assert config.model.vocab_size == 98
    assert logged == ["model.vocab_size was 97 (DATA), is 98 (DATA)"]


def test_an_epochs_value_must_be_one_a_checkpoint_can_hold():
    with pytest.raises(TypeError, match="not a configuration value"):
        RunContext().set("x", object(), Source.DERIVED, Lifetime.EPOCH)
