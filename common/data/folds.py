"""Folds of labelled items, the same for everyone, and a file that freezes them.

    folds = make_folds(names, labels, count=5)          # open set: every label is in one fold only
    train, validation = folds.split(0)                  # row indices
    folds = frozen_folds(Path("folds.json"), names, labels, count=5)

By ``group`` a fold is judged on labels that training has never seen, as retrieval is used; by
``stratified`` every fold has its share of each label, as a classifier needs it. Folds are a
function of names, labels, count and seed alone: neither the order of the rows nor a library's
version moves an item. The file holds every item, so that what changed since can be counted.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.data.dealing import Integers, deal
from common.utils.errors import ConfigError, DataError
from common.utils.files import atomic_write_text
from common.utils.text import did_you_mean, printable

KINDS = ("group", "stratified")
_FORMAT = 1


@dataclass(frozen=True)
class Folds:
    """Which fold each item is in.

    Attributes:
        names: Of the items, ``(N,)``.
        labels: As text, ``(N,)``.
        assigned: The fold of each, ``(N,)``, 0 to ``count - 1``.
        count: How many folds.
        seed: Of the deal.
        kind: ``group`` or ``stratified``.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    assigned: Integers
    count: int
    seed: int
    kind: str

    def split(self, fold: int) -> tuple[Integers, Integers]:
        """The rows to train on when ``fold`` is held out, and the rows of ``fold``.

        Raises:
            ConfigError: if there is no such fold.
        """
        if not 0 <= fold < self.count:
            raise ConfigError(f"fold is {fold}; expected 0 to {self.count - 1}")
        held = self.assigned == fold
        return np.flatnonzero(~held), np.flatnonzero(held)

    @property
    def sizes(self) -> list[int]:
        """The number of items in each fold."""
        return np.bincount(self.assigned, minlength=self.count).tolist()

    @property
    def alone(self) -> int:
        """How many items have a label that no other has: they have no match to find."""
        return sum(items == 1 for items in Counter(self.labels).values())

    @property
    def items_sha256(self) -> str:
        """A hash of all names and labels, whatever their order."""
        return _hash(dict(zip(self.names, ((label,) for label in self.labels), strict=True)))


