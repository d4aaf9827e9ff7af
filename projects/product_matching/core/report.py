"""What a session leaves to be read: ``report.md``, ``metrics.json`` and ``out_of_fold.csv``."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.metrics import match_rows
from common.utils.files import atomic_write, atomic_write_text
from common.utils.text import printable
from common.visualization.tables import text_table
from projects.product_matching.core.config import Config
from projects.product_matching.core.evaluation import SourceMatches
from projects.product_matching.core.training import FoldOutcome

REPORT, METRICS, OUT_OF_FOLD = "report.md", "metrics.json", "out_of_fold.csv"
_RETRIEVAL = {
    "precision_at_1": "P@1",
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "gallery_accuracy": "1-NN accuracy against what was trained on",
    # Of five, or of all where fewer are trained on.
    **{f"gallery_hit_at_{k}": f"hit@{k} against what was trained on" for k in range(1, 6)},
}


def write_report(
    home: Path,
    config: Config,
    outcomes: Mapping[int, FoldOutcome],
    judged: Mapping[str, SourceMatches],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the three files; returns what ``metrics.json`` holds.

    Args:
        home: The session's directory.
        config: Its configuration.
        outcomes: By fold.
        judged: By source.
        facts: Of the data: how many items, labels, lone labels, unreadable images.
    """
    metrics = {
        "data": dict(facts),
        "retrieval": _retrieval(outcomes),
        "matching": {source: found.to_dict() for source, found in judged.items()},
        "beta": config.matching.beta,
        "min_matches": config.matching.min_matches,
        "made_by": _made_by(outcomes),
    }
    _write_lists(home / OUT_OF_FOLD, judged)
    text = json.dumps(metrics, indent=2, ensure_ascii=True) + "\n"
    atomic_write_text(home / METRICS, text)
    atomic_write_text(home / REPORT, _markdown(config, outcomes, judged, metrics))
    return metrics


def summary_table(metrics: Mapping[str, Any]) -> str:
    """What the command shows at the end."""
    rows = []
    for source, found in metrics["matching"].items():
        pooled, spread = found["pooled"], found["spread"]["f_score"]
        interval = pooled["interval"]
        rows.append(
            [
                source,
                f"{pooled['f_score']:.4f}",
                f"{interval['low']:.4f} to {interval['high']:.4f}",
                _with_deviation(spread),
                f"{pooled['precision']:.4f}",
                f"{pooled['recall']:.4f}",
            ]
        )
    header = ["matched by", "F", "95 %, over labels", "over folds", "precision", "recall"]
    lines = [text_table(rows, header, "Out of fold")]
    for name, spread in metrics["retrieval"]["spread"].items():
        lines.append(f"{_RETRIEVAL.get(name, name)}: {_with_deviation(spread)}")
    return "\n".join(lines)


def _retrieval(outcomes: Mapping[int, FoldOutcome]) -> dict[str, Any]:
    shared = set.intersection(*(set(o.retrieval) for o in outcomes.values()))
    spread = {}
    for name in next(iter(outcomes.values())).retrieval:
        if name in shared:
            values = np.array([o.retrieval[name] for o in outcomes.values()])
            deviation = float(values.std(ddof=1)) if len(values) > 1 else None
            spread[name] = {"mean": float(values.mean()), "deviation": deviation}
    folds = {str(number): outcome.retrieval for number, outcome in outcomes.items()}
    return {"spread": spread, "folds": folds}


def _made_by(outcomes: Mapping[int, FoldOutcome]) -> dict[str, Any]:
    """What the first fold's record says of command, code and machine; how long all took."""
    records = [
        json.loads((o.directory / "run.json").read_text(encoding="utf-8"))
        for o in outcomes.values()
    ]
    kept = {key: records[0][key] for key in ("command", "code", "versions", "hardware", "seed")}
    seconds = sum(o.summary["train_seconds"] for o in outcomes.values())
    return {**kept, "train_seconds": round(seconds, 1)}


