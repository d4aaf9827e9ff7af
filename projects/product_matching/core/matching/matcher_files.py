"""Where matchers lie, and what of a matcher's file is read before anything is built of it.

    RUN/fold_0/matcher.pt     one for each finished fold

A run is named by its directory, or by its name below the store's outputs.
"""

import re
from pathlib import Path
from typing import Any

from torch import nn

from common.config import find_run
from common.config.targets import resolve_target
from common.utils.checkpoint import load_checkpoint
from common.utils.errors import CheckpointError, ConfigError
from projects.product_matching.core.config import TARGET

MATCHER = "matcher.pt"
KIND = "product matcher"
_FOLD = re.compile(r"fold_(\d{1,6})")
_PROJECT = Path(__file__).resolve().parents[2]


def matcher_path(run: Path, fold: int) -> Path:
    """Where a run keeps the matcher of a fold."""
    return run / f"fold_{fold}" / MATCHER


def matcher_file(place: Path | str, fold: int | None = None) -> Path:
    """The file a person names: itself, or of a run's folds the one asked for, or the best.

    Raises:
        CheckpointError: if there is none.
        ConfigError: if the run has no such fold.
    """
    path = Path(place).expanduser()
    if path.is_file():
        if fold is not None:
            raise ConfigError(f"{path} is one matcher; --fold chooses among those of a run")
        return path
    path = find_run(str(place), _PROJECT)
    files = {
        int(match[1]): each
        for each in sorted(path.glob(f"fold_*/{MATCHER}"))
        if (match := _FOLD.fullmatch(each.parent.name))
    }
    if not files and (path / MATCHER).is_file() and fold is None:
        return path / MATCHER
    if not files:
        raise CheckpointError(
            f"{path} holds no matcher (fold_0/{MATCHER}); a run writes one when a fold is "
            "finished: go on with it by run.py --resume, or name another run"
        )
    if fold is not None:
        if fold not in files:
            known = ", ".join(map(str, sorted(files)))
            raise ConfigError(f"--fold {fold}: {path} has finished the folds {known}")
        return files[fold]
    if len(files) == 1:
        return next(iter(files.values()))
    scores = {number: read_matcher(each, mmap=True)["score"] for number, each in files.items()}
    # NaN, of a fold that could not be scored, is no best.
    rated = sorted(number for number, score in scores.items() if score == score) or sorted(scores)
    return files[max(rated, key=lambda number: scores[number])]


def read_matcher(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """A file's values, of the kinds they should be."""
    state = load_checkpoint(path, mmap=mmap)
    if not isinstance(state, dict) or state.get("kind") != KIND:
        raise CheckpointError(f"{path} is no matcher; expected a {MATCHER} that run.py wrote")
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("model", "preprocessing", "rule", "weights"), dict),
        **dict.fromkeys(("run", "weights_sha256"), str),
        **{"class_names": list, "fold": int, "score": (int, float), "text": (dict, type(None))},
    }
    for key, kind in kinds.items():
        if key not in state or not isinstance(state[key], kind):
            raise CheckpointError(
                f"{path} is no whole matcher: '{key}' is {type(state.get(key)).__name__}; write it "
                "anew with run.py --resume"
            )
    if isinstance(state["fold"], bool) or state["fold"] < 0:
        raise CheckpointError(
            f"{path} is no matcher: 'fold' is {state['fold']}, expected 0 or more"
        )
    return state


def check_networks(section: Any, key: str = "model") -> None:
    """Every target in a network's section is a network; what else may be built has no place in one.

    Args:
        section: Plain values.
        key: Of the section, for messages.

    Raises:
        ConfigError: naming the first target that is something else.
    """
    if isinstance(section, dict):
        if TARGET in section:
            target = resolve_target(section[TARGET], f"{key}.{TARGET}")
            if not (isinstance(target, type) and issubclass(target, nn.Module)):
                raise ConfigError(
                    f"{key}.{TARGET} is {section[TARGET]}, which is no network; expected a class of "
                    "modules such as common.models.EmbeddingNetwork"
                )
        for name, value in section.items():
            check_networks(value, f"{key}.{name}")
    elif isinstance(section, list):
        for place, value in enumerate(section):
            check_networks(value, f"{key}[{place}]")
