#!/usr/bin/env python
"""Keep what a cross-validation of ``ml-train --fold all`` came to, and show it in the project's README.

python tools/record_classification.py runs/pets_fold_all --name pets --data "what it is, in a few words"
python tools/record_classification.py --check     # exit 1 if the README is not what the records say
"""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from common.utils.errors import ConfigError, DataError, exit_on_error
from common.utils.files import atomic_write_text
from common.utils.paths import get_project_root, validate_name

HOME = get_project_root() / "projects" / "image_classification"
_PLACE = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def record(directory: Path, name: str, data: str) -> None:
    """Write ``results/<name>.json`` from the record of all folds.

    Raises:
        DataError: if it is no finished cross-validation.
        ConfigError: if its code is in no commit.
    """
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        made_by, test, folds = summary["made_by"], summary["test"], summary["out_of_fold"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{directory} is no finished record of ml-train --fold all ({error!r})"
        ) from None
    code = made_by["code"]
    if not code.get("commit") or code.get("dirty"):
        raise ConfigError(f"{directory} ran code that is in no commit; commit and train again")
    program, *words = made_by["command"]
    ensemble, spread = test["ensemble"], folds["spread"]["accuracy"]
    kept = {
        "data": data,
        "command": shlex.join([Path(program).name, *words]),
        "commit": code["commit"],
        "seed": made_by["seed"],
        "versions": made_by["versions"],
        "hardware": made_by["hardware"],
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
    path = HOME / "results" / f"{validate_name(name)}.json"
    path.parent.mkdir(exist_ok=True)
    atomic_write_text(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def table() -> str:
    """The records as Markdown."""
    lines = [
        "| Data | Folds | Out of fold, pooled | Test, mean of folds | Test, ensemble | Command, commit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted((HOME / "results").glob("*.json")):
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        folds, pooled, test = kept["folds"], kept["pooled"], kept["test"]
        single = sum(test["accuracy_of_folds"]) / len(test["accuracy_of_folds"])
        lines.append(
            f"| {kept['data']} | {folds['mean']:.4f} ± {folds['sd']:.4f} (n={len(folds['accuracy'])}) "
            f"| {pooled['accuracy']:.4f} {_ends(pooled['interval'])} | {single:.4f} "
            f"| {test['ensemble']:.4f} {_ends(test['interval'])}, {test['images']:,} images "
            f"| `{kept['command']}`, {kept['commit'][:9]} |"
        )
    return "\n".join(lines)


def _ends(interval: dict[str, float]) -> str:
    return f"({interval['low']:.4f} to {interval['high']:.4f})"


def page(text: str) -> str:
    """The README with its table made anew."""
    return _PLACE.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", text)


def main() -> None:
    """Record a run, or check the README."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", help="runs/<name>_fold_all")
    parser.add_argument("--name", help="of the record")
    parser.add_argument("--data", help="which data, in a few words")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    with exit_on_error():
        readme = HOME / "README.md"
        if options.check:
            if page(readme.read_text(encoding="utf-8")) != readme.read_text(encoding="utf-8"):
                raise ConfigError(
                    f"{readme} is not what results/ says; record a run, or run this anew"
                )
            return
        if not (options.run and options.name and options.data):
            raise ConfigError("give RUN, --name and --data; see --help")
        record(Path(options.run), options.name, options.data)
        atomic_write_text(readme, page(readme.read_text(encoding="utf-8")))
        sys.stdout.write(f"recorded: {HOME / 'results' / options.name}.json\n")


if __name__ == "__main__":
    main()