def _write_lists(path: Path, judged: Mapping[str, SourceMatches]) -> None:
    """A line for each item: its fold, its label, and its matches by every source, best first."""
    sources = list(judged)
    with atomic_write(path, "w") as file:
        writer = csv.writer(file)
        header = ["item", "label", "fold"]
        for source in sources:
            header += [f"matches by {source}", f"scores by {source}", f"F by {source}"]
        writer.writerow(header)
        for number in judged[sources[0]].folds:
            lists = {source: _by_item(judged[source], number) for source in sources}
            items = judged[sources[0]].folds[number].items
            for row, (name, label) in enumerate(zip(items.names, items.labels, strict=True)):
                line: list[Any] = [printable(name), printable(label), number]
                for source in sources:
                    found = lists[source].get(name, [])
                    f_score = float(judged[source].folds[number].rows["f_score"][row])
                    line.append(" | ".join(printable(match) for match, _ in found))
                    line.append(" ".join(f"{score:.4f}" for _, score in found))
                    line.append(f"{f_score:.4f}")
                writer.writerow(line)


def _by_item(source: SourceMatches, number: int) -> dict[str, list[tuple[str, float]]]:
    fold = source.folds[number]
    found: dict[str, list[tuple[str, float]]] = {}
    for query, match, score in match_rows(fold.matches, fold.items.names):
        found.setdefault(query, []).append((match, score))
    return found


def _markdown(
    config: Config,
    outcomes: Mapping[int, FoldOutcome],
    judged: Mapping[str, SourceMatches],
    metrics: Mapping[str, Any],
) -> str:
    data = metrics["data"]
    alone = f"{data['alone']:,} {'label has' if data['alone'] == 1 else 'labels have'}"
    lines = [
        "# Product matching",
        "",
        f"{data['origin']}: {data['items']:,} items, {data['labels']:,} labels; "
        f"{alone} one item, which has no match to find; "
        f"{data['unreadable']:,} images could not be read.",
        "",
        "Every number is of items that the network has not seen, at a threshold (in units of the "
        "cosine) that was picked on other items. `oracle` is the F of the best threshold of the very "
        "items that are judged (of a union, of the best two that were found): nobody knows it "
        "beforehand. An item counts as a match of itself.",
        "",
        f"## Matches (F with beta {config.matching.beta:g})",
    ]
    for source, found in judged.items():
        pooled, interval = found.pooled, found.interval
        lines += [
            "",
            f"### By {source}",
            "",
            "| Fold | Items | F | Oracle | Precision | Recall | Threshold | Picked on |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for number, fold in found.folds.items():
            scores, threshold = fold.scores, fold.threshold
            oracle, value, picked = ("", "", "")
            if threshold is not None:
                oracle = f"{threshold.oracle[1]:.4f}"
                value = " and ".join(f"{value:.4f}" for value in threshold.judged_at)
                picked = threshold.picked_on
            elif fold.union is not None:
                oracle = f"{fold.union.oracle.picked_score:.4f}"
                pairs = fold.union.judged_at
                value = " and ".join(f"image {i:.4f}, title {t:.4f}" for i, t in pairs)
                picked = fold.union.picked_on
            lines.append(
                f"| {number} | {len(fold.items):,} | {scores['f_score']:.4f} | {oracle} "
                f"| {scores['precision']:.4f} | {scores['recall']:.4f} | {value} | {picked} |"
            )
        spread = _with_deviation(found.spread["f_score"])
        lines += [
            "",
            f"F over folds {spread}; pooled {pooled['f_score']:.4f} (95 % over labels: "
            f"{interval.low:.4f} to {interval.high:.4f}), precision {pooled['precision']:.4f}, recall "
            f"{pooled['recall']:.4f}.",
        ]
    names = list(metrics["retrieval"]["spread"])
    lines += ["", "## Neighbours by image", ""]
    lines.append(f"| Fold | {' | '.join(_RETRIEVAL.get(name, name) for name in names)} |")
    lines.append("| --- " * (len(names) + 1) + "|")
    for number, outcome in outcomes.items():
        values = " | ".join(f"{outcome.retrieval[name]:.4f}" for name in names)
        lines.append(f"| {number} | {values} |")
    spreads = " | ".join(_with_deviation(metrics["retrieval"]["spread"][name]) for name in names)
    lines += [f"| mean | {spreads} |", ""]
    return "\n".join(lines)


def _with_deviation(spread: Mapping[str, float | None]) -> str:
    deviation = spread["deviation"]
    return f"{spread['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
