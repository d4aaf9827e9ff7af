"""Every fold of the data, one run each, then what they say together.

A session is a directory with the frozen folds (``folds.json``), a run for each fold (``fold_0`` ...),
and at the end the report, the lists of matches, a matcher for each fold and pictures. It is resumed as a
whole: finished folds stay, the open one goes on where it was, the rest follow.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from common.config import RunContext, load_run_config
from common.data.folds import Folds, frozen_folds, make_folds, read_folds, write_folds
from common.utils.errors import ConfigError, DataError, FaultError, InputError
from common.utils.files import atomic_write_text
from common.utils.logging import setup_logger
from common.utils.runs import Run
from common.utils.text import printable
from projects.product_matching.core.config import Config
from projects.product_matching.core.evaluation import SourceMatches, check_fold, judge_folds
from projects.product_matching.core.items.images import readable
from projects.product_matching.core.items.items import Items, read_items
from projects.product_matching.core.matching.matchers import save_matchers
from projects.product_matching.core.network import warn_of_lone_images
from projects.product_matching.core.pictures import draw_fold, draw_session
from projects.product_matching.core.report import write_report
from projects.product_matching.core.text.titles import fit_titles, title_embeddings
from projects.product_matching.core.training import FoldOutcome, read_outcome, train_fold

RECORD, FOLDS = "session.json", "folds.json"
GIVEN = "given"


@dataclass(frozen=True)
class Finished:
    """What a session came to.

    Attributes:
        directory: Its own.
        metrics: What ``metrics.json`` holds.
        judged: The matches by source.
    """

    directory: Path
    metrics: dict[str, Any]
    judged: Mapping[str, SourceMatches]


def run_session(
    config: Config,
    context: RunContext,
    directory: Path,
    stored: Callable[[Path], None] = lambda path: None,
) -> Finished:
    """Train the folds that are asked for and report; or go on with a session that was begun.

    Args:
        config: The session's.
        context: Of the same configuration; ``context.resume`` is set for one that was begun: its
            directory, or that of one of its folds.
        directory: Of a new session, which may get a number.
        stored: Called with the session's directory after every fold.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError: see the parts.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "product matching trains its folds one after the other in one process; with several "
            "processes start a command for each fold (folds.only=N)"
        )
    if context.resume is not None:
        if context.overrides:
            raise ConfigError(
                "a session is resumed with its own values, which all its folds share; got "
                f"{' '.join(context.overrides)}"
            )
        config, context = _begun(config, context)
    root = _data_root(config, context.resume)
    items = read_items(config.data, root, titles=config.text.mode != "none")
    if context.resume is None:
        dealt = deal(items, config)  # refuse what cannot be dealt before there is a directory
        home = Run.claim(directory, config.seed).directory
        atomic_write_text(home / "config.yaml", context.to_yaml())
        record = {
            "overrides": context.overrides,
            "dry_run": context.dry_run,
            "begun_in": str(Path.cwd()),
        }
        atomic_write_text(home / RECORD, json.dumps(record, indent=2) + "\n")
    else:
        dealt = None
        home = context.resume
    try:
        finished = _train_and_report(home, items, dealt, config, stored)
    except (InputError, FaultError) as error:
        # A new session that has trained nothing leaves nothing; after a fault what was begun goes on.
        begun = "fold_*/metrics.jsonl" if isinstance(error, InputError) else "fold_*"
        if context.resume is None and not any(home.glob(begun)):
            shutil.rmtree(home)
        raise
    return finished


def _begun(config: Config, context: RunContext) -> tuple[Config, RunContext]:
    """The configuration of the session that ``context.resume`` is, or is a fold of.

    Raises:
        ConfigError: if it is neither.
    """
    assert context.resume is not None
    if (context.resume / RECORD).is_file():
        return config, context
    home = context.resume.absolute().parent
    if not (home / RECORD).is_file():
        raise ConfigError(
            f"--resume {context.resume}: there is no session (it holds no {RECORD}); give the directory "
            f"that holds {RECORD} and the folds"
        )
    config, context = load_run_config(Config, home)
    context.resume = home
    return config, context


