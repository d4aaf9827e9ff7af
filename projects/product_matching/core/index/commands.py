"""What ``match.py index`` does with an index, and what it says of it."""

import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from common.config.files import show_path
from common.data.image_places import find_places
from common.utils.arguments import show
from common.utils.devices import find_device
from common.utils.errors import DataError, InterruptedRun
from common.utils.files import explained_write
from projects.product_matching.core.index.image_index import (
    Added,
    ImageIndex,
    gone,
    image_name,
    names_below,
    remove_images,
)
from projects.product_matching.core.index.manifest import read_manifest
from projects.product_matching.core.index.vector_index import VectorIndex
from projects.product_matching.core.matching.folder_matching import show_matcher, show_unreadable
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.matching.query_results import (
    QueryResult,
    draw_results,
    show_results,
)


def build(directory: Path, arguments: Namespace) -> None:
    """Make an index and add images to it.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError, InterruptedRun: see the parts.
    """
    files = find_places(arguments.images).files
    device = find_device(arguments.device, "--device")
    matcher = Matcher.load(arguments.run, arguments.fold, device)
    show_matcher(matcher)
    if matcher.text is not None:
        sys.stdout.write("the run also knows titles; an index is searched by image alone\n")
    _add(ImageIndex.build(directory, matcher, arguments.kind), files, arguments)


def add(directory: Path, arguments: Namespace) -> None:
    """Add images that are new or have changed.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError, InterruptedRun: see the parts.
    """
    files = find_places(arguments.images).files
    _add(_opened(directory, arguments), files, arguments)


def remove(directory: Path, arguments: Namespace) -> None:
    """Take images out of an index; their model is not needed.

    Raises:
        DataError: if there is nothing to remove.
        FaultError: if the folder cannot be written.
    """
    vectors = VectorIndex.open(directory)
    names = list(gone(vectors)) if arguments.gone else names_below(vectors, arguments.images)
    remove_images(vectors, names)
    sys.stdout.write(f"removed {len(names):,} images; {len(vectors):,} are left\n")


def query(directory: Path, arguments: Namespace) -> None:
    """Find the nearest images of an index.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError: see the parts.
    """
    asked = find_places(arguments.query, "--query").files
    index = _opened(directory, arguments)
    rule = index.matcher.rule
    embeddings = index.matcher.embed(asked, arguments.batch_size, arguments.num_workers)
    names = [image_name(file) for file in asked]
    results = []
    for file, found in zip(asked, index.search(embeddings, names, arguments.k), strict=True):
        scores = found.scores.tolist()
        results.append(
            QueryResult(
                query=file,
                files=[Path(name) for name in found.ids],
                scores=scores,
                passes=[
                    score >= rule.threshold or rank < rule.min_matches - 1
                    for rank, score in enumerate(scores)
                ],
            )
        )
    criterion = f"{rule.units} >= {rule.threshold:.4g}"
    written = []
    if arguments.out is not None:
        out = Path(arguments.out).expanduser()
        with explained_write(out):
            out.mkdir(parents=True, exist_ok=True)
        written = draw_results(results, out, criterion)
    show_results(results, criterion)
    if rule.expansion:
        sys.stdout.write(
            "the run's threshold is of queries with their neighbours added; here they are "
            "compared as they are\n"
        )
    for path in written:
        sys.stdout.write(f"written: {show_path(path)}\n")


def info(directory: Path, arguments: Namespace) -> None:
    """Say what an index holds.

    Raises:
        DataError: if there is none.
        FaultError: if it is damaged.
    """
    told = VectorIndex.open(directory).info()
    show(
        {
            "index": show_path(directory),
            "images": f"{told.vectors:,}",
            "dimension": told.dimension,
            "metric": told.metric,
            "kind": told.kind,
            "model": told.model,
            "approximate": (
                f"{told.approximate:,} (of the ten nearest {told.recall:.1%} are found)"
                if told.approximate
                else "none: every answer is exact"
            ),
            "removed": f"{told.removed:,} that still take room",
            "size": f"{told.size:,} bytes",
        }
    )


def _opened(directory: Path, arguments: Namespace) -> ImageIndex:
    """The index with the matcher that was named, or its own."""
    read_manifest(directory)  # first of all, is there one?
    device = find_device(arguments.device, "--device")
    matcher = None
    if arguments.run is not None:
        matcher = Matcher.load(arguments.run, arguments.fold, device)
    return ImageIndex.open(directory, matcher, device)


def _add(index: ImageIndex, files: Sequence[Path], arguments: Namespace) -> None:
    report = Added()
    directory = index.vectors.directory
    try:
        index.add(
            files,
            batch_size=arguments.batch_size,
            workers=arguments.num_workers,
            on_bad=arguments.on_bad,
            report=report,
        )
    except KeyboardInterrupt:
        raise InterruptedRun(
            f"{report.done:,} of {len(files):,} images are in {directory}; 'index add' goes on "
            "with the rest",
            signal.SIGINT,
        ) from None
    if report.unreadable:
        show_unreadable(report.unreadable)
    if not report.done:
        raise DataError(f"none of {len(files):,} images could be added; nothing was changed")
    sys.stdout.write(
        f"{report.new:,} added, {report.replaced:,} replaced, {report.unchanged:,} unchanged, "
        f"{len(report.unreadable):,} unreadable; {len(index.vectors):,} images in "
        f"{show_path(directory)}\n"
    )
