"""What a data set looks like and how it was split: one mapping, shown as JSON and as text.

It holds neither a time nor a path outside of the data set: the same data gives the same report.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.perceptual_hash import Indices
from common.visualization.tables import text_table
from projects.image_classification.core.folder.duplicates import Duplicates
from projects.image_classification.core.folder.image_facts import ImageFacts
from projects.image_classification.core.folder.image_folder import ImageFolder, file_kinds
from projects.image_classification.core.index_files import escape

_SHORT = 12  # lines of each list on a terminal


def make_report(
    found: ImageFolder,
    facts: ImageFacts,
    labels: Indices,
    class_names: Sequence[str],
    sets: Mapping[str, NDArray[np.bool_]],
    copies: Duplicates,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Collect what is known.

    Args:
        found: What lies in the raw folder.
        facts: What the look at the images showed.
        labels: Class indices of the ``G`` good images.
        class_names: By class index.
        sets: Which images are in ``test``, ``fold_0_train``, ``fold_0_val`` and so on.
        copies: Copies among them.
        warnings: What a person should look at.
    """
    names = [escape(found.names[index]) for index in facts.good]
    looks = facts.looks
    sizes = Counter(f"{look.width} x {look.height}" for look in looks)
    totals = np.bincount(labels, minlength=len(class_names)).tolist()
    by_set = {
        name: np.bincount(labels[chosen], minlength=len(class_names)).tolist()
        for name, chosen in sets.items()
    }
    used = np.any(list(sets.values()), axis=0)
    return {
        "images": {
            "found": len(found.names),
            "good": len(names),
            "bad": len(facts.bad),
            "in_copies": len(names) - len(np.unique(copies.groups)),
            "turned_by_exif": sum(look.is_turned for look in looks),
            "animated": sum(look.is_animated for look in looks),
        },
        "sets": {name: int(chosen.sum()) for name, chosen in sets.items()},
        "classes": {
            name: {"images": totals[k], **{one: counts[k] for one, counts in by_set.items()}}
            for k, name in enumerate(class_names)
        },
        "width": _range([look.width for look in looks]),
        "height": _range([look.height for look in looks]),
        "sizes": {"different": len(sizes), "commonest": _commonest(sizes, 10)},
        "modes": _commonest(Counter(look.mode for look in looks)),
        "formats": _commonest(Counter(look.format for look in looks)),
        "warnings": list(warnings),
        "bad": {escape(found.names[index]): why for index, why in sorted(facts.bad.items())},
        "label_conflicts": [
            {names[index]: class_names[labels[index]] for index in one} for one in copies.conflicts
        ],
        "exact_copies": [[names[index] for index in one] for one in copies.exact],
        "near_copies": [[names[index] for index in one] for one in copies.near],
        "in_no_set": [names[index] for index in np.flatnonzero(~used)],
        "empty_classes": found.empty_classes,
        "outside_of_classes": [escape(name) for name in found.stray],
        "links_not_followed": {escape(name): why for name, why in sorted(found.links.items())},
        "ignored_kinds": dict(file_kinds(found.ignored)),
        "ignored": [escape(name) for name in found.ignored],
    }