def _data_root(config: Config, begun: Path | None) -> Path:
    """What ``data.folder`` and ``data.csv`` are relative to.

    Args:
        config: The session's.
        begun: A session's directory: its data lies where it was typed, or, if all was moved, here.
    """
    root = Path(config.dataloader.root or ".").expanduser()
    if begun is None:
        return root
    record = json.loads((begun / RECORD).read_text(encoding="utf-8"))
    there = Path(record.get("begun_in", ".")) / root
    named = Path(config.data.folder or config.data.csv or ".").expanduser()
    return there if (there / named).exists() else root


def deal(items: Items, config: Config) -> Folds:
    """The folds of the items; with a manifest and ``data.on_bad=skip`` of those that it knows.

    Raises:
        DataError: if there are fewer labels (group) or items (stratified) than folds, too few items of
            every label for stratified folds, a manifest is of other items, or there is no such split.
    """
    of, options = config.folds, (config.folds.count, config.folds.seed, config.folds.kind)
    if of.kind == GIVEN:
        is_query = np.array([split == of.query for split in items.splits])
        if not is_query.any() or is_query.all():
            raise DataError(
                f"{items.origin}: {int(is_query.sum()):,} of {len(items):,} items are of the split "
                f"'{of.query}' (folds.query); expected some of them, and the rest to train on"
            )
        return Folds(items.names, items.labels, is_query.astype(np.int64), 2, of.seed, GIVEN)
    if of.manifest is not None:
        path = Path(of.manifest).expanduser()
        if not path.is_file():
            raise DataError(f"folds.manifest: there is no file {path}")
        if config.data.on_bad == "skip":  # a session freezes what it could read
            known = set(read_folds(path).names)
            items = items.subset([r for r, name in enumerate(items.names) if name in known])
        return frozen_folds(path, items.names, items.labels, *options)
    if of.kind == "stratified":
        most = max(Counter(items.labels).values())
        if most < of.count:
            raise DataError(
                f"{items.origin}: no label has {of.count} items (the most is {most}), so {of.count} "
                "stratified folds cannot have one each; use fewer folds, or folds.kind=group"
            )
    return make_folds(items.names, items.labels, *options)


