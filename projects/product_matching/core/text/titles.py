"""Titles of a fold as vectors: the encoder is fitted to what the network was trained on, and kept."""

from pathlib import Path

from torch import Tensor

from common.utils.checkpoint import load_checkpoint, save_checkpoint
from projects.product_matching.core.config import Config
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.text.encoders import build_text_encoder, text_encoder_of

ENCODER = "titles.pt"


def title_embeddings(config: Config, train: Items, held_out: Items, directory: Path) -> Tensor:
    """The titles that were held out, ``(N, T)``: unit rows, zeros for titles that say nothing.

    Args:
        config: Its ``text`` says which encoder.
        train: Its titles are what the encoder is fitted to.
        held_out: Its titles are encoded.
        directory: The fold's; the encoder's state is written there once.

    Raises:
        DataError: if no title of training says anything.
        ConfigError, CheckpointError, DownloadError: if an encoder cannot be had.
    """
    path = directory / ENCODER
    if path.is_file():
        encoder = text_encoder_of(load_checkpoint(path))
    else:
        encoder = build_text_encoder(config.text, train.titles or ())
        save_checkpoint(encoder.state(), path)
    return encoder.encode(held_out.titles or ())
