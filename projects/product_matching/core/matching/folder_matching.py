"""Match the images of folders among themselves, and show the neighbours of queries.

Every image is embedded once; ``matches.csv`` has a line for each image and match of it. What cannot
be read is listed in ``matches.unreadable.csv``. Nothing is written before everything is known.
"""

import csv
import io
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.config.files import show_path
from common.data.image_places import find_places
from common.metrics import Matches, match_rows
from common.utils.devices import find_device
from common.utils.errors import ConfigError, DataError
from common.utils.files import atomic_write, explained_write
from common.utils.text import printable
from projects.product_matching.core.index.image_index import image_name
from projects.product_matching.core.items.sources import read_csv
from projects.product_matching.core.matching.match_rules import (
    MOST_MATCHES,
    FoundMatches,
    MatchRule,
    Rows,
)
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.matching.query_results import (
    QueryResult,
    draw_results,
    remove_sheets,
    show_results,
)

_BEGIN = 50  # neighbours fetched at first
_PART = 1024  # images whose pixels may wait for their batch
_SHOWN = 10  # lines of a list


@dataclass(frozen=True)
class MatchOptions:
    """What ``match.py`` was asked for.

    Attributes:
        run: Its directory or name, or a matcher's file.
        images: Folders, files and patterns.
        queries: The same.
        titles: CSV file with the columns ``image`` and ``title``.
        out: Folder for what is written; ``None``: a new one in the run.
        k: Neighbours of a query that are shown.
        threshold: In place of the run's.
        fold: Of the run; ``None``: the best.
        on_bad: ``skip`` or ``fail``.
        batch_size: Images at a time.
        workers: Processes that read ahead.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    run: str
    images: Sequence[str]
    queries: Sequence[str] = ()
    titles: Path | None = None
    out: Path | None = None
    k: int = 10
    threshold: float | None = None
    fold: int | None = None
    on_bad: str = "skip"
    batch_size: int = 256
    workers: int = 0
    device: str = "auto"


def match_folder(options: MatchOptions) -> None:
    """Embed, match, write and show.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError: see the parts.
    """
    listed = find_places(options.images).files
    asked = find_places(options.queries, "--query").files if options.queries else []
    matcher = Matcher.load(options.run, options.fold, find_device(options.device, "--device"))
    rule = _rule(matcher, options)
    out = _new_folder(matcher, options.out)
    titles = None
    if options.titles is not None:
        encoder = matcher.text_encoder  # refused before an hour of images
        titles = _titles(options.titles, [*listed, *asked])
    within = {image_name(file) for file in listed}
    outside = [file for file in asked if image_name(file) not in within]
    try:  # those few first: one that cannot be read is refused before an hour of images
        asking = matcher.embed(outside, options.batch_size, options.workers)
    except DataError as error:
        raise DataError(f"--query: {error}") from None
    files, images, unreadable = _embedded(matcher, listed, options)
    if len(files) < 2:
        raise DataError(f"{len(files)} of {len(listed)} images can be read; expected at least two")
    reasons = {image_name(file): reason for file, reason in unreadable.items()}
    for file in asked:
        if image_name(file) in reasons:
            raise DataError(f"--query: {reasons[image_name(file)]}")
    rows = {image_name(file): row for row, file in enumerate(files)}
    items = Rows(images)
    if titles is not None:
        items = Rows(images, encoder.encode([titles[image_name(file)] for file in files]))
    found = rule.matches(items, k=max(_BEGIN, options.k))
    inside = {file: rows[image_name(file)] for file in asked if image_name(file) in rows}
    results = _results(found, inside, files, options.k)
    if outside:
        queries = Rows(asking)
        if titles is not None:
            texts = encoder.encode([titles[image_name(file)] for file in outside])
            queries = Rows(queries.image, texts)
        by_row = {file: row for row, file in enumerate(outside)}
        near = rule.matches(queries, items, k=max(_BEGIN, options.k))
        results |= _results(near, by_row, files, options.k)
    _write(out, files, found.matches, unreadable)
    criterion = _criterion(rule, titles is not None)
    ordered = [results[file] for file in asked]
    sheets = draw_results(ordered, out, criterion)  # first: who reads may not read all lines
    with explained_write(out):
        remove_sheets(out, sheets)
    _tell(matcher, rule, found, len(files), unreadable, titles is not None)
    show_results(ordered, criterion)
    sys.stdout.write(f"written: {show_path(out)}\n")


def _rule(matcher: Matcher, options: MatchOptions) -> MatchRule:
    """The matcher's, with the threshold that was asked for."""
    rule, given = matcher.rule, options.threshold
    if options.titles is None:
        rule = replace(rule, text=None)
    if given is None:
        return rule
    if rule.text is None:
        return replace(rule, threshold=given)
    if rule.text.mode == "union":
        raise ConfigError(
            f"--threshold {given:g}: run '{matcher.run}' takes what passes by image or by title, "
            "which have a threshold each; leave out --threshold, or --titles to match by image "
            "alone"
        )
    return replace(rule, text=replace(rule.text, threshold=given))


