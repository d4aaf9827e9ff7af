"""The index of a folder of images: vectors, the matcher that made them, and what is known of files.

    index = ImageIndex.build(directory, matcher)
    report = index.add(files)                 # in parts; unchanged files are passed over
    index = ImageIndex.open(directory)        # with the matcher that lies in it
    index.search(embeddings, k=10)

An image is named by its whole path. Parts are durable one by one: what was added stays when the
process ends, and the same addition goes on behind it.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from common.data.images import identity_of
from common.utils.errors import CheckpointError, DataError
from common.utils.text import printable
from projects.product_matching.core.index.file_states import STATES, FileStates
from projects.product_matching.core.index.manifest import MANIFEST
from projects.product_matching.core.index.names import encoded
from projects.product_matching.core.index.vector_index import Matches, VectorIndex
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.matching.matcher_files import MATCHER

_PART = 1024  # images that are embedded and then added
_NAMES = 1 << 14  # looked up at once


@dataclass
class Added:
    """What became of files.

    Attributes:
        new: How many were not in the index.
        replaced: How many were, in another state.
        unchanged: How many were passed over.
        unreadable: Why each of the others could not be added.
    """

    new: int = 0
    replaced: int = 0
    unchanged: int = 0
    unreadable: dict[Path, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Files that are in the index now."""
        return self.new + self.replaced + self.unchanged


