"""Titles by a transformer of the ``transformers`` library: the mean of its last layer over a title.

The model is a folder, or a name in the store, from which it is fetched once. Weights are read from
safetensors and no code that comes with a model is run. A matcher keeps the model's name and the
hash of its weights, not the weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.utils.errors import CheckpointError, ConfigError
from common.utils.text import printable
from common.utils.weights import hash_weights
from projects.product_matching.core.text.encoders import has_words

_FILES = (
    *("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*"),
    *("merges.txt", "special_tokens_map.json", "*.model"),
)
_LONGEST = 256  # tokens of a title


class TransformersEncoder:
    """Mean pooling over the tokens of a title (Reimers & Gurevych 2019, 1908.10084, section 3).

    Args:
        model: A folder, or a name in the store.
        batch_size: Titles at a time.

    Raises:
        ConfigError: if ``transformers`` is not installed.
        CheckpointError: if the folder holds no such model.
        DataError, DownloadError: if the store has it not and cannot get it.
    """

    def __init__(self, model: str, *, batch_size: int = 64) -> None:
        self.model, self.batch_size = model, batch_size
        self._tokenizer, self._network = _loaded(model)
        self._network.eval().requires_grad_(False)
        positions = getattr(self._network.config, "max_position_embeddings", _LONGEST)
        self._longest = min(_LONGEST, positions, self._tokenizer.model_max_length)
        self.weights_sha256 = hash_weights(self._network.state_dict())

    @torch.inference_mode()
    def encode(self, titles: Sequence[str]) -> Tensor:
        """Unit rows ``(N, D)``, float32; zeros for titles without a word."""
        found = torch.zeros(len(titles), int(self._network.config.hidden_size))
        said = [row for row, title in enumerate(titles) if has_words(title)]
        said.sort(key=lambda row: len(titles[row]))  # little padding
        for start in range(0, len(said), self.batch_size):
            rows = said[start : start + self.batch_size]
            tokens = self._tokenizer(
                [titles[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            states = self._network(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            found[rows] = F.normalize((states * mask).sum(1) / mask.sum(1))
        return found

    def state(self) -> dict[str, Any]:
        """Plain values: which model, and the hash of its weights."""
        return {
            "encoder": "transformers",
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "batch_size": self.batch_size,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "TransformersEncoder":
        """The inverse of ``state``.

        Raises:
            CheckpointError: if a value is wrong, or the model is not the one it was.
        """
        model, size = state.get("model"), state.get("batch_size")
        if not isinstance(model, str) or not model or type(size) is not int or size < 1:
            raise CheckpointError(
                f"the transformer of titles is {str(model)[:80]!a} with batch_size {size!a}; "
                "expected the name of a model and a number"
            )
        encoder = cls(model, batch_size=size)
        if encoder.weights_sha256 != state.get("weights_sha256"):
            raise CheckpointError(
                f"the weights of {printable(model)} are not those the matcher was made with "
                f"(SHA-256 {encoder.weights_sha256[:12]}, expected "
                f"{str(state.get('weights_sha256'))[:12]}); put the model back as it was, or train "
                "again"
            )
        return encoder


def _loaded(model: str) -> tuple[Any, Any]:
    """Tokenizer and network of a model, float32."""
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise ConfigError(
            'text.encoder=transformers needs transformers: uv pip install -e ".[text]"'
        ) from None
    folder = Path(model).expanduser()
    if not folder.is_dir():
        from common.data import download_model

        folder = download_model(model, include=_FILES)
    logging.disable_progress_bar()
    only_here = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **only_here)
        network = AutoModel.from_pretrained(
            str(folder), use_safetensors=True, dtype=torch.float32, **only_here
        )
    except Exception as error:  # readers of configurations raise whatever they meet
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"text.model: {folder} holds no model that can be read: {reason[:200]}; expected "
            "config.json, a tokenizer and *.safetensors"
        ) from None
    finally:
        logging.enable_progress_bar()
    return tokenizer, network
