"""Split a folder of photos into one test set and folds, without leaks, the same way every time.

    from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset

    split = split_dataset(Path("data/pets/raw"), SplitOptions(folds=5))
    split.test, split.folds[0]             # also in data/pets/splits/*.txt

What is split is groups: copies of one photo, and whatever ``group_by`` puts together. No group has
images in both the test set and a fold, or in two folds.
"""

from collections import Counter
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.dealing import Integers, deal
from common.utils.errors import DataError
from common.utils.files import sha256_file
from projects.image_classification.core.folder.data_report import make_report, report_text
from projects.image_classification.core.folder.duplicates import find_duplicates, join_names
from projects.image_classification.core.folder.grouping import is_table, read_groups
from projects.image_classification.core.folder.image_facts import ImageFacts, look_at
from projects.image_classification.core.folder.image_folder import ImageFolder, find_images
from projects.image_classification.core.folder.report_picture import draw_report
from projects.image_classification.core.folder.split_files import (
    Split,
    as_json,
    hash_lines,
    prepare,
    write_split,
)
from projects.image_classification.core.folder.split_options import SplitOptions
from projects.image_classification.core.folder.stored_folder import OWN_TEST, original_class_names
from projects.image_classification.core.index_files import escape, read_index

TEST, LEFT_OUT = -1, -2  # parts; folds are 0, 1, ...
_LARGE_SET, _LARGE_SHARE = 20, 0.05  # of images that look alike: worth a warning


def split_dataset(raw: Path, options: SplitOptions, progress: bool = False) -> Split:
    """Look at every image of a raw folder, split them, and write ``splits/`` beside it.

    Args:
        raw: ``data/<name>/raw``; nothing in it is changed.
        options: How.
        progress: Show a bar while images are decoded, if there is a terminal.

    Raises:
        InputError: for options without a meaning, or that the data does not allow.
        DataError: for data that cannot be split.
        FaultError: if the disk does not take the result.
    """
    options.check()
    found = find_images(raw)
    folder = found.raw.parent
    prepare(folder / "splits")
    facts = look_at([folder / name for name in found.names], options.workers, progress)
    if facts.bad and options.on_bad == "fail":
        index, reason = next(iter(facts.bad.items()))
        more = f"; {len(facts.bad) - 1:,} more are bad" if len(facts.bad) > 1 else ""
        raise DataError(
            f"{escape(found.names[index])}: {reason}{more}; repair or remove what is bad, or leave "
            "it out with --on-bad skip"
        )
    names = [found.names[index] for index in facts.good]
    classes = [found.classes[index] for index in facts.good]
    class_names = sorted(set(classes))
    found.empty_classes = sorted({*found.empty_classes, *(set(found.classes) - set(class_names))})
    _check_classes(class_names, found)
    copies = find_duplicates(facts, classes, options.near_duplicates, options.hash_distance)
    groups = copies.groups
    if options.group_by is not None:
        groups = join_names(groups, read_groups(options.group_by, names))
    class_index = {name: position for position, name in enumerate(class_names)}
    labels = np.array([class_index[name] for name in classes], np.int64)
    own_test = folder / OWN_TEST
    kept = _kept_test(own_test, names, found, facts) if options.keep_test else None
    parts = _parts(names, labels, class_names, groups, options, kept)
    warnings = found.warnings + _check_parts(parts, labels, class_names, options, kept)
    largest = max(copies.near, key=len, default=[])
    if len(largest) > max(_LARGE_SET, _LARGE_SHARE * len(names)):
        warnings.append(
            f"{len(largest):,} images look alike and stay together, one of them "
            f"{escape(names[largest[0]])}; if they are no copies, use a smaller --hash-distance or "
            "--no-near-duplicates"
        )
    sets = _sets(parts, options.folds)
    original = original_class_names(folder, class_names)
    report = make_report(found, facts, labels, class_names, sets, copies, warnings)
    described = asdict(options)
    del described["workers"]  # it changes nothing
    if options.group_by is not None and is_table(options.group_by):
        described["group_by_sha256"] = sha256_file(Path(options.group_by))
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    digests = [look.digest for look in facts.looks]
    about: dict[str, Any] = {
        "options": described,
        "own_test_sha256": sha256_file(own_test) if kept is not None else None,
        "images": len(names),
        "names_sha256": hash_lines(encoded),
        "contents_sha256": hash_lines([a + b for a, b in zip(digests, encoded, strict=True)]),
    }
    lists = {
        one: [names[index] for index in np.flatnonzero(chosen)] for one, chosen in sets.items()
    }
    folds = [
        (lists[f"fold_{fold}_train"], lists[f"fold_{fold}_val"]) for fold in range(options.folds)
    ]
    split = Split(folder, tuple(class_names), lists["test"], folds, about, report)
    others = {
        "report.txt": f"{report_text(report)}\n".encode(),
        "report.json": as_json(report).encode(),
        "report.png": draw_report(report, facts),
    }
    write_split(split, original, others)
    return split


def _check_classes(class_names: list[str], found: ImageFolder) -> None:
    if len(class_names) < 2:
        empty = ", ".join(f"'{name}'" for name in found.empty_classes[:5])
        raise DataError(
            f"{found.raw} has images that decode in {len(class_names)} class folders "
            f"({', '.join(class_names)}{f'; without any: {empty}' if empty else ''}), expected "
            "two or more: one folder for each class"
        )


