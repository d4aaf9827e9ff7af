"""A finished matcher, in ONE file and nothing else: images in, embeddings out, and what is a match.

    matcher = Matcher.load("RUN")                  # of a run with several folds the best one
    embeddings = matcher.embed(["a.jpg", "b.jpg"])
    matcher.rule.matches(Rows(embeddings)).matches

The file holds tensors and plain values (``common.utils.save_checkpoint``): weights, the network's
section of the configuration, the recipe of its pixels, thresholds and their units. It may come from
somebody else: what is built is on the configuration's allow-list, and every value is checked.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import instantiate
from common.config.tree import plain
from common.data.image_batches import stack_images
from common.data.image_reading import read_images
from common.data.images import name_of
from common.data.preprocessing import Preprocessing
from common.models import Normalize
from common.utils.checkpoint import check_weights, load_weights, save_checkpoint
from common.utils.errors import CheckpointError, ConfigError, DataError
from common.utils.text import printable
from common.utils.weights import hash_weights
from projects.product_matching.core.index.manifest import ModelMark
from projects.product_matching.core.matching.match_rules import MatchRule
from projects.product_matching.core.matching.matcher_files import (
    KIND,
    check_networks,
    matcher_file,
    read_matcher,
)
from projects.product_matching.core.text.encoders import TextEncoder, text_encoder_of


class EmbeddedPart(NamedTuple):
    """Some of the images, embedded.

    Attributes:
        rows: Which could be read.
        embeddings: Of these, ``(len(rows), D)``.
        unreadable: Why each of the others could not, by row.
    """

    rows: list[int]
    embeddings: Tensor
    unreadable: dict[int, str]


@dataclass(frozen=True, eq=False)
class Matcher:
    """Weights with all that is needed to use them.

    Attributes:
        network: Normalised images ``(B, C, H, W)`` to embeddings ``(B, D)``, of any length.
        section: Its part of the configuration, with ``_target_`` and nothing left open.
        preprocessing: From a file to the network's uint8 pixels, mean and standard deviation
            included.
        rule: What passes as a match.
        class_names: Labels that were trained on.
        run: The run's name.
        fold: Of the run, that was held out.
        score: The F of that fold, at thresholds picked elsewhere.
        text: The state of the encoder of titles, see ``TextEncoder``; ``None`` without titles.
        path: The file it was read from.

    Raises:
        ConfigError: if mean and standard deviation are open.
    """

    network: nn.Module
    section: Mapping[str, Any]
    preprocessing: Preprocessing
    rule: MatchRule
    class_names: tuple[str, ...]
    run: str
    fold: int
    score: float
    text: Mapping[str, Any] | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        recipe = self.preprocessing.config
        if recipe.mean is None or recipe.std is None:
            raise ConfigError("the preprocessing of a matcher has no mean and std; set them first")
        self.network.eval().requires_grad_(False)

    @cached_property
    def weights_sha256(self) -> str:
        """Of the network's weights."""
        return hash_weights(self.network.state_dict())

    @property
    def mark(self) -> ModelMark:
        """Whose vectors its embeddings are, for an index."""
        return ModelMark(f"{self.run}, fold {self.fold}", self.weights_sha256)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.network.embedding_dim)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Of titles.

        Raises:
            ConfigError: if the run matched by images alone.
            CheckpointError, DownloadError: if a transformer cannot be had.
        """
        if self.text is None:
            raise ConfigError(f"run '{self.run}' matches by images alone; it knows no titles")
        return text_encoder_of(self.text)

    @torch.inference_mode()
    def embed_pixels(self, images: Tensor) -> Tensor:
        """Embeddings of a batch.

        Args:
            images: uint8 ``(B, C, H, W)``, as ``preprocessing`` gives them.

        Returns:
            ``(B, D)`` on the CPU, float32, of length one; not checked for NaN.
        """
        rows = self.network(self._normalize(images.to(self.device)))
        return F.normalize(rows.float()).cpu()

    def embed(self, images: Sequence[Any], batch_size: int = 256, workers: int = 0) -> Tensor:
        """Embeddings of images.

        Args:
            images: Paths, bytes, PIL images, or what ``datasets`` stores.
            batch_size: Images at a time.
            workers: Processes that read ahead.

        Returns:
            ``(N, D)`` on the CPU, float32, of length one.

        Raises:
            DataError: for the first image that cannot be read, and if an embedding is not finite.
        """
        found = [torch.empty(0, self.dimension)]
        for part in self.embed_in_parts(images, batch_size, workers, size=batch_size):
            if part.unreadable:
                raise DataError(next(iter(part.unreadable.values())))
            found.append(part.embeddings)
        return torch.cat(found)

    def embed_in_parts(
        self, images: Sequence[Any], batch_size: int = 256, workers: int = 0, *, size: int
    ) -> Iterator[EmbeddedPart]:
        """Embeddings of ``size`` images after the other, so that no more are in memory.

        Args:
            images: As for ``embed``, as the rest.
            size: Images of a part.

        Raises:
            DataError: if an embedding is not finite.
        """
        with closing(read_images(images, self.preprocessing, workers)) as pixels:
            for start in range(0, len(images), size):
                rows, batch, found = list[int](), list[Tensor](), list[Tensor]()
                unreadable = dict[int, str]()
                for row in range(start, min(start + size, len(images))):
                    image = next(pixels)
                    if isinstance(image, str):
                        unreadable[row] = image
                        continue
                    rows.append(row)
                    batch.append(image)
                    if len(batch) == batch_size:
                        found.append(self.embed_pixels(stack_images(batch)))
                        batch.clear()
                if batch:
                    found.append(self.embed_pixels(stack_images(batch)))
                embeddings = torch.cat([torch.empty(0, self.dimension), *found])
                self.check(embeddings, [name_of(images[row]) for row in rows])
                yield EmbeddedPart(rows, embeddings, unreadable)

    def check(self, embeddings: Tensor, names: Sequence[str]) -> None:
        """Refuse embeddings that point nowhere: NaN, infinite, or zero.

        Args:
            embeddings: As ``embed_pixels`` gives them.
            names: Of the images.

        Raises:
            DataError: naming the first of these images.
        """
        sound = embeddings.isfinite().all(1) & embeddings.any(1)
        bad = (~sound).nonzero().flatten().tolist()
        if bad:
            shown = ", ".join(printable(names[row]) for row in bad[:3])
            raise DataError(
                f"{len(bad):,} of {len(names):,} embeddings are not finite, or zero ({shown}); the "
                f"network of run '{self.run}', fold {self.fold}, has diverged: use another fold or "
                "train again"
            )

    def save(self, path: Path | str) -> None:
        """Write the one file; an old one is replaced at once.

        Raises:
            CheckpointError: if it cannot be written.
        """
        weights = {name: value.cpu() for name, value in self.network.state_dict().items()}
        state = {
            "kind": KIND,
            "model": dict(self.section),
            "preprocessing": self.preprocessing.describe(),
            "rule": dataclasses.asdict(self.rule),
            "class_names": list(self.class_names),
            "run": self.run,
            "fold": self.fold,
            "score": float(self.score),
            "text": None if self.text is None else dict(self.text),
            "weights": weights,
            "weights_sha256": self.weights_sha256,
        }
        save_checkpoint(state, path)

    @classmethod
    def load(
        cls, place: Path | str, fold: int | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Read a matcher.

        Args:
            place: A matcher's file, or a run's directory: of its folds the one with the best score,
                the first of equal ones.
            fold: Of the run's folds this one.
            device: Where to put the weights.

        Raises:
            CheckpointError: if there is none, or it is damaged or does not fit together.
            ConfigError: if the file asks for what is not allowed, or there is no such fold.
        """
        path = matcher_file(place, fold)
        return cls._of_state(read_matcher(path), path, torch.device(device))

    @classmethod
    def _of_state(cls, state: Mapping[str, Any], path: Path, device: torch.device) -> Self:
        section, recipe, weights = state["model"], state["preprocessing"], state["weights"]
        try:
            section = plain(section)
            check_networks(section)
            network = _network(section, weights, path)
            preprocessing = Preprocessing.from_description(recipe)
            rule = MatchRule.of_state(state["rule"])
        except CheckpointError:
            raise
        except Exception as error:  # a network that is built meets whatever its section says
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{path} cannot be used: {reason}") from None
        load_weights(network, weights, str(path))
        found = cls(
            network=network.to(device),
            section=section,
            preprocessing=preprocessing,
            rule=rule,
            class_names=tuple(map(str, state["class_names"])),
            run=state["run"],
            fold=state["fold"],
            score=float(state["score"]),
            text=state["text"],
            path=path,
        )
        if found.weights_sha256 != state["weights_sha256"]:
            raise CheckpointError(
                f"{path}: its weights are not those it was written with (SHA-256 "
                f"{found.weights_sha256[:12]}, expected {str(state['weights_sha256'])[:12]}); "
                "train again, or restore the file"
            )
        _ = found.mark  # the run's name is checked
        return found

    @cached_property
    def _normalize(self) -> Normalize:
        recipe = self.preprocessing.config
        return Normalize(recipe.mean or (), recipe.std or ()).to(self.device)


def _network(section: dict[str, Any], weights: Mapping[str, Any], path: Path) -> nn.Module:
    """The network of a file, built after its shapes have been compared with those of the weights.

    Raises:
        ConfigError: if it is no network of embeddings.
        CheckpointError: if the weights are another network's.
    """
    sketch: nn.Module | None = None
    with suppress(Exception), torch.device("meta"):
        # Without memory, of which a foreign file may ask for any amount. A network that needs values
        # while it is built has no sketch; any other error comes again below.
        sketch = instantiate(section)
    if sketch is not None and hasattr(sketch, "embedding_dim"):
        check_weights(sketch, weights, str(path))
    network: nn.Module = instantiate(section)
    if not isinstance(getattr(network, "embedding_dim", None), int):
        raise ConfigError(f"{section['_target_']} has no embedding_dim")
    return network
