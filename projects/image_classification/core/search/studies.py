"""Where the trials of a search are kept, so that it can be gone on with and shared by processes.

    sqlite:///optuna_studies.db                       one file; one process at a time works best
    journal:///search.journal                         one file; many processes of one machine
    postgresql://user:password@host/database          many machines
    mysql://user:password@host/database

A password is shown nowhere: ``masked`` stands in messages, records and saved configurations.
"""

import json
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from loguru import logger

from common.utils.errors import ConfigError, FaultError, RepriseError
from common.utils.text import did_you_mean, nearest

FORMS = (
    "sqlite:///FILE, journal:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or "
    "mysql://USER:PASSWORD@HOST/DATABASE"
)
MODES = ("create", "resume", "join")
WORKER, RETRY_OF, RETRIES, REASON = "worker", "retry_of", "retries", "reason"
_SCHEMES = ("sqlite", "journal", "postgresql", "mysql", "mariadb")
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "mysqldb": "mysqlclient",
}
_USERINFO = re.compile(r"(://[^:/@\s]*):(\S*)@")
_QUERY = re.compile(r"([?&](?:password|passwd|sslpassword)=)[^&\s]*")
_UNREACHABLE = re.compile(
    r"refused|timed? ?out|resolve|translate|not known|unreachable|no route|can't connect|"
    r"starting up|shutting down|terminat|lost connection|gone away|closed",
    re.IGNORECASE,
)
_CONNECT_SECONDS = 10
_LOCK_SECONDS = 60
_HEARTBEAT_SECONDS, _GRACE_SECONDS = 20, 120
_MOST_RETRIES = 2
_RACES = 5  # processes that make the tables of an empty database at the same time


@dataclass(frozen=True)
class Worker:
    """The process behind a running trial."""

    host: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> "Worker":
        """This process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def is_dead(self) -> bool:
        """Whether it is known to be gone; of another machine's nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