def make_folds(
    names: Sequence[str],
    labels: Sequence[str | int],
    count: int = 5,
    seed: int = 0,
    kind: str = "group",
) -> Folds:
    """Deal items to folds of even size.

    Args:
        names: Of the items, ``(N,)``, each once: paths, for example.
        labels: Of the items; what counts is how they are written, so that 7 and "7" are one label.
        count: At least 2.
        seed: Another seed is another deal.
        kind: ``group``, where all items of a label share a fold, or ``stratified``, where every
            fold has each label's items in proportion, to one item.

    Raises:
        ConfigError: for fewer than 2 folds or another kind.
        DataError: if the lengths disagree, a name comes twice, or there is less to deal than folds.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind of folds is '{kind}'; {did_you_mean(kind, KINDS)}")
    if count < 2:
        raise ConfigError(f"{count} folds were asked for; expected 2 or more")
    texts = _checked(names, labels)
    known = {text: place for place, text in enumerate(sorted(set(texts)))}
    groups = len(known) if kind == "group" else len(texts)
    if groups < count:
        raise DataError(
            f"{len(texts)} items with {len(known)} different labels cannot fill {count} {kind} "
            f"folds; expected {count} {'labels' if kind == 'group' else 'items'} or more: use fewer folds"
        )
    shares = [Fraction(1, count)] * count
    index = np.array([known[text] for text in texts], np.int64)
    if kind == "group":
        assigned = deal(texts, np.zeros_like(index), index, shares, range(count), seed)
    else:
        # No fold is needed more than another: what is odd goes to those that got the least so far.
        assigned = deal(names, index, np.arange(len(names)), shares, (), seed)
    return Folds(tuple(names), tuple(texts), assigned, count, seed, kind)


def frozen_folds(
    path: Path,
    names: Sequence[str],
    labels: Sequence[str | int],
    count: int = 5,
    seed: int = 0,
    kind: str = "group",
) -> Folds:
    """The folds in the file at ``path``; made and written there if there is no file yet.

    Args:
        path: A JSON file in an existing directory.
        names: As for ``make_folds``, as the rest; in any order.

    Raises:
        DataError: if the file was made for other items, labels or settings, saying what differs, or
            was edited or damaged; and as ``make_folds``.
        FaultError: if it cannot be written.
    """
    if not path.exists():
        folds = make_folds(names, labels, count, seed, kind)
        write_folds(path, folds)
        return folds
    texts = _checked(names, labels)
    kept = read_folds(path)
    wanted = {"kind": kind, "count": count, "seed": seed}
    other = [f"{k} {getattr(kept, k)}, not {v}" for k, v in wanted.items() if getattr(kept, k) != v]
    there = dict(zip(kept.names, kept.labels, strict=True))
    now = dict(zip(names, texts, strict=True))
    new = sorted(now.keys() - there.keys())
    missing = sorted(there.keys() - now.keys())
    relabelled = sorted(name for name in now.keys() & there.keys() if now[name] != there[name])
    differences = {"new": new, "missing": missing, "labelled otherwise": relabelled}
    for what, found in differences.items():
        if found:
            other.append(f"{len(found):,} items are {what} (the first: {printable(found[0])})")
    if other:
        raise DataError(
            f"{path} freezes folds of {len(there):,} items that are not these {len(now):,}: "
            f"{'; '.join(other)}. Restore the data and settings, or deal anew without this file; "
            "results on other folds cannot be compared"
        )
    fold_of = dict(zip(kept.names, kept.assigned.tolist(), strict=True))
    assigned = np.array([fold_of[name] for name in names], np.int64)
    return Folds(tuple(names), tuple(texts), assigned, count, seed, kind)


def write_folds(path: Path, folds: Folds) -> None:
    """Write the file: the settings, two hashes, and every item's label and fold by its name.

    Raises:
        FaultError: if the disk does not take it; an older file is then as it was.
    """
    rows = zip(folds.names, folds.labels, folds.assigned.tolist(), strict=True)
    items = {name: (label, fold) for name, label, fold in sorted(rows)}
    content = {
        "format": _FORMAT,
        "kind": folds.kind,
        "count": folds.count,
        "seed": folds.seed,
        "items_sha256": folds.items_sha256,
        "folds_sha256": _hash(items),
        "items": items,
    }
    # ASCII alone, so that names of undecodable bytes come back as they were.
    atomic_write_text(path, json.dumps(content, indent=1) + "\n")


def read_folds(path: Path) -> Folds:
    """What ``write_folds`` wrote, sorted by name.

    Raises:
        DataError: if the file is missing, of another format, damaged or edited.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {_FORMAT}")
        items = {str(k): (str(label), int(fold)) for k, (label, fold) in content["items"].items()}
        count, seed, kind = int(content["count"]), int(content["seed"]), str(content["kind"])
        assigned = np.array([fold for _, fold in items.values()], np.int64)
        folds = Folds(
            tuple(items), tuple(label for label, _ in items.values()), assigned, count, seed, kind
        )
        hashes = (content["items_sha256"], content["folds_sha256"])
        if hashes != (folds.items_sha256, _hash(items)):
            raise ValueError("its items are not those it was written with")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no folds that can be used ({error}); restore it, or deal anew without it"
        ) from None
    return folds


def _checked(names: Sequence[str], labels: Sequence[Any]) -> list[str]:
    """The labels as text."""
    if len(names) != len(labels):
        raise DataError(f"there are {len(names)} names for {len(labels)} labels; expected as many")
    if len(set(names)) != len(names):
        name, times = Counter(names).most_common(1)[0]
        raise DataError(
            f"the name {printable(name)} comes {times} times; every item needs a name of its own"
        )
    for name, label in zip(names, labels, strict=True):
        if not isinstance(label, str | int | np.integer):
            raise DataError(
                f"the label of {printable(name)} is {label!r}; expected text or an integer"
            )
    return [str(label) for label in labels]


def _hash(items: Mapping[str, Sequence[Any]]) -> str:
    """Of all items by name; no two different lists have the same text."""
    digest = hashlib.sha256()
    for name in sorted(items):
        digest.update(f"{json.dumps([name, *items[name]])}\n".encode())
    return digest.hexdigest()
