"""The search space: what is accepted, what is suggested, and what is refused before a study exists."""

import math

import pytest

from common.config.overrides import parse_overrides
from common.utils.errors import ConfigError
from projects.image_classification.core.search.space import override_word, parse_space

optuna = pytest.importorskip("optuna")

LR = {"type": "loguniform", "low": 1e-4, "high": 1e-1}


def suggested(key: str, entry: dict, count: int = 200) -> list:
    """Values of so many random trials."""
    (parameter,) = parse_space({key: entry})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [parameter.suggest(study.ask()) for _ in range(count)]


def test_a_loguniform_value_has_a_uniform_logarithm():
    values = [math.log10(v) for v in suggested("optimizer.lr", LR)]
    assert min(values) >= -4
    assert max(values) <= -1
    assert sum(values) / len(values) == pytest.approx(-2.5, abs=0.2)


def test_a_uniform_value_is_uniform_and_keeps_its_step():
    entry = {"type": "uniform", "low": 0.5, "high": 0.9, "step": 0.1}
    values = suggested("optimizer.momentum", entry)
    assert {round(v, 6) for v in values} == {0.5, 0.6, 0.7, 0.8, 0.9}


def test_an_integer_is_an_integer_with_its_step():
    values = suggested("training.batch_size", {"type": "int", "low": 16, "high": 48, "step": 16})
    assert set(values) == {16, 32, 48}
    assert all(type(v) is int for v in values)


def test_choices_may_be_text_null_and_lists():
    assert set(
        suggested("optimizer.name", {"type": "categorical", "choices": ["sgd", "adamw"]})
    ) == {
        "sgd",
        "adamw",
    }
    entry = {"type": "categorical", "choices": [None, [0.9, 0.99], [0.8, 0.9]]}
    values = suggested("optimizer.betas", entry)
    assert [0.9, 0.99] in values
    assert None in values


def test_a_list_that_is_a_choice_comes_back_from_what_the_storage_holds():
    entry = {"type": "categorical", "choices": [[0.9, 0.99], [0.8, 0.9]]}
    (parameter,) = parse_space({"optimizer.betas": entry})
    study = optuna.create_study()
    trial = study.ask()
    value = parameter.suggest(trial)
    assert parameter.decode(trial.params["optimizer.betas"]) == value


def test_a_key_may_be_dotted_or_nested_and_a_word_changes_one_value_of_it():
    nested = parse_space({"optimizer": {"lr": dict(LR)}})
    assert nested == parse_space({"optimizer.lr": dict(LR)})
    (changed,) = parse_space({"optimizer.lr": dict(LR), "optimizer": {"lr": {"low": 1e-3}}})
    assert (changed.low, changed.high) == (1e-3, 1e-1)


def test_a_grid_holds_both_ends():
    (momentum,) = parse_space(
        {"optimizer.momentum": {"type": "uniform", "low": 0.7, "high": 0.9, "step": 0.1}}
    )
    assert momentum.grid() == pytest.approx([0.7, 0.8, 0.9])
    (size,) = parse_space({"training.batch_size": {"type": "int", "low": 1, "high": 4, "step": 2}})
    assert size.grid() == [1, 3]
    with pytest.raises(ConfigError, match=r"optimizer\.lr has no list"):
        parse_space({"optimizer.lr": dict(LR)})[0].grid()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "is empty"),
        ({"optimizer.lrr": LR}, "optimizer.lrr is not a key; did you mean 'optimizer.lr'"),
        ({"lr": LR}, "did you mean 'optimizer.lr'"),
        ({"optimizer": LR}, "optimizer is a section"),
        ({"optimizer.lr": 0.1}, "optimizer.lr is 0.1, expected a section"),
        ({"optimizer.lr": {"low": 1, "high": 2}}, "optimizer.lr.type is missing"),
        ({"optimizer.lr": {**LR, "type": "logunifrom"}}, "optimizer.lr.type is 'logunifrom'"),
        ({"optimizer.lr": {**LR, "lo": 1}}, "did you mean 'low'"),
        ({"optimizer.lr": {**LR, "step": 1}}, "optimizer.lr.step is nothing of type loguniform"),
        ({"optimizer.lr": {"type": "uniform", "low": 0.1}}, "optimizer.lr.high is missing"),
        ({"optimizer.lr": {**LR, "low": "small"}}, "optimizer.lr.low is 'small'"),
        ({"optimizer.lr": {**LR, "low": 0.2}}, "expected low < high"),
        ({"optimizer.lr": {**LR, "low": 0.1}}, "expected low < high"),
        ({"optimizer.lr": {**LR, "low": -1}}, "optimizer.lr is -1, expected > 0"),
        ({"optimizer.weight_decay": {**LR, "low": 0.0}}, "expected > 0, for its logarithm"),
        ({"optimizer.lr": {**LR, "high": math.inf}}, "optimizer.lr.high is Infinity"),
        (
            {"optimizer.momentum": {"type": "uniform", "low": 0.5, "high": 1.5}},
            "expected >= 0 and < 1",
        ),
        ({"training.batch_size": {"type": "uniform", "low": 8, "high": 64}}, "use int"),
        ({"training.batch_size": {"type": "int", "low": 0, "high": 64}}, "expected >= 1"),
        ({"training.batch_size": {"type": "int", "low": 8.5, "high": 64}}, "expected an integer"),
        (
            {"training.batch_size": {"type": "int", "low": 8, "high": 64, "step": 8, "log": True}},
            "exclude each other",
        ),
        (
            {"training.batch_size": {"type": "int", "low": 8, "high": 9, "step": 4}},
            "more than high",
        ),
        ({"optimizer.name": {"type": "categorical", "choices": []}}, "expected a list of values"),
        (
            {"optimizer.name": {"type": "categorical", "choices": "sgd"}},
            "expected a list of values",
        ),
        ({"optimizer.name": {"type": "categorical", "choices": ["sgd", "sgd"]}}, "twice"),
        ({"optimizer.name": {"type": "categorical", "choices": [1]}}, "optimizer.name is 1"),
        (
            {"training.trainer_type": {"type": "categorical", "choices": ["standart"]}},
            "did you mean 'standard'",
        ),
        ({"data.fold": {"type": "categorical", "choices": ["0", "1"]}}, "search.fold"),
        ({"search.n_trials": {"type": "int", "low": 1, "high": 2}}, "it is the search"),
    ],
)
def test_a_wrong_entry_is_named_with_what_was_expected(space, words):
    with pytest.raises(ConfigError) as caught:
        parse_space(space)
    assert words in str(caught.value)
    assert "search.search_space" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        *("plain", "it's", "a b=c,d", "back\\slash", "end\\", "\\'", "null", "1e-3", "日本", ""),
        *(1, 1e-5, 0.1 + 0.2, True, None, [0.9, 0.99], ["a b", "c"]),
    ],
)
def test_a_word_is_read_back_as_exactly_its_value(value):
    (override,) = parse_overrides([override_word("optimizer.name", value)])
    assert override.value == value
    assert type(override.value) is type(value)