def split(folds: Folds, number: int, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows that are held out."""
    return folds.split(1 if config.folds.kind == GIVEN else number)


def fold_numbers(config: Config) -> list[int]:
    """The folds that are trained."""
    if config.folds.kind == GIVEN:
        return [0]
    return list(range(config.folds.count)) if config.folds.only is None else [config.folds.only]


def _train_and_report(
    home: Path,
    items: Items,
    dealt: Folds | None,
    config: Config,
    stored: Callable[[Path], None],
) -> Finished:
    with Run(home, config.seed) as run:
        run.confirm()
        if dealt is None and not (home / FOLDS).exists():  # killed before they were frozen
            dealt = deal(items, config)
        items, bad = readable(items, config, home)
        folds = _frozen(home / FOLDS, items, dealt, config)
        _check(folds, config)
        trained = {n: items.subset(split(folds, n, config)[0]) for n in fold_numbers(config)}
        if config.text.mode != "none":
            fit_titles(config, trained, home)  # what is wrong with titles is found before training
        warn_of_lone_images(config)
        outcomes: dict[int, FoldOutcome] = {}
        for number in fold_numbers(config):
            outcomes[number] = _fold(home, items, folds, number)
            setup_logger(run.log_file)  # the fold's own log has ended
            if config.pictures.draw:
                draw_fold(outcomes[number], config)
            stored(home)
        titles = None
        if config.text.mode != "none":
            titles = {n: title_embeddings(home, n, each.items) for n, each in outcomes.items()}
        held_out = {number: outcome.items for number, outcome in outcomes.items()}
        images = {number: outcome.embeddings for number, outcome in outcomes.items()}
        judged = judge_folds(held_out, images, titles, config)
        facts = {
            "origin": items.origin,
            "items": len(items),
            "labels": len(set(items.labels)),
            "alone": items.alone,
            "unreadable": len(bad),
        }
        metrics = write_report(home, config, outcomes, judged, facts)
        save_matchers(home, outcomes, trained, judged)
        if config.pictures.draw:
            draw_session(home, config, judged)
        pooled = next(iter(judged.values())).pooled
        run.record(
            metrics=pooled | {k: v["mean"] for k, v in metrics["retrieval"]["spread"].items()}
        )
    return Finished(home, metrics, judged)


def _frozen(path: Path, items: Items, dealt: Folds | None, config: Config) -> Folds:
    """The folds of a session: written once, and compared from then on.

    Args:
        path: The session's file.
        items: Those that can be read.
        dealt: Folds of all items, of a session that has no file yet: an image that cannot be read
            does not move the others to other folds.
        config: The session's.

    Raises:
        DataError: if the data has changed since.
    """
    if not path.exists():
        assert dealt is not None
        fold_of = dict(zip(dealt.names, dealt.assigned.tolist(), strict=True))
        if new := [name for name in items.names if name not in fold_of]:
            raise DataError(
                f"folds.manifest {config.folds.manifest} lacks {len(new):,} of {len(items):,} items that "
                f"can be read (the first: {printable(new[0])}); leave them out, or deal anew"
            )
        assigned = np.array([fold_of[name] for name in items.names], np.int64)
        folds = replace(dealt, names=items.names, labels=items.labels, assigned=assigned)
        write_folds(path, folds)
        return folds
    if config.folds.kind != GIVEN:
        of = config.folds
        return frozen_folds(path, items.names, items.labels, of.count, of.seed, of.kind)
    folds = deal(items, config)
    kept = read_folds(path)
    before = dict(zip(kept.names, kept.assigned.tolist(), strict=True))
    now = dict(zip(folds.names, folds.assigned.tolist(), strict=True))
    if before != now or kept.items_sha256 != folds.items_sha256:
        raise DataError(
            f"{items.origin} has other items than {path} says ({len(now):,} now, {len(before):,} "
            "then, or other labels); put the data back, or start a new run"
        )
    return folds


def _check(folds: Folds, config: Config) -> None:
    """Every fold has something to find, and can be judged."""
    numbers = fold_numbers(config)
    for number in numbers:
        held = [folds.labels[row] for row in split(folds, number, config)[1]]
        if max(Counter(held).values(), default=0) < 2:
            raise DataError(
                f"fold {number} holds out {len(held):,} items, and no two share a label: there is no "
                "match to find; use fewer folds, or data.min_per_label=2"
            )
        check_fold(held, f"fold {number}", len(numbers) == 1, config)


def _fold(home: Path, items: Items, folds: Folds, number: int) -> FoldOutcome:
    record = json.loads((home / RECORD).read_text(encoding="utf-8"))
    # From the session's own file: what it was composed of may have been edited since.
    config, context = load_run_config(Config, home)
    train, held_out = (items.subset(rows) for rows in split(folds, number, config))
    directory = home / f"fold_{number}"
    if (outcome := read_outcome(directory, held_out)) is not None:
        return outcome
    numbers = ", ".join(map(str, fold_numbers(config)))
    logger.info(
        f"fold {number} of {numbers}: {len(train):,} to train on, {len(held_out):,} held out"
    )
    context.resume = None
    if any((directory / "checkpoints").glob("*.pt")):
        config, context = load_run_config(Config, directory)
        context.resume = directory
    elif directory.exists():  # killed before there was anything to go on from
        shutil.rmtree(directory)
    context.experiment = "product_matching"
    context.overrides = [] if context.resume else record["overrides"]
    context.dry_run = record["dry_run"]
    shares_labels = config.folds.kind != "group"
    return train_fold(
        config, context, train, held_out, directory=directory, asks_gallery=shares_labels
    )