class ImageIndex:
    """Images that can be searched by image.

    Attributes:
        vectors: The index itself.
        matcher: What embeds.
    """

    def __init__(self, vectors: VectorIndex, matcher: Matcher) -> None:
        self.vectors, self.matcher = vectors, matcher

    @classmethod
    def build(cls, directory: Path, matcher: Matcher, kind: str = "auto") -> Self:
        """Make an empty index; one that holds nothing yet is taken as it is.

        Args:
            directory: New, or empty.
            matcher: A copy of it is put into the folder.
            kind: As for ``VectorIndex.create``.

        Raises:
            DataError: if something else lies in ``directory``, or an index of another kind.
            ConfigError: if the kind needs FAISS, which is not installed.
            FaultError: if it cannot be written.
        """
        if (directory / MANIFEST).is_file():
            vectors = VectorIndex.open(directory)
            if len(vectors):
                raise DataError(
                    f"{directory} holds an index of {len(vectors):,} images; add to it with 'index "
                    "add', or choose an empty folder"
                )
            if (there := vectors.info().kind) != kind:
                raise DataError(
                    f"{directory} holds an empty index of the kind {there}, not {kind}; build it with "
                    f"--kind {there}, or choose an empty folder"
                )
            return cls.open(directory, matcher)
        vectors = VectorIndex.create(
            directory, dimension=matcher.dimension, model=matcher.mark, kind=kind
        )
        matcher.save(directory / MATCHER)
        return cls(vectors, matcher)

    @classmethod
    def open(
        cls, directory: Path, matcher: Matcher | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Open an index.

        Args:
            directory: Of the index.
            matcher: What embeds; the one that lies in the folder by default.
            device: Where that one is put.

        Raises:
            DataError: if there is no index, or it is another matcher's.
            CheckpointError: if the folder holds no matcher, or a damaged one.
            FaultError: if the index is damaged.
        """
        vectors = VectorIndex.open(directory)
        place = directory / MATCHER
        if matcher is None:
            if not place.is_file():
                raise CheckpointError(
                    f"{directory} holds no {MATCHER}; name the run it was built with (--run RUN)"
                )
            matcher = Matcher.load(place, device=device)
        vectors = VectorIndex.open(directory, model=matcher.mark, dimension=matcher.dimension)
        if not place.is_file():
            matcher.save(place)
        return cls(vectors, matcher)

    def add(
        self,
        files: Sequence[Path],
        *,
        batch_size: int = 256,
        workers: int = 0,
        on_bad: str = "skip",
        report: Added | None = None,
    ) -> Added:
        """Embed what is new or has changed since, and add it.

        Args:
            files: Images.
            batch_size: Images at a time.
            workers: Processes that read ahead.
            on_bad: ``skip``: what cannot be read is listed; ``fail``: the first stops the addition,
                and the parts before it are kept.
            report: Is kept up to date, for whoever is interrupted.

        Raises:
            DataError: for an image that cannot be read, with ``fail``, and for embeddings that are
                not finite.
            FaultError: if the folder cannot be written.
        """
        report = Added() if report is None else report
        with FileStates(self.vectors.directory / STATES) as states:
            waiting, there = self._waiting(files, states, report)
            if on_bad == "fail" and report.unreadable:
                raise DataError(next(iter(report.unreadable.values())))
            parts = self.matcher.embed_in_parts(
                [file for _, file, _ in waiting], batch_size, workers, size=_PART
            )
            for part in parts:
                chosen = [waiting[row] for row in part.rows]
                names = [name for name, _, _ in chosen]
                for row, reason in part.unreadable.items():
                    if on_bad == "fail":
                        raise DataError(reason)
                    report.unreadable[waiting[row][1]] = reason
                self.vectors.add(names, part.embeddings, existing="replace")
                states.record({name: state for name, _, state in chosen})
                replaced = len(there.intersection(names))
                report.replaced += replaced
                report.new += len(names) - replaced
        return report

    def search(self, embeddings: Tensor, names: Sequence[str], k: int) -> list[Matches]:
        """The k nearest of every query, without the query itself; fewer where there are fewer.

        Args:
            embeddings: ``(Q, D)``.
            names: Of the queries; those that are in the index leave themselves out.
            k: At least 1.

        Raises:
            DataError: if the index is empty.
        """
        if not len(self.vectors):
            raise DataError(f"{self.vectors.directory} holds no images yet; add some first")
        found = self.vectors.search(embeddings, min(k + 1, len(self.vectors)))
        cleared = []
        for name, matches in zip(names, found, strict=True):
            kept = [place for place, each in enumerate(matches.ids) if each != name][:k]
            cleared.append(Matches(tuple(matches.ids[i] for i in kept), matches.scores[kept]))
        return cleared

    def _waiting(
        self, files: Sequence[Path], states: FileStates, report: Added
    ) -> tuple[list[tuple[str, Path, str]], set[str]]:
        """Name, file and state of what is to be embedded, and the names that are there already."""
        waiting, there = list[tuple[str, Path, str]](), set[str]()
        for start in range(0, len(files), _NAMES):
            named = dict[str, Path]()
            for file in files[start : start + _NAMES]:
                name = image_name(file)
                try:
                    encoded([name])
                except DataError as error:
                    report.unreadable[file] = str(error)
                    continue
                named[name] = file
            known, missing = states.known(list(named)), set(self.vectors.missing(list(named)))
            for name, file in named.items():
                state = identity_of(name) or ""
                if name not in missing and known.get(name) == state:
                    report.unchanged += 1
                    continue
                waiting.append((name, file, state))
                if name not in missing:
                    there.add(name)
        return waiting, there


def image_name(file: Path) -> str:
    """What a file is called in an index: its whole path, without links on the way to its folder."""
    return os.path.join(os.path.realpath(file.parent), file.name)


def names_below(index: VectorIndex, places: Sequence[str]) -> list[str]:
    """The images in an index that are, or lie below, what a person names; the files may be gone.

    Raises:
        DataError: if nothing of a place is in the index.
    """
    wanted = {
        place: image_name(Path(os.path.abspath(Path(place).expanduser()))) for place in places
    }
    found, seen = list[str](), set[str]()
    for name in index.ids():
        for place, path in wanted.items():
            if name == path or name.startswith(path.rstrip("/") + "/"):
                found.append(name)
                seen.add(place)
                break
    for place in places:
        if place not in seen:
            raise DataError(
                f"nothing of '{printable(place)}' is in {index.directory}; it names images by "
                f"their path, such as {next(index.ids(), 'none yet')}"
            )
    return found


def remove_images(index: VectorIndex, names: Sequence[str]) -> None:
    """Take images out of an index.

    Raises:
        DataError: for a name that is not there.
        FaultError: if the folder cannot be written.
    """
    index.remove(names)
    with FileStates(index.directory / STATES) as states:
        states.forget(names)


def gone(index: VectorIndex) -> Iterator[str]:
    """The images in an index whose files are not there any more."""
    return (name for name in index.ids() if not os.path.exists(name))
