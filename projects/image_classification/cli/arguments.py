"""The flags of the eight tools, and the keys of the configuration that they set.

Nothing here imports PyTorch, so that ``--help`` and a mistyped flag are answered at once.
"""

import argparse
from collections.abc import Sequence

from common.utils.arguments import Parser as PlainParser

# Flags that people know, and the keys they set.
KEYS = {
    "fold": "data.fold",
    "batch_size": "training.batch_size",
    "num_epochs": "training.num_epochs",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "momentum": "optimizer.momentum",
    "optimizer": "optimizer.name",
    "architecture": "model.architecture",
    "trainer_type": "training.trainer_type",
    "device": "training.device",
    "num_workers": "data.num_workers",
    "seed": "seed",
}


class Parser(PlainParser):
    """A command line with flags that set keys."""

    def key_options(self, *names: str) -> None:
        """Add flags of ``KEYS``; their values are checked by the configuration's schema."""
        for name in names:
            self.option(name, f"the same as {KEYS[name]}=VALUE", metavar="VALUE")


def overrides_of(arguments: argparse.Namespace, words: Sequence[str]) -> list[str]:
    """The flags that set a key, as ``key=value``, before the words given so."""
    flags = [
        f"{key}={value}"
        for name, key in KEYS.items()
        if (value := getattr(arguments, name, None)) is not None
    ]
    return [*flags, *words]