def import_optuna() -> Any:
    """Optuna, quiet: what it has to say is said by the search.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "ml-search needs Optuna, which is not installed; uv pip install 'reprise[optuna]'"
        ) from None
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def masked(text: str) -> str:
    """A text without the passwords of addresses in it; a reference to one may stand."""

    def hide(match: re.Match[str]) -> str:
        is_reference = match[2].startswith("${") and match[2].endswith("}")
        return match[0] if is_reference else f"{match[1]}:***@"

    return _QUERY.sub(r"\1***", _USERINFO.sub(hide, text))


def open_storage(url: str, *, must_exist: bool = False) -> Any:
    """The storage behind an address.

    Args:
        url: One of the forms above.
        must_exist: Do not make a file that is not there.

    Raises:
        ConfigError: for an address that cannot be understood, a missing driver or folder, a wrong
            password, a file that holds something else.
        FaultError: if the database does not answer.
    """
    scheme, separator, rest = url.partition("://")
    name = scheme.partition("+")[0].lower()
    if not separator or name not in _SCHEMES:
        match = nearest(name, _SCHEMES) if separator else None
        hint = f"did you mean {match}://...? " if match else ""
        raise ConfigError(f"search.storage is '{masked(url)}'; {hint}expected {FORMS}")
    if name in ("journal", "sqlite"):
        path = _file(url, name, rest, must_exist)
        if name == "journal":
            return _journal(path, url)
    optuna = import_optuna()
    with explained_storage(url):
        return optuna.storages.get_storage(_relational(optuna, url, name))


def open_study(storage: Any, url: str, name: str, direction: str, mode: str) -> tuple[Any, bool]:
    """A study, and whether it was begun here.

    Args:
        storage: From ``open_storage``.
        url: Of it, for messages.
        name: The study's.
        direction: ``maximize`` or ``minimize``.
        mode: ``create``: there is none yet; ``resume``: there is one; ``join``: either.

    Raises:
        ConfigError: if that is not so, or the study has another direction.
    """
    optuna = import_optuna()
    with explained_storage(url):
        known = optuna.get_all_study_names(storage)
        if mode == "resume" and name not in known:
            raise ConfigError(
                f"no study '{name}' in {masked(url)}; "
                + (f"{did_you_mean(name, known)} " if known else "it holds none; ")
                + "leave --resume out to begin it"
            )
        is_new = name not in known
        if is_new:
            try:
                study = optuna.create_study(
                    storage=storage, study_name=name, direction=direction, load_if_exists=False
                )
            except optuna.exceptions.DuplicatedStudyError:  # begun by another one meanwhile
                is_new = False
        if not is_new:
            study = optuna.load_study(storage=storage, study_name=name)
        if not is_new and mode == "create":
            count = len(study.get_trials(deepcopy=False))
            raise ConfigError(
                f"study '{name}' is in {masked(url)} already, with {count} trials; give --resume "
                "to go on with it, or another --study-name"
            )
        if study.direction.name.lower() != direction:
            raise ConfigError(
                f"study '{name}' wants to {study.direction.name.lower()}, the configuration to "
                f"{direction}; set search.direction or give another --study-name"
            )
        return study, is_new


def requeue(study: Any, trial: Any) -> bool:
    """Queue the values of a trial that did not come to its end; whether it was worth it.

    A trial whose process died every time is given up: its values may be what kills it.
    """
    retries = int(trial.user_attrs.get(RETRIES, 0)) + 1
    if retries > _MOST_RETRIES:
        logger.warning(f"trial {trial.number} ended unfinished {retries} times and is given up")
        return False
    first = trial.user_attrs.get(RETRY_OF, trial.number)
    study.enqueue_trial(dict(trial.params), user_attrs={RETRY_OF: first, RETRIES: retries})
    return True


def fail_dead_trials(study: Any) -> int:
    """Close the running trials whose process is gone, queue their values; how many there were.

    A process of this machine is looked up; one of another machine is dead when it has not shown
    itself in the database for two minutes (Optuna's heartbeat).
    """
    optuna = import_optuna()
    running = optuna.trial.TrialState.RUNNING
    count = 0
    for trial in study.get_trials(deepcopy=False, states=(running,)):
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # killed, or at this moment about to say who it is
            age = time.time() - trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            is_dead = age > _GRACE_SECONDS
        else:
            is_dead = Worker(**worker).is_dead()
        if is_dead and _fail(study, trial, "its process ended without a word"):
            count += 1
            requeue(study, trial)
    optuna.storages.fail_stale_trials(study)
    return count


def living_workers(study: Any) -> int:
    """Other processes that work on a study now, as far as is known."""
    optuna = import_optuna()
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    return sum(1 for trial in running if trial.user_attrs.get(WORKER, {}).get("pid") != os.getpid())


@contextmanager
def explained_storage(url: str) -> Iterator[None]:
    """What a database says of a failure, in one line and without a password.

    Raises:
        ConfigError: for what can be put right in the address.
        FaultError: for a database that does not answer, or fails meanwhile.
    """
    try:
        yield
    except RepriseError:
        raise
    except Exception as error:
        # Optuna stumbles over a storage that is gone, so the reason may stand behind the error.
        known = next((each for each in _chain(error) if _is_of_storage(each)), None)
        if known is None:
            raise
        reason = _reason(known, url)
        shown = masked(url)
        if _UNREACHABLE.search(reason):
            raise FaultError(
                f"the storage {shown} does not answer: {reason}; is the server running, and can "
                "it be reached from here? What finished is kept: --resume goes on"
            ) from None
        raise ConfigError(f"the storage {shown} cannot be used: {reason}") from None


def _is_of_storage(error: BaseException) -> bool:
    module = type(error).__module__.partition(".")[0]
    names = ("StorageInternalError", "UpdateFinishedTrialError")
    return module in ("sqlalchemy", "psycopg", "pymysql", "psycopg2") or (
        type(error).__name__ in names
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with those it was raised while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException, url: str) -> str:
    origin = getattr(error, "orig", None) or error.__cause__ or error
    lines = [line.strip() for line in str(origin).splitlines() if line.strip()]
    text = masked(lines[0] if lines else type(error).__name__)
    match = _USERINFO.search(url)
    if match is not None and match[2]:
        text = text.replace(match[2], "***")
    return text.rstrip(".")


def _file(url: str, name: str, rest: str, must_exist: bool) -> Path:
    """The file that ``sqlite:///FILE`` or ``journal:///FILE`` names."""
    if not rest.startswith("/") or rest.strip("/") in ("", ":memory:"):
        raise ConfigError(
            f"search.storage is '{url}', which names no file; expected {name}:///FILE for one in "
            f"the working directory, {name}:////FOLDER/FILE for any other"
        )
    path = Path(rest[1:].partition("?")[0]).expanduser().absolute()
    if not path.parent.is_dir():
        raise ConfigError(f"search.storage is '{url}', but there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"search.storage is '{url}', which is a folder; name a file")
    if must_exist and not path.exists():
        raise ConfigError(
            f"search.storage is '{url}', but there is no such file in {path.parent}; name "
            "the one of an earlier search, or begin one: ml-search without --resume"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK | os.R_OK):
        raise FaultError(f"search.storage: {path} cannot be read and written")
    return path


def _journal(path: Path, url: str) -> Any:
    optuna = import_optuna()
    with open(path, "ab+") as file:
        file.seek(0)
        first = file.readline(10_000)
    try:
        if first and "op_code" not in json.loads(first):
            raise ValueError
        # An absolute path: the lock beside the file is a link to it.
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        return optuna.storages.JournalStorage(backend)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"search.storage is '{url}', which is no whole journal of Optuna"
        ) from None


def _relational(optuna: Any, url: str, name: str) -> Any:
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    scheme, _, rest = url.partition("://")
    engine: dict[str, Any] = {"connect_args": {"timeout": _LOCK_SECONDS}}
    beats: dict[str, Any] = {}
    driver = scheme.partition("+")[2] or _DRIVERS.get(name, "")
    if name in _DRIVERS:
        address = f"{name}+{driver}://{rest}"
        engine = {
            "connect_args": {"connect_timeout": _CONNECT_SECONDS},
            "pool_pre_ping": True,  # a trial may take longer than a server keeps a connection
        }
        beats = {
            "heartbeat_interval": _HEARTBEAT_SECONDS,
            "grace_period": _GRACE_SECONDS,
            "heartbeat_stale_trial_callback": requeue,
        }
    else:
        address = url
    for attempt in range(_RACES):
        try:
            return optuna.storages.RDBStorage(address, engine_kwargs=engine, **beats)
        except ImportError:
            package = _PACKAGES.get(driver, driver)
            raise ConfigError(
                f"search.storage is '{masked(url)}', whose driver is not installed; "
                f"uv pip install '{package}'"
            ) from None
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise ConfigError(
                f"search.storage is '{masked(url)}': {_reason(error, url)}; expected {FORMS}"
            ) from None
        except SQLAlchemyError as error:
            if attempt + 1 == _RACES or not re.search("already exists|duplicate", str(error)):
                raise
            time.sleep(0.2 * (attempt + 1))
    raise AssertionError("unreachable")


def _fail(study: Any, trial: Any, reason: str) -> bool:
    """Mark a trial as failed; ``False`` if another process was faster."""
    optuna = import_optuna()
    try:
        study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
        return bool(
            study._storage.set_trial_state_values(
                trial._trial_id, state=optuna.trial.TrialState.FAIL
            )
        )
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
