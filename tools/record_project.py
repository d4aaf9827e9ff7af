#!/usr/bin/env python
"""Keep what a run of a project came to, and show it in the project's README.

python tools/record_project.py runs/pets_fold_all --name pets --data "what it is, in a few words"
python tools/record_project.py assets/outputs/product_matching/RUN --name digits --data "what it is"
python tools/record_project.py --check     # exit 1 if a README is not what its records say

A run is a cross-validation of ``ml-train --fold all``, or a session of ``projects.product_matching``.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.utils.errors import ConfigError, DataError, exit_on_error
from common.utils.files import atomic_write_text
from common.utils.paths import get_project_root, validate_name

_PROJECTS = get_project_root() / "projects"
_PLACE = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
Values = dict[str, Any]


@dataclass(frozen=True)
class Project:
    """What is kept of a project's runs, and how it is shown.

    Attributes:
        home: The project's folder, with ``README.md`` and ``results/``.
        file: What a finished run has, and what is read of it.
        keep: From that file's values to what is recorded beside command, commit and machine.
        header: Of the table's columns, between data and command.
        cells: Those columns, from what was recorded.
    """

    home: Path
    file: str
    keep: Callable[[Values], Values]
    header: tuple[str, ...]
    cells: Callable[[Values], list[str]]

    def record(self, directory: Path, name: str, data: str) -> Path:
        """Write ``results/<name>.json`` from a run's directory.

        Raises:
            DataError: if it is no finished run.
            ConfigError: if its code is in no commit.
        """
        try:
            summary = json.loads((directory / self.file).read_text(encoding="utf-8"))
            made_by, values = summary["made_by"], self.keep(summary)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{directory} is no finished record of ml-train --fold all or of product matching "
                f"({error!r})"
            ) from None
        code = made_by["code"]
        if not code.get("commit") or code.get("dirty"):
            raise ConfigError(f"{directory} ran code that is in no commit; commit and train again")
        kept = {
            "data": data,
            "command": _command(made_by["command"]),
            "commit": code["commit"],
            **{key: made_by[key] for key in ("seed", "versions", "hardware")},
            **values,
        }
        path = self.home / "results" / f"{validate_name(name)}.json"
        path.parent.mkdir(exist_ok=True)
        atomic_write_text(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
        return path

    def table(self) -> str:
        """The records as Markdown."""
        header = ["Data", *self.header, "Command, commit"]
        lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
        for path in sorted((self.home / "results").glob("*.json")):
            kept: Values = json.loads(path.read_text(encoding="utf-8"))
            made = f"`{kept['command']}`, {kept['commit'][:9]}"
            lines.append(f"| {' | '.join([kept['data'], *self.cells(kept), made])} |")
        return "\n".join(lines)

    def page(self, text: str) -> str:
        """The README with its table made anew."""
        return _PLACE.sub(lambda found: f"{found[1]}{self.table()}\n{found[2]}", text)


def _kept_classification(summary: Values) -> Values:
    test, folds = summary["test"], summary["out_of_fold"]
    ensemble, spread = test["ensemble"], folds["spread"]["accuracy"]
    return {
        "folds": {"accuracy": spread["values"], "mean": spread["mean"], "sd": spread["deviation"]},
        "pooled": {
            "accuracy": folds["pooled"]["accuracy"],
            "interval": folds["pooled"]["interval"],
        },
        "test": {
            "images": test["images"],
            "accuracy_of_folds": test["accuracy_of_folds"],
            "ensemble": ensemble["accuracy"],
            "interval": ensemble["interval"],
            "f1_macro": ensemble["macro"]["f1"],
        },
    }


def _classification_cells(kept: Values) -> list[str]:
    folds, pooled, test = kept["folds"], kept["pooled"], kept["test"]
    single = sum(test["accuracy_of_folds"]) / len(test["accuracy_of_folds"])
    return [
        f"{folds['mean']:.4f} ± {folds['sd']:.4f} (n={len(folds['accuracy'])})",
        f"{pooled['accuracy']:.4f} {_ends(pooled['interval'])}",
        f"{single:.4f}",
        f"{test['ensemble']:.4f} {_ends(test['interval'])}, {test['images']:,} images",
    ]


def _kept_matching(metrics: Values) -> Values:
    kept = {key: metrics[key] for key in ("matching", "retrieval", "beta", "min_matches")}
    return {**kept, "items": metrics["data"]}


def _matching_cells(kept: Values) -> list[str]:
    retrieval, matching = kept["retrieval"]["spread"], kept["matching"]
    f_scores = [
        f"{found['pooled']['f_score']:.4f} {_ends(found['pooled']['interval'])} by {source}"
        for source, found in matching.items()
    ]
    oracles = [fold["oracle"]["f_score"] for fold in matching["image"]["folds"].values()]
    gallery = retrieval.get("gallery_accuracy")
    return [
        _spread(retrieval["precision_at_1"]),
        _spread(retrieval["map_at_r"]) if "map_at_r" in retrieval else "",
        "; ".join(f_scores),
        f"{sum(oracles) / len(oracles):.4f}",
        "" if gallery is None else _spread(gallery),
    ]


def _spread(values: Values) -> str:
    deviation = values["deviation"]
    return f"{values['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _ends(interval: dict[str, float]) -> str:
    return f"({interval['low']:.4f} to {interval['high']:.4f})"


def _command(words: list[str]) -> str:
    """What was typed; a script's or module's path is told from the project."""
    program, *rest = words
    if Path(program).name == "run.py":
        return shlex.join(["python", "-m", f"projects.{Path(program).parent.name}.run", *rest])
    return shlex.join([Path(program).name, *rest])


CLASSIFICATION = Project(
    _PROJECTS / "image_classification",
    "summary.json",
    _kept_classification,
    ("Folds", "Out of fold, pooled", "Test, mean of folds", "Test, ensemble"),
    _classification_cells,
)
MATCHING = Project(
    _PROJECTS / "product_matching",
    "metrics.json",
    _kept_matching,
    (
        "P@1",
        "MAP@R",
        "F, pooled out of fold",
        "F of the oracle",
        "1-NN against what was trained on",
    ),
    _matching_cells,
)
PROJECTS = (CLASSIFICATION, MATCHING)


def main() -> None:
    """Record a run, or check the READMEs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", help="the run's directory")
    parser.add_argument("--name", help="of the record")
    parser.add_argument("--data", help="which data, in a few words")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    with exit_on_error():
        if options.check:
            for project in PROJECTS:
                readme = project.home / "README.md"
                text = readme.read_text(encoding="utf-8")
                if project.page(text) != text:
                    raise ConfigError(
                        f"{readme} is not what results/ says; record a run, or run this anew"
                    )
            return
        if not (options.run and options.name and options.data):
            raise ConfigError("give RUN, --name and --data; see --help")
        directory = Path(options.run)
        project = MATCHING if (directory / MATCHING.file).is_file() else CLASSIFICATION
        path = project.record(directory, options.name, options.data)
        readme = project.home / "README.md"
        atomic_write_text(readme, project.page(readme.read_text(encoding="utf-8")))
        sys.stdout.write(f"recorded: {path}\n")


if __name__ == "__main__":
    main()