def report_text(report: Mapping[str, Any], short: bool = False) -> str:
    """The report for people.

    Args:
        report: What ``make_report`` gave.
        short: For a terminal: long lists and tables are cut, and say so.
    """
    limit = _SHORT if short else None
    images, sizes = report["images"], report["sizes"]
    rows = [
        ("images", _total(images)),
        ("classes", f"{len(report['classes']):,}"),
        ("sets", _sets(report["sets"])),
        ("width", "{min:,} to {max:,}, median {median:,}".format(**report["width"])),
        ("height", "{min:,} to {max:,}, median {median:,}".format(**report["height"])),
        ("sizes", f"{sizes['different']:,} different; {_counts(sizes['commonest'], 3)}"),
        ("modes", _counts(report["modes"])),
        ("formats", _counts(report["formats"])),
    ]
    special = [("turned_by_exif", "turned upright by EXIF"), ("animated", "animated (first frame)")]
    noted = [f"{images[key]:,} {text}" for key, text in special if images[key]]
    rows += [("also", ", ".join(noted))] if noted else []
    parts = ["\n".join(f"{name:<9}{text}" for name, text in rows), _class_table(report, limit)]
    conflicts = [_by_label(one) for one in report["label_conflicts"]]
    bad = [f"{name}: {why}" for name, why in report["bad"].items()]
    links = [f"{name} {why}" for name, why in report["links_not_followed"].items()]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["ignored_kinds"].items())
    for title, lines in (
        ("warnings", report["warnings"]),
        ("bad images, in no set", bad),
        ("sets of copies whose labels differ", conflicts),
        ("sets of equal files", [", ".join(one) for one in report["exact_copies"]]),
        ("sets of images that look alike", [", ".join(one) for one in report["near_copies"]]),
        ("images in no set", report["in_no_set"]),
        ("classes without images, left out", report["empty_classes"]),
        ("images outside of class folders, left out", report["outside_of_classes"]),
        ("links that were not followed", links),
        (f"other files, left out: {kinds}", report["ignored"]),
    ):
        if lines:
            parts.append(_list(title, lines, limit))
    return "\n\n".join(parts)


def _class_table(report: Mapping[str, Any], limit: int | None) -> str:
    columns = [
        name
        for name in report["sets"]
        if not name.endswith("_train") or len(report["sets"]) == 3  # one fold: all three
    ]
    columns = columns if limit is None else columns[: 1 + limit]
    classes = sorted(report["classes"].items(), key=lambda item: -item[1]["images"])
    shown = classes
    if limit is not None and len(classes) > 2 * limit:
        shown = classes[:limit] + classes[-limit:]
    rows = [(name, *(counts[c] for c in ("images", *columns))) for name, counts in shown]
    table = text_table(rows, ["class", "images", *columns])
    hidden = len(classes) - len(shown)
    cut = f"\n{hidden:,} classes in the middle are not shown, see report.txt" if hidden else ""
    return table + cut


def _list(title: str, lines: Sequence[str], limit: int | None) -> str:
    shown = lines if limit is None else [line[:300] for line in lines[:limit]]
    text = "\n".join([f"{title} ({len(lines):,}):", *(f"  {line}" for line in shown)])
    more = len(lines) - len(shown)
    return text + (f"\n  ... and {more:,} more, see report.txt" if more else "")


def _by_label(conflict: Mapping[str, str]) -> str:
    """The first few images of every label in a set of copies."""
    members: dict[str, list[str]] = {}
    for name, label in conflict.items():
        members.setdefault(label, []).append(name)
    return "; ".join(
        f"'{label}': {', '.join(names[:2])}{f' and {len(names) - 2} more' if names[2:] else ''}"
        for label, names in members.items()
    )


def _total(images: Mapping[str, int]) -> str:
    text = f"{images['good']:,}"
    if images["bad"]:
        text += f", and {images['bad']:,} bad ones"
    if images["in_copies"]:
        text += f"; {images['in_copies']:,} are copies of others"
    return text


def _sets(sets: Mapping[str, int]) -> str:
    folds = [count for name, count in sets.items() if name.endswith("_val")]
    low, high = min(folds), max(folds)
    validation = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    trained = [count for name, count in sets.items() if name.endswith("_train")]
    train = (
        f"{min(trained):,}" if len(set(trained)) == 1 else f"{min(trained):,} to {max(trained):,}"
    )
    fold = f"{len(folds)} folds of" if len(folds) > 1 else "one fold of"
    return f"{sets['test']:,} to test; {fold} {train} to train and {validation} to validate"


def _range(values: Sequence[int]) -> dict[str, int]:
    return {
        "min": int(min(values)),
        "median": int(np.median(values)),
        "max": int(max(values)),
    }


def _commonest(counts: Counter[str], limit: int | None = None) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _counts(counts: Mapping[str, int], limit: int | None = None) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in list(counts.items())[:limit])
