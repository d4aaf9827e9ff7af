"""The plots of a study as pages of their own: each holds its script and data, and needs no network.

plot_study("digits", "sqlite:///optuna_studies.db", "contour", ["lr", "batch_size"])
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from common.utils.errors import ConfigError, DataError
from common.utils.files import atomic_write_text
from common.utils.paths import validate_name
from common.utils.text import did_you_mean
from projects.image_classification.core.config import SearchConfig
from projects.image_classification.core.run_directories import RUNS
from projects.image_classification.core.search.studies import (
    explained_storage,
    import_optuna,
    masked,
    open_storage,
)

# By name: Optuna's function, the completed trials it needs, and the parameters.
_TYPES: dict[str, tuple[str, int, int]] = {
    "optimization_history": ("plot_optimization_history", 1, 0),
    "param_importances": ("plot_param_importances", 2, 1),
    "contour": ("plot_contour", 2, 2),
    "parallel_coordinate": ("plot_parallel_coordinate", 1, 1),
    "slice": ("plot_slice", 1, 1),
}
PLOT_TYPES = tuple(_TYPES)
_MOST_CONTOURS = 6  # parameters whose pairs are drawn unless some are named: 30 squares


def plot_study(
    study_name: str,
    storage: str | None = None,
    plot_type: str | None = None,
    params: Sequence[str] | None = None,
    out: str | Path | None = None,
) -> list[Path]:
    """Draw a study.

    Args:
        study_name: The study.
        storage: Its address; the default is ``ml-search``'s.
        plot_type: One of ``PLOT_TYPES``; by default all that can be drawn.
        params: Keys of the search space, in full or as their last name (``lr``); all by default.
        out: The folder of the pages, or the one page's ``.html``; by default
            ``runs/optuna_studies/<study>/plots``.

    Returns:
        The pages.

    Raises:
        ConfigError: for an unknown study, type or parameter, or a missing package.
        DataError: if there are too few trials.
    """
    url = storage or SearchConfig().storage
    if plot_type is not None and plot_type not in _TYPES:
        raise ConfigError(f"--plot-type is '{plot_type}': {did_you_mean(plot_type, _TYPES)}")
    optuna = import_optuna()
    opened = open_storage(url, must_exist=True)
    with explained_storage(url):
        known = optuna.get_all_study_names(opened)
        if study_name not in known:
            hint = did_you_mean(study_name, known) if known else "it holds none"
            raise ConfigError(f"no study '{study_name}' in {masked(url)}; {hint}")
        study = optuna.load_study(study_name=study_name, storage=opened)
        place = Path(out) if out is not None else _usual_place(study_name)
        metric = study.user_attrs.get("settings", {}).get("metric", "value")
        return draw_study(study, str(metric), place, plot_type, params)


def draw_study(
    study: Any,
    metric: str,
    out: Path,
    plot_type: str | None = None,
    params: Sequence[str] | None = None,
) -> list[Path]:
    """Draw a study that is open; see ``plot_study``.

    Args:
        study: Optuna's.
        metric: What a trial's value is.
        out: The folder of the pages, or the one page's ``.html``.
        plot_type: By default all that can be drawn.
        params: By default all.
    """
    _check_plotly()
    chosen = _full_names(study, params)
    if not _completed(study):
        count = len(study.get_trials(deepcopy=False))
        raise DataError(
            f"study '{study.study_name}' has {count} trials and none of them is complete, so there "
            "is nothing to draw; run ml-search --resume"
        )
    types = [plot_type] if plot_type is not None else list(PLOT_TYPES)
    if out.suffix == ".html" and len(types) > 1:
        raise ConfigError(
            f"--output is the page {out}, but all plots were asked for; name a folder"
        )
    folder = out.parent if out.suffix == ".html" else out
    written: list[Path] = []
    problems: list[str] = []
    for name in types:
        if problem := _problem(study, name, chosen):
            problems.append(f"{name}: {problem}")
            continue
        figure = _figure(study, name, metric, chosen)
        folder.mkdir(parents=True, exist_ok=True)
        path = out if out.suffix == ".html" else folder / f"{name}.html"
        page = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
        atomic_write_text(path, page)
        written.append(path)
    if not written:
        raise DataError(f"study '{study.study_name}' cannot be drawn: {'; '.join(problems)}")
    for problem in problems:
        logger.info(f"not drawn: {problem}")
    return written


def _usual_place(study_name: str) -> Path:
    return RUNS / "optuna_studies" / validate_name(study_name, "study name") / "plots"


def _check_plotly() -> None:
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise ConfigError(
            "plots of a study need the package plotly, which is not installed; "
            "uv pip install 'reprise[optuna]'"
        ) from None


def _completed(study: Any) -> list[Any]:
    states = import_optuna().trial.TrialState
    return list(study.get_trials(deepcopy=False, states=(states.COMPLETE,)))


def _full_names(study: Any, params: Sequence[str] | None) -> list[str] | None:
    """The keys that names stand for.

    Raises:
        ConfigError: for a name that is no parameter, or may be two.
    """
    if not params:
        return None
    trials = study.get_trials(deepcopy=False)
    known = list(dict.fromkeys(key for trial in trials for key in trial.params))
    found = []
    for name in params:
        matches = [name] if name in known else [k for k in known if k.endswith(f".{name}")]
        if len(matches) > 1:
            raise ConfigError(f"--params {name} may be {' or '.join(matches)}; write it in full")
        if not matches:
            short = [key.rpartition(".")[2] for key in known]
            hint = did_you_mean(name, [*known, *short]) if known else "no trial has any yet"
            raise ConfigError(f"--params {name} is no parameter of '{study.study_name}'; {hint}")
        found += matches
    return list(dict.fromkeys(found))


def _problem(study: Any, name: str, params: list[str] | None) -> str:
    """Why a plot cannot be drawn, else empty."""
    _, least_trials, least_params = _TYPES[name]
    trials = _completed(study)
    used = params or list(dict.fromkeys(key for trial in trials for key in trial.params))
    having = [trial for trial in trials if not params or set(params) & set(trial.params)]
    if len(having) < least_trials:
        what = "completed trial" if least_trials == 1 else "completed trials"
        return f"needs {least_trials} {what}, there are {len(having)}"
    if len(used) < least_params:
        return f"needs {least_params} parameters, there are {len(used)}"
    if name == "param_importances" and len({trial.value for trial in trials}) < 2:
        return "every trial has the same value, so no parameter matters more than another"
    return ""


def _figure(study: Any, name: str, metric: str, params: list[str] | None) -> Any:
    visualization = import_optuna().visualization
    function: Callable[..., Any] = getattr(visualization, _TYPES[name][0])
    options: dict[str, Any] = {"target_name": metric}
    if name != "optimization_history":
        if name == "contour" and params is None:
            params = _most_important(study)
        options["params"] = params
    figure = function(study, **options)
    title = name.replace("_", " ").replace("param ", "parameter ")
    count = len(_completed(study))
    figure.update_layout(title=f"{title.capitalize()} ({metric}, {count} completed trials)")
    return figure


def _most_important(study: Any) -> list[str]:
    """All parameters, or those that matter most where every pair would be too many to read."""
    keys = list(dict.fromkeys(key for trial in _completed(study) for key in trial.params))
    if len(keys) <= _MOST_CONTOURS:
        return keys
    optuna = import_optuna()
    return list(optuna.importance.get_param_importances(study))[:_MOST_CONTOURS]
