"""What a study came to: the best configuration, a table of all trials, their plots."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from common.utils.errors import InputError
from common.utils.files import atomic_write_text
from common.visualization.tables import text_table
from projects.image_classification.core.run_directories import WEIGHTS
from projects.image_classification.core.search.studies import REASON, RETRY_OF

BEST_CONFIG = "best_config.yaml"
PLOTS = "plots"
DIRECTORY = "directory"
_TRIAL = re.compile(r"trial_\d{4,}(-\d+)?")
_STATES = ("complete", "pruned", "fail", "running", "waiting")


class StudyReport:
    """The files of a study, in one directory.

    Args:
        study: Optuna's.
        directory: Where they go.
        metric: What a trial's value is.
        best_yaml: From a trial's parameters to the whole configuration.
        storage: Where the trials are kept, without a password.

    Attributes:
        table_file: All trials, one a line.
    """

    def __init__(
        self,
        study: Any,
        directory: Path,
        metric: str,
        best_yaml: Callable[[dict[str, Any]], str],
        storage: str,
    ) -> None:
        self.study, self.directory, self.metric = study, directory, metric
        self._best_yaml, self._storage = best_yaml, storage
        self.table_file = directory / "trials.csv"
        self.plots: list[Path] = []
        self._written = -1

    @property
    def best(self) -> Any | None:
        """The best completed trial; ``None`` if there is none."""
        found = self.ranked()
        return found[0] if found else None

    @property
    def best_config(self) -> Path:
        """What ``ml-train --config`` takes."""
        return self.directory / BEST_CONFIG

    def ranked(self) -> list[Any]:
        """The completed trials, the best first."""
        sign = -1.0 if self.study.direction.name == "MAXIMIZE" else 1.0
        done = [t for t in self._trials() if t.state.name == "COMPLETE"]
        return sorted(done, key=lambda t: (sign * t.value, t.number))

    def states(self) -> str:
        """How many trials ended how: ``8 complete, 3 pruned, 1 fail``."""
        counts = Counter(trial.state.name.lower() for trial in self._trials())
        return ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])

    def write(self, plots: bool = False) -> None:
        """Write everything; what is drawn takes seconds, so it waits for the end."""
        self.directory.mkdir(parents=True, exist_ok=True)
        trials = self._trials()
        best = self.best
        if best is not None and best.number != self._written:
            atomic_write_text(self.best_config, self._best_yaml(best.params))
            self._written = best.number
        atomic_write_text(self.table_file, self._csv(trials))
        counts = Counter(trial.state.name.lower() for trial in trials)
        record = {
            "study": self.study.study_name,
            "storage": self._storage,
            "metric": self.metric,
            "direction": self.study.direction.name.lower(),
            "sampler": type(self.study.sampler).__name__,
            "pruner": type(self.study.pruner).__name__,
            "trials": {state: counts[state] for state in _STATES if counts[state]},
            "best": None if best is None else _described(best),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        atomic_write_text(self.directory / "study.json", text)
        if plots:
            self._draw()

    def table(self, most: int = 5) -> str:
        """The best trials as text."""
        ranked = self.ranked()[:most]
        keys = list(dict.fromkeys(key for trial in ranked for key in trial.params))
        rows = [
            [str(t.number), f"{t.value:.4f}", *(short(t.params.get(key)) for key in keys)]
            for t in ranked
        ]
        title = f"Study {self.study.study_name}: {self.states()}"
        return text_table(rows, ["trial", self.metric, *keys], title)

    def tidy_weights(self) -> None:
        """Remove the weights of all trials but the best: fifty trials are fifty networks."""
        best = self.best
        kept = None if best is None else best.user_attrs.get(DIRECTORY)
        for trial in self._trials():
            name = trial.user_attrs.get(DIRECTORY)
            # The storage may be shared: a name in it is not a path to be followed.
            is_ours = isinstance(name, str) and _TRIAL.fullmatch(name)
            if not is_ours or name == kept or not trial.state.is_finished():
                continue
            home = self.directory / name
            if home.is_symlink():
                continue
            for run in [home, *home.glob("fold_*")]:
                for path in [*run.glob(f"{WEIGHTS}/*.pt"), run / "model.safetensors"]:
                    path.unlink(missing_ok=True)

    def _trials(self) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False))

    def _csv(self, trials: list[Any]) -> str:
        keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["trial", "state", self.metric, "epochs", "seconds", *keys, "directory", "reason"]
        )
        for trial in trials:
            seconds = trial.duration.total_seconds() if trial.duration else None
            value = trial.value if trial.state.name == "COMPLETE" else None
            writer.writerow(
                [
                    trial.number,
                    trial.state.name.lower(),
                    value,
                    len(trial.intermediate_values) or None,
                    None if seconds is None else round(seconds, 2),
                    *(trial.params.get(key) for key in keys),
                    trial.user_attrs.get(DIRECTORY),
                    trial.user_attrs.get(REASON) or _retry(trial),
                ]
            )
        return file.getvalue()

    def _draw(self) -> None:
        from projects.image_classification.core.search.plots import draw_study

        try:
            self.plots = draw_study(self.study, self.metric, self.directory / PLOTS)
        except InputError as error:
            logger.warning(f"no plots: {error}")


def _described(trial: Any) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "value": trial.value,
        "params": trial.params,
        "directory": trial.user_attrs.get(DIRECTORY),
    }


def _retry(trial: Any) -> str:
    first = trial.user_attrs.get(RETRY_OF)
    return "" if first is None else f"trial {first} again"


def short(value: Any) -> str:
    """A value for the eye."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
