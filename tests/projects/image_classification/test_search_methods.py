"""Samplers and pruners by name."""

import pytest

from common.utils.errors import ConfigError
from projects.image_classification.core.config import SearchConfig, SearchTypeConfig
from projects.image_classification.core.search.methods import (
    PRUNERS,
    SAMPLERS,
    build_pruner,
    build_sampler,
    sampler_seed,
)
from projects.image_classification.core.search.space import parse_space

optuna = pytest.importorskip("optuna")

SPACE = {
    "optimizer.momentum": {"type": "uniform", "low": 0.5, "high": 0.9, "step": 0.2},
    "training.batch_size": {"type": "int", "low": 8, "high": 24, "step": 8},
}


def sampler(kind: str = "", space: dict = SPACE, first: int = 0, **options):
    return build_sampler(
        SearchConfig(sampler=SearchTypeConfig(kind, options)), parse_space(space), first
    )


def pruner(kind: str = "", over_folds: bool = False, **options):
    return build_pruner(SearchConfig(pruner=SearchTypeConfig(kind, options)), over_folds)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_sampler_suggests_values(kind):
    parameters = parse_space(SPACE)
    study = optuna.create_study(sampler=sampler(kind))
    study.optimize(lambda t: sum(p.suggest(t) for p in parameters), n_trials=4)
    assert len(study.trials) == 4


@pytest.mark.parametrize("kind", PRUNERS)
def test_every_pruner_answers(kind):
    options = {"lower": 0.0} if kind == "ThresholdPruner" else {}
    study = optuna.create_study(pruner=pruner(kind, over_folds=True, **options))
    trial = study.ask()
    trial.report(1.0, 1)
    assert trial.should_prune() in (True, False)


def test_the_defaults_are_tpe_and_the_median_and_wilcoxons_test_over_folds():
    assert type(sampler()).__name__ == "TPESampler"
    assert type(pruner()).__name__ == "MedianPruner"
    assert type(pruner(over_folds=True)).__name__ == "WilcoxonPruner"


def test_a_grid_is_visited_once_and_then_the_study_ends():
    parameters = parse_space(SPACE)
    study = optuna.create_study(sampler=sampler("GridSampler"))
    study.optimize(lambda t: sum(p.suggest(t) for p in parameters), n_trials=50)
    seen = {tuple(round(v, 6) for v in t.params.values()) for t in study.trials}
    assert len(study.trials) == len(seen) == 3 * 3


def test_the_same_seed_tries_the_same_values():
    def tried(seed):
        parameters = parse_space(SPACE)
        study = optuna.create_study(sampler=sampler("RandomSampler", first=seed))
        study.optimize(lambda t: sum(p.suggest(t) for p in parameters), n_trials=5)
        return [t.params for t in study.trials]

    assert tried(3) == tried(3)
    assert tried(3) != tried(4)


def test_the_first_process_takes_the_seed_and_others_have_their_own():
    assert sampler_seed(7, is_first=True) == 7
    assert len({sampler_seed(7, is_first=False) for _ in range(10)}) == 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sampler("TPESampeler"), "did you mean 'TPESampler'"),
        (lambda: sampler("os"), "search.sampler.type is 'os'"),
        (lambda: sampler("TPESampler", n_startup=3), "did you mean 'n_startup_trials'"),
        (lambda: sampler("TPESampler", n_startup_trials="3"), "n_startup_trials is '3'"),
        (lambda: sampler("TPESampler", n_startup_trials=True), "expected int"),
        (lambda: sampler("TPESampler", gamma=1), "which a configuration cannot hold"),
        (lambda: sampler("TPESampler", seed=1), "it comes from seed"),
        (lambda: sampler("GridSampler", search_space=1), "it comes from search.search_space"),
        (
            lambda: sampler(
                "GridSampler", {"optimizer.lr": {"type": "uniform", "low": 1, "high": 2}}
            ),
            "optimizer.lr has no list of values",
        ),
        (
            lambda: sampler(
                "CmaEsSampler", {"optimizer.name": {"type": "categorical", "choices": ["sgd"]}}
            ),
            "two or more numbers",
        ),
        (lambda: pruner("MedianPrunner"), "did you mean 'MedianPruner'"),
        (lambda: pruner("WilcoxonPruner"), "search.fold=all"),
        (lambda: pruner("PercentilePruner", percentile=120.0), "search.pruner (PercentilePruner)"),
    ],
)
def test_a_wrong_method_is_named_with_what_was_expected(make, words):
    with pytest.raises(ConfigError) as caught:
        make()
    assert words in str(caught.value)
