"""Short names that people type, and the namespaced repositories they stand for."""

import re

from common.utils.errors import UnsafeNameError
from common.utils.paths import validate_name

DATASETS = {
    "ag_news": "fancyzhx/ag_news",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "glue": "nyu-mll/glue",
    "imdb": "stanfordnlp/imdb",
    "mnist": "ylecun/mnist",
    "multi30k": "bentrevett/multi30k",
    "rotten_tomatoes": "cornell-movie-review-data/rotten_tomatoes",
    "snli": "stanfordnlp/snli",
    "squad": "rajpurkar/squad",
    "squad_v2": "rajpurkar/squad_v2",
    "sst2": "stanfordnlp/sst2",
    "tiny_shakespeare": "karpathy/tiny_shakespeare",
    "wikitext": "Salesforce/wikitext",
    "wmt14": "wmt/wmt14",
    "wmt16": "wmt/wmt16",
}
MODELS = {
    "albert-base-v2": "albert/albert-base-v2",
    "bert-base-cased": "google-bert/bert-base-cased",
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert-large-uncased": "google-bert/bert-large-uncased",
    "distilbert-base-uncased": "distilbert/distilbert-base-uncased",
    "distilgpt2": "distilbert/distilgpt2",
    "gpt2": "openai-community/gpt2",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-xl": "openai-community/gpt2-xl",
    "roberta-base": "FacebookAI/roberta-base",
    "roberta-large": "FacebookAI/roberta-large",
    "t5-base": "google-t5/t5-base",
    "t5-large": "google-t5/t5-large",
    "t5-small": "google-t5/t5-small",
    "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
}
ALIASES = {"datasets": DATASETS, "models": MODELS}

_REPOSITORY = re.compile(r"([A-Za-z0-9._-]+/)?[A-Za-z0-9._-]+")


def resolve_alias(kind: str, name: str) -> str:
    """The repository that ``name`` stands for.

    Args:
        kind: ``"datasets"`` or ``"models"``.
        name: A short name, or ``namespace/name``.

    Raises:
        UnsafeNameError: if ``name`` cannot be the name of a repository.
    """
    what = "data set" if kind == "datasets" else "model"
    validate_name(name, what)
    if not _REPOSITORY.fullmatch(name):
        raise UnsafeNameError(
            f"{what} {name!a} is no repository name; expected 'name' or 'namespace/name' of "
            "letters, digits, '.', '_' and '-'"
        )
    return ALIASES[kind].get(name, name)


def folder_name(name: str) -> str:
    """The folder of a name in the store; the namespace becomes a prefix."""
    return name.replace("/", "__")
