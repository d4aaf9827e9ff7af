"""Where things lie: the project, and the ``assets/`` store with datasets, models and outputs.

``ASSETS_DIR`` in the environment moves the store. Names that come from a person or a file pass
``validate_name`` before they become part of a path.
"""

import os
import unicodedata
from pathlib import Path

from common.utils.errors import UnsafeNameError

_MAX_NAME = 200


def get_project_root() -> Path:
    """The folder that holds ``common/``, ``papers/`` and ``pyproject.toml``."""
    return Path(__file__).resolve().parents[2]


def get_assets_dir() -> Path:
    """The store: ``$ASSETS_DIR``, or ``assets/`` in the project. It is not created."""
    override = os.environ.get("ASSETS_DIR")
    return Path(override).expanduser().resolve() if override else get_project_root() / "assets"


def get_datasets_dir() -> Path:
    """Where data sets are kept: ``assets/datasets``."""
    return get_assets_dir() / "datasets"


def get_models_dir() -> Path:
    """Where downloaded models are kept: ``assets/models``."""
    return get_assets_dir() / "models"


def get_outputs_dir() -> Path:
    """Where runs leave their records: ``assets/outputs``."""
    return get_assets_dir() / "outputs"


def validate_name(name: str, what: str = "name") -> str:
    """Return ``name`` if it is safe as part of a path below some root.

    Slashes may separate parts (``namespace/name``); every part must be an ordinary file name.

    Args:
        name: What came from a person, a file or a server.
        what: What it names, for the message.

    Raises:
        UnsafeNameError: for empty names and parts, ``.`` and ``..``, absolute paths, backslashes,
            control characters, marks that reorder text, a leading ``-`` or ``.``, and names
            longer than 200 characters.
    """
    shown = ascii(name) if len(name) <= 60 else ascii(name[:57]) + "..."
    if len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME:
        raise UnsafeNameError(f"{what} {shown} is longer than {_MAX_NAME} bytes")
    bad = next(
        (c for c in name if c == "\\" or unicodedata.category(c) in ("Cc", "Cf", "Cs")), None
    )
    if bad is not None:
        raise UnsafeNameError(f"{what} {shown} holds the character {bad!a}; use plain text")
    for part in name.split("/"):
        if part in ("", ".", "..") or part[0] in "-." or part != part.strip():
            raise UnsafeNameError(
                f"{what} {shown} is not a plain name; expected parts such as 'squad' or "
                "'namespace/name' without '..', a leading '/', '-' or '.'"
            )
    return name


def safe_join(root: Path, *parts: str) -> Path:
    """Join ``parts`` below ``root``; links inside ``root`` may not lead out of it.

    Raises:
        UnsafeNameError: if the result would lie outside ``root``.
    """
    path = root.joinpath(*(validate_name(part, "path") for part in parts))
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnsafeNameError(f"path {'/'.join(parts)!r} leads out of {root}")
    return path
