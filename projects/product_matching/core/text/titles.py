"""Titles of a fold as vectors: the encoder is fitted to what the network was trained on, and kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from common.utils.checkpoint import load_checkpoint, save_checkpoint
from common.utils.errors import DataError
from projects.product_matching.core.config import Config
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.text.encoders import (
    build_text_encoder,
    has_words,
    text_encoder_of,
)

ENCODER = "titles.pt"


def fit_titles(config: Config, train: Mapping[int, Items], home: Path) -> None:
    """Fit the encoder of every fold, and keep it until the fold has a directory.

    Args:
        config: Its ``text`` says which encoder.
        train: What each fold is trained on; its titles are what the encoder is fitted to.
        home: The session's directory; encoders that are there, or in a fold's, are left.

    Raises:
        DataError: if no title of training says anything.
        ConfigError, CheckpointError, DownloadError: if an encoder cannot be had.
    """
    state: dict[str, Any] | None = None
    for number, items in train.items():
        if (home / f"fold_{number}" / ENCODER).is_file() or _waiting(home, number).is_file():
            continue
        if not any(map(has_words, items.titles or ())):
            raise DataError(
                f"{items.origin}: no title that fold {number} is trained on has a word; is data.title "
                f"'{config.data.title}' the right column?"
            )
        if state is None or config.text.encoder != "transformers":  # which learns of no title
            state = build_text_encoder(config.text, items.titles or ()).state()
        save_checkpoint(state, _waiting(home, number))


def title_embeddings(home: Path, number: int, held_out: Items) -> Tensor:
    """The titles that were held out, ``(N, T)``: unit rows, zeros for titles that say nothing.

    Args:
        home: The session's directory, to which ``fit_titles`` has written.
        number: The fold's; its directory has the encoder's state from then on.
        held_out: Its titles are encoded.

    Raises:
        ConfigError, CheckpointError, DownloadError: if the encoder cannot be had any more.
    """
    path = home / f"fold_{number}" / ENCODER
    if not path.is_file():
        _waiting(home, number).replace(path)
    return text_encoder_of(load_checkpoint(path)).encode(held_out.titles or ())


def _waiting(home: Path, number: int) -> Path:
    return home / f"titles_{number}.pt"