def _new_folder(matcher: Matcher, given: Path | None) -> Path:
    """The folder for what is written, which is there from now on."""
    if given is None:
        assert matcher.path is not None
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        names = (f"matches_{stamp}", *(f"matches_{stamp}_{n}" for n in range(2, 100)))
        parents = (matcher.path.parent / name for name in names)
        given = next(path for path in parents if not path.exists())
    if given.exists() and not given.is_dir():
        raise ConfigError(f"--out {given} is a file; name a folder")
    there = next(each for each in (given.absolute(), *given.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"{show_path(there)} cannot be written; give another place with --out")
    return given


def _titles(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """The title of every image.

    Raises:
        DataError: if an image has no line, see also ``read_csv``.
    """
    known = {image_name(row.file): row.title for row in read_csv(path, "image", None, "title")}
    lacking = [file for file in files if image_name(file) not in known]
    if lacking:
        raise DataError(
            f"{path} has no line for {len(lacking):,} of {len(files):,} images (the first: "
            f"{printable(str(lacking[0]))}); add them, with an empty title if there is none: paths "
            "are relative to the folder of the CSV file"
        )
    return known


def _embedded(
    matcher: Matcher, listed: Sequence[Path], options: MatchOptions
) -> tuple[list[Path], torch.Tensor, dict[Path, str]]:
    """The images that can be read, their embeddings, and why the others cannot."""
    files, rows = list[Path](), list[torch.Tensor]()
    unreadable = dict[Path, str]()
    parts = matcher.embed_in_parts(listed, options.batch_size, options.workers, size=_PART)
    for part in parts:
        files += [listed[row] for row in part.rows]
        rows.append(part.embeddings)
        unreadable |= {listed[row]: reason for row, reason in part.unreadable.items()}
    if unreadable and options.on_bad == "fail":
        show_unreadable(unreadable)
        raise DataError(
            f"{len(unreadable):,} of {len(listed):,} images cannot be read; nothing was written "
            "(--on-bad skip leaves them out)"
        )
    return files, torch.cat(rows), unreadable


def _results(
    found: FoundMatches, asked: Mapping[Path, int], files: Sequence[Path], k: int
) -> dict[Path, QueryResult]:
    results = {}
    for file, row in asked.items():
        best = found.nearest(row, k)
        results[file] = QueryResult(
            query=file,
            files=[files[item] for item, _, _ in best],
            scores=[score for _, score, _ in best],
            passes=[passes for _, _, passes in best],
        )
    return results


def _write(
    out: Path, files: Sequence[Path], matches: Matches, unreadable: Mapping[Path, str]
) -> None:
    with explained_write(out):
        out.mkdir(parents=True, exist_ok=True)
    rows = match_rows(matches, [str(file) for file in files])
    shown = ((image, match, f"{score:.6g}") for image, match, score in rows)
    _write_csv(out / "matches.csv", ("image", "match", "score"), shown)
    listed = out / "matches.unreadable.csv"
    if unreadable:
        reasons = ((str(file), reason) for file, reason in unreadable.items())
        _write_csv(listed, ("image", "reason"), reasons)
    else:
        with explained_write(listed):
            listed.unlink(missing_ok=True)  # of an earlier call


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Bytes of a file name that are no UTF-8 are written as they are."""
    with explained_write(path), atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        text.flush()
        text.detach()


def _tell(
    matcher: Matcher,
    rule: MatchRule,
    found: FoundMatches,
    count: int,
    unreadable: Mapping[Path, str],
    by_title: bool,
) -> None:
    assert matcher.path is not None
    show_matcher(matcher)
    with_match = len(found.matches.queries.unique())
    sys.stdout.write(
        f"{count:,} images, {len(unreadable):,} unreadable; {len(found.matches):,} matches "
        f"({_criterion(rule, by_title)}), {count - with_match:,} images have none\n"
    )
    if unreadable:
        show_unreadable(unreadable)
    if found.cut:
        sys.stderr.write(
            f"warning: {found.cut:,} lists end at the {MOST_MATCHES:,} nearest though more pass; "
            "is the threshold too low?\n"
        )
    if rule.min_matches > 1:
        sys.stdout.write(f"every list has at least {rule.min_matches} items, its image included\n")
    if matcher.text is not None and not by_title:
        sys.stdout.write("matched by image alone; the run also knows titles (--titles CSV)\n")


def show_matcher(matcher: Matcher) -> None:
    """Write which matcher is used."""
    score = "not scored" if math.isnan(matcher.score) else f"F {matcher.score:.3f} on that fold"
    sys.stdout.write(f"matcher: run {matcher.run}, fold {matcher.fold} held out ({score})\n")


def show_unreadable(unreadable: Mapping[Path, str]) -> None:
    """Write the first of them on standard error."""
    sys.stderr.write(f"unreadable ({len(unreadable):,}):\n")
    for reason in list(unreadable.values())[:_SHOWN]:
        sys.stderr.write(f"  {printable(reason)}\n")
    if len(unreadable) > _SHOWN:
        sys.stderr.write(f"  and {len(unreadable) - _SHOWN:,} more\n")


def _criterion(rule: MatchRule, by_title: bool) -> str:
    text = rule.text if by_title else None
    if text is None:
        return f"{rule.units} >= {rule.threshold:.4g}"
    if text.mode == "concat":
        return f"joint {rule.units} >= {text.threshold:.4g}"
    return (
        f"{rule.units} of images >= {text.image_threshold:.4g} or of titles >= "
        f"{text.threshold:.4g}; the score is what is above"
    )
