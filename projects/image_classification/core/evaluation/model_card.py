"""The model card of a run: data, training, results, limits, use (Mitchell et al. 2018, 1810.03993).

Only what is known is written: a fact that was not given is left out, or said to be unknown where
its absence would mislead.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.metrics.calibration import CalibrationReport
from common.metrics.classification import ClassificationReport
from common.metrics.cross_validation import CrossValidationReport
from common.utils.files import atomic_write_text, explained_write
from common.utils.text import printable

FILE = "MODEL_CARD.md"
_FEW = 20  # test images below which a class's scores are said to be uncertain
_IMBALANCE = 5.0  # largest over smallest class from which it is a warning
_LISTED = 8
_ALL_CLASSES = 60  # classes up to which each has a row


@dataclass(frozen=True)
class CardFacts:
    """What is known of a model; ``None`` where it is not.

    Attributes:
        dataset: Its name.
        class_names: In the order of the logits.
        counts: Images per class by split (``train``, ``val``, ``test``), in the order of the names.
        split_method: How the splits were made, in a sentence.
        left_out: Images that could not be read and were left out.
        architecture: E.g. ``resnet18 (torchvision)``.
        parameters: Number of weights.
        pretrained: Where its first weights came from; ``""`` for random ones.
        input: The pixels it takes, e.g. ``RGB, 224 x 224``.
        command: That started the training.
        seed: Of the run.
        commit: 40 hex digits.
        dirty: Whether the code differed from the commit.
        started: When the training began.
        settings: Other values worth telling, by key.
        versions: Of packages.
        hardware: Where it was trained.
        report: On the test images.
        split: What those images are called.
        calibration: Temperature scaling on the same images.
        cross_validation: Out-of-fold predictions of all folds.
        privacy: ``epsilon``, ``delta`` and so on, if it was trained with differential privacy;
            ``{}`` if it was trained without; ``None`` if unknown.
        checkpoint: The file of the weights as a command names it.
        notes: Further limits.
    """

    dataset: str
    class_names: Sequence[str]
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    split_method: str | None = None
    left_out: int | None = None
    architecture: str | None = None
    parameters: int | None = None
    pretrained: str | None = None
    input: str | None = None
    command: str | None = None
    seed: int | None = None
    commit: str | None = None
    dirty: bool | None = None
    started: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: str | None = None
    report: ClassificationReport | None = None
    split: str = "test"
    calibration: CalibrationReport | None = None
    cross_validation: CrossValidationReport | None = None
    privacy: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    notes: Sequence[str] = ()


def write_model_card(directory: Path, facts: CardFacts) -> Path:
    """Write ``MODEL_CARD.md`` and return its path.

    Raises:
        FaultError: if it cannot be written.
    """
    path = directory / FILE
    with explained_write(path):
        directory.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, model_card(facts))
    return path


def model_card(facts: CardFacts) -> str:
    """The card as Markdown."""
    sections = {
        "Model": _model(facts),
        "Data": _data(facts),
        "Training": _training(facts),
        "Results": _results(facts),
        "Limits": [f"- {line}" for line in limits(facts)],
        "Privacy": _privacy(facts),
        "Use": _use(facts),
    }
    lines = [f"# Classifier of {len(facts.class_names)} classes: {_plain(facts.dataset)}"]
    for title, content in sections.items():
        if content:
            lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def limits(facts: CardFacts) -> list[str]:
    """What the results do not show, as far as the facts tell."""
    lines = [
        "Measured only on images of this data set. How it does on images of another camera, place, "
        "time or population is unknown; no subgroups of the images were measured.",
        f"Every image gets one of the {len(facts.class_names)} classes, also one that shows none of "
        "them; images of other things were not tested.",
    ]
    train = [count for count in facts.counts.get("train", ()) if count]
    if train and max(train) >= _IMBALANCE * min(train):
        lines.append(
            f"Classes are unequal: the largest has {max(train):,} training images, the smallest "
            f"{min(train):,}."
        )
    report = facts.report
    if report is None:
        lines.append("It was not evaluated on test images.")
    else:
        lines += _limits_of(report)
    if report is not None and facts.calibration is None:
        lines.append("No temperature was fitted: probabilities are as the training left them.")
    if facts.calibration is not None and facts.calibration.nll_after > facts.calibration.nll_before:
        lines.append(
            "The fitted temperature makes the log loss of these images worse, so the images it was "
            "fitted on differ from them; do not rely on calibrated probabilities."
        )
    return [*lines, *map(_plain, facts.notes)]


def _limits_of(report: ClassificationReport) -> list[str]:
    lines = [f"{_plain(note)}." for note in report.notes]
    low, high = report.interval
    if high - low > 0.1:
        lines.append(
            f"{report.images:,} images leave the accuracy uncertain by {100 * (high - low):.0f} "
            "points from end to end of its interval."
        )
    few = [scores for scores in report.classes if 0 < scores.support < _FEW]
    if few:
        lines.append(
            f"{len(few)} of {len(report.classes)} classes have fewer than {_FEW} test images, so "
            f"their scores are uncertain: {_some([s.name for s in few])}."
        )
    scored = [(s.f1, index) for index, s in enumerate(report.classes) if s.f1 is not None]
    worst = [index for f1, index in sorted(scored)[:3] if f1 < 1.0]
    if worst and len(scored) > 3:
        shown = (
            f"{_name(report.classes[i].name)} (F1 {report.classes[i].f1:.3f}, "
            f"{report.classes[i].support:,} images)"
            for i in worst
        )
        lines.append(f"Worst classes: {', '.join(shown)}.")
    confused = [
        (count, true, predicted)
        for true, row in enumerate(report.confusion)
        for predicted, count in enumerate(row)
        if true != predicted and count
    ]
    if confused:
        count, true, predicted = max(confused, key=lambda item: (item[0], -item[1], -item[2]))
        lines.append(
            f"Most frequent confusion: {_name(report.class_names[true])} taken for "
            f"{_name(report.class_names[predicted])}, {count:,} of "
            f"{report.classes[true].support:,} images."
        )
    return lines


def _model(facts: CardFacts) -> list[str]:
    pretrained = "random" if facts.pretrained == "" else facts.pretrained
    return _listed(
        {
            "Architecture": facts.architecture,
            "Parameters": None if facts.parameters is None else f"{facts.parameters:,}",
            "First weights": pretrained,
            "Input": facts.input,
        }
    )


def _data(facts: CardFacts) -> list[str]:
    lines = _listed({"Data set": facts.dataset, "Classes": str(len(facts.class_names))})
    if facts.split_method:
        lines.append(f"- Split: {_plain(facts.split_method)}")
    else:
        lines.append("- Split: how it was made is unknown")
    if facts.left_out is not None:
        lines.append(f"- Unreadable images left out: {facts.left_out:,}")
    if not facts.counts:
        return lines
    splits = list(facts.counts)
    lines += ["", *_row("Class", splits), *_rule(len(splits))]
    shown = range(len(facts.class_names)) if len(facts.class_names) <= _ALL_CLASSES else ()
    for index in shown:
        counts = (f"{facts.counts[split][index]:,}" for split in splits)
        lines += _row(_name(facts.class_names[index]), counts)
    lines += _row("**all**", (f"{sum(facts.counts[split]):,}" for split in splits))
    if not shown:
        lines += _row("smallest class", (f"{min(facts.counts[split]):,}" for split in splits))
        lines += _row("largest class", (f"{max(facts.counts[split]):,}" for split in splits))
    return lines


def _training(facts: CardFacts) -> list[str]:
    commit = facts.commit
    if commit is not None and facts.dirty:
        commit += ", with uncommitted changes"
    known = {
        "Began": facts.started,
        "Seed": None if facts.seed is None else str(facts.seed),
        "Commit": commit or "unknown",
        "Hardware": facts.hardware,
        "Versions": ", ".join(f"{name} {v}" for name, v in facts.versions.items()) or None,
    }
    lines = _listed(known)
    lines += [f"- `{key}`: {_code(value)}" for key, value in facts.settings.items()]
    if facts.command:
        lines += ["", *_fenced(facts.command)]
    return lines


def _results(facts: CardFacts) -> list[str]:
    report = facts.report
    lines: list[str] = []
    if report is None:
        lines.append("Not evaluated on test images.")
    else:
        low, high = report.interval
        lines += [
            f"On {report.images:,} {facts.split} images:",
            "",
            *_row("Metric", ["Value"]),
            *_rule(1),
            *(f"| {name} | {value:.4f} |" for name, value in report.scalars().items()),
            "",
            f"The accuracy lies between {low:.4f} and {high:.4f} with {100 * report.confidence:g} % "
            f"confidence ({report.interval_method}). `ece` has {report.ece_bins} bins of equal "
            "width; `auroc` and `average_precision` are means of one class against the rest; "
            "`brier` goes from 0 to 2.",
        ]
    if facts.calibration is not None:
        found = facts.calibration
        lines += [
            "",
            f"Temperature scaling with {found.scaling.temperature:.4f}, fitted on "
            f"{found.scaling.images:,} other images, takes the expected calibration error "
            f"({found.bins} bins) from {found.ece_before:.4f} to {found.ece_after:.4f}.",
        ]
        if found.scaling.note:
            lines.append(f"{_plain(found.scaling.note).capitalize()}.")
    if facts.cross_validation is not None:
        found_spread = facts.cross_validation.spread["accuracy"]
        deviation = (
            "" if found_spread.deviation is None else f" ± {found_spread.deviation:.4f} (ddof 1)"
        )
        pooled = facts.cross_validation.pooled
        lines += [
            "",
            f"Cross-validation with {len(found_spread.values)} folds: accuracy "
            f"{found_spread.mean:.4f}{deviation}; all {pooled.images:,} out-of-fold predictions "
            f"together {pooled.accuracy:.4f}.",
        ]
    return lines


def _privacy(facts: CardFacts) -> list[str]:
    if facts.privacy is None:
        return ["Whether it was trained with differential privacy is unknown."]
    if not facts.privacy:
        return [
            "Trained without differential privacy: weights can reveal training images. Where the "
            "images must not be public, neither may the weights."
        ]
    known = (f"`{key}` {_code(value)}" for key, value in facts.privacy.items())
    return [
        f"Trained with differential privacy (DP-SGD): {', '.join(known)}. The guarantee is for one "
        "image, not for a person with several images, and does not cover choices made by looking "
        "at validation results."
    ]


def _use(facts: CardFacts) -> list[str]:
    if facts.checkpoint is None:
        return []
    weights = shlex.quote(facts.checkpoint)
    return [
        "The checkpoint holds classes and preprocessing; images are given as files.",
        "",
        *_fenced(
            f"ml-inference --checkpoint_path {weights} --images FOLDER\n"
            f"ml-export --checkpoint {weights} --validate"
        ),
    ]


def _listed(known: Mapping[str, str | None]) -> list[str]:
    return [f"- {key}: {_plain(value)}" for key, value in known.items() if value is not None]


def _row(first: str, others: Any) -> list[str]:
    return [f"| {' | '.join([first, *others])} |"]


def _rule(numbers: int) -> list[str]:
    return [f"|---|{'---:|' * numbers}"]


def _fenced(text: str) -> list[str]:
    """A block of commands; its fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}console", *(printable(line) for line in text.splitlines()), fence]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(_name, names[:_LISTED])) + more


def _name(name: str) -> str:
    return _plain(name) or "(no name)"


def _code(value: Any) -> str:
    return _plain(str(value))


def _plain(text: str) -> str:
    """Text in which no letter is taken for Markdown or HTML, on one line."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#~" else c for c in printable(text))