def _kept_test(
    path: Path, names: list[str], found: ImageFolder, facts: ImageFacts
) -> set[str] | None:
    """The images of the data set's own test set; bad ones of it are in the report."""
    if not path.exists():
        return None
    listed = read_index(path)
    missing = [name for name in listed if name not in set(found.names)]
    if missing:
        raise DataError(
            f"{path} lists {len(missing):,} images that are not in {found.raw}, the first: "
            f"{escape(missing[0])}; restore them, or split without this list: --no-keep-test"
        )
    return set(listed) & set(names)


def _parts(
    names: list[str],
    labels: Integers,
    class_names: list[str],
    groups: Integers,
    options: SplitOptions,
    kept: set[str] | None,
) -> Integers:
    """For each image its fold, ``TEST`` or ``LEFT_OUT``; with one fold 0 is validation, 1 training."""
    parts = np.full(len(names), TEST, np.int64)
    rest = np.arange(len(names))
    if kept is not None:
        is_test = np.array([name in kept for name in names])
        parts[~is_test & np.isin(groups, groups[is_test])] = LEFT_OUT
        rest = np.flatnonzero(~is_test & (parts != LEFT_OUT))
    _check_sizes(labels[rest], groups[rest], class_names, options, kept)
    test = Fraction(0) if kept is not None else Fraction(str(options.test_share))
    if options.folds == 1:
        validation = (1 - test) * Fraction(str(options.val_share))
        shares, needed = [test, validation, 1 - test - validation], [2, 1, 0]
    else:
        shares = [test] + [(1 - test) / options.folds] * options.folds
        needed = [*range(1, options.folds + 1), 0]
    if not test:
        needed.remove(0)
    dealt = deal([names[i] for i in rest], labels[rest], groups[rest], shares, needed, options.seed)
    parts[rest] = dealt - 1
    return parts


def _check_sizes(
    labels: Integers,
    groups: Integers,
    class_names: list[str],
    options: SplitOptions,
    kept: set[str] | None,
) -> None:
    """Stop if a class has too few images, or groups of images, for every fold."""
    pairs = np.unique(np.stack([labels, groups], 1), axis=0)
    held = np.bincount(pairs[:, 0], minlength=len(class_names)).tolist()
    least = held.index(min(held))
    needed = max(options.folds, 2)
    if held[least] >= needed:
        return
    images = int((labels == least).sum())
    what = f"{images:,} image{'s' * (images != 1)}"
    if images != held[least]:
        what += f" in only {held[least]} group{'s' * (held[least] != 1)} that stay together"
    others = sum(count < needed for count in held) - 1
    advice = (
        f"at most --folds {held[least]} is possible"
        if held[least] > 1
        else "it cannot be both trained on and validated on: add images or remove the class"
    )
    raise DataError(
        f"the class '{class_names[least]}' has {what}"
        f"{' outside of its own test set' if kept is not None else ''}"
        f"{f' (and {others} more classes have too few)' if others else ''}, but "
        f" {needed} are needed for {options.folds} fold{'s' * (options.folds != 1)}; {advice}"
    )


def _check_parts(
    parts: Integers,
    labels: Integers,
    class_names: list[str],
    options: SplitOptions,
    kept: set[str] | None,
) -> list[str]:
    """Stop if a class cannot be learned in some fold; warn of one that cannot be measured."""
    warnings = []
    if kept is not None and (left_out := int((parts == LEFT_OUT).sum())):
        warnings.append(
            f"{left_out:,} images are in no fold: they are copies of images of the data set's "
            "own test set, or of their groups; --no-near-duplicates keeps those that only look alike"
        )
    counts = Counter(zip(parts.tolist(), labels.tolist(), strict=True))
    for label, name in enumerate(class_names):
        in_folds = [counts[part, label] for part in range(max(options.folds, 2))]
        trained = in_folds[1:] if options.folds == 1 else [sum(in_folds) - n for n in in_folds]
        for fold, count in enumerate(trained):
            if not count:
                raise DataError(
                    f"the class '{name}' has no image in fold_{fold}_train.txt: one group holds "
                    "all of its images outside of the test set; add other groups, try another "
                    "--seed, or remove the class"
                )
        missing = [fold for fold in range(options.folds) if not in_folds[fold]]
        if missing:
            listed = ", ".join(f"fold_{fold}_val.txt" for fold in missing[:5])
            warnings.append(f"the class '{name}' has no image in {listed}")
        if not counts[TEST, label] and (options.test_share or (parts == TEST).any()):
            warnings.append(f"the class '{name}' has no image in test.txt")
    share = float((parts == TEST).mean())
    if not (parts == TEST).any():
        warnings.append("the test set is empty")
    elif kept is None and abs(share - options.test_share) > options.test_share / 2:
        warnings.append(f"the test set has {share:.1%} of the images: the groups are large")
    for fold in range(options.folds):
        if not (parts == fold).any():
            raise DataError(
                f"fold {fold} would have no image to validate on: there are fewer groups than "
                "parts to deal them to; use fewer --folds"
            )
    return warnings


def _sets(parts: Integers, folds: int) -> dict[str, NDArray[np.bool_]]:
    """Which images are in which index file."""
    sets = {"test": parts == TEST}
    for fold in range(folds):
        sets[f"fold_{fold}_train"] = (parts >= 0) & (parts != fold)
        sets[f"fold_{fold}_val"] = parts == fold
    return sets
