"""Where every value of a run comes from, how long it lives, and who wants to hear of it.

A value comes from the USER (command line or file), from the ENVironment, from the DATA
(``vocab_size``), is DERIVED (``total_steps``) or is the schema's DEFAULT; it lives for a STEP, an
EPOCH or the RUN. The resolved configuration that is saved with a run says so on every line, and can
be read back. ``docs/context.md`` shows all of it in one example.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from common.config.namespace import Namespace
from common.config.origins import ConfigConflictError, Lifetime, Origin, Source, StaleValueError
from common.config.rendering import render
from common.config.tree import ABSENT, leaves, plain
from common.config.validate import show
from common.config.values import Values, described, unpacked
from common.utils.errors import ConfigError

Listener = Callable[[str, Any, Source], None]


class RunContext:
    """The values of a run beside its configuration, and the source of each.

    Args:
        config: The schema's instance; values that data decides are written into it.
        origins: Where its values come from; what is not named is a DEFAULT.
        experiment: The name of the paper's or project's folder.
        overrides: The overrides of this run, as typed.
        config_file: The file the configuration was read from.
        extra: Values added with ``+new.key=1`` that the schema does not know.
        facts: Values of an earlier run that are no configuration (``trainer.total_steps``).
        resume: The run directory to continue in.
        run_dir: The run directory an evaluation reads.
        checkpoint: What an evaluation loads: ``final``, ``best``, ``last`` or a path.
        dry_run: Whether to do one step only.

    Attributes:
        step_values: The values of the current step; empty in most runs, so that a loop need not
            call ``end`` after every step.
    """

    def __init__(
        self,
        config: Any = None,
        origins: Mapping[str, Origin] | None = None,
        *,
        experiment: str = "",
        overrides: Sequence[str] = (),
        config_file: Path | None = None,
        extra: dict[str, Any] | None = None,
        facts: Mapping[str, tuple[Any, Origin]] | None = None,
        resume: Path | None = None,
        run_dir: Path | None = None,
        checkpoint: str = "best",
        dry_run: bool = False,
    ) -> None:
        self.experiment = experiment
        self.overrides = list(overrides)
        self.config_file = config_file
        self.extra = extra or {}
        self.resume = resume
        self.run_dir = run_dir
        self.checkpoint = checkpoint
        self.dry_run = dry_run
        self._values = Values(config, self.extra, origins or {}, facts or {})
        self.step_values = self._values.lifetimes[Lifetime.STEP]
        self._functions: dict[str, Callable[..., Any]] = {}
        self._listeners: list[tuple[str, Listener]] = []
        self._told: set[str] = set()

    @property
    def checkpoint_path(self) -> Path | None:
        """The file an evaluation loads; ``None`` without a run."""
        if self.run_dir is not None and self.checkpoint == "final":
            return self.run_dir / "model.safetensors"
        if self.run_dir is not None and self.checkpoint in ("best", "last"):
            return self.run_dir / "checkpoints" / f"{self.checkpoint}.pt"
        return None if self.run_dir is None else Path(self.checkpoint).expanduser()

    # ---- reading --------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key: the shortest-lived one there is, else the configuration's.

        Raises:
            StaleValueError: if it was derived from a value that has changed since.
        """
        value, origin = self._values.find(key)
        if origin.stale:
            raise StaleValueError(
                f"{key} was derived from {', '.join(origin.names)}, which changed since; "
                "set it again, or derive it with a function"
            )
        return default if value is ABSENT else value

    def source(self, key: str) -> Source:
        """Who decided the value that ``get`` returns.

        Raises:
            KeyError: if there is no such key.
        """
        value, origin = self._values.find(key)
        if value is ABSENT:
            raise KeyError(key)
        return origin.source

    def values(self, source: Source) -> dict[str, Any]:
        """All values of the run that one source decided, by key."""
        found = leaves(self._values.tree())
        return {k: value for k, value in found if self._values.find_run(k)[1].source is source}

    def namespace(self, prefix: str) -> Namespace:
        """This context as the owner of a section sees it: every key is below ``prefix``."""
        return Namespace(self, prefix)

    # ---- writing --------------------------------------------------------------------------

    def set(
        self,
        key: str,
        value: Any,
        source: Source,
        lifetime: Lifetime = Lifetime.RUN,
        *,
        depends_on: Sequence[str] = (),
        by: str = "",
    ) -> None:
        """Record a value; a RUN's value of a key of the configuration is written into it.

        Args:
            key: The dotted key.
            value: A STEP's may be anything; others go into checkpoints, and are plain.
            source: Who decided it.
            lifetime: How long it stays.
            depends_on: The whole keys that a DERIVED value of the run was made from. When one of
                them is set to another value, this one is stale until it is set again.
            by: What of the data says so, or which variable of the environment.

        Raises:
            TypeError: if a value that does not end with the step is not plain.
            ConfigError: if it depends on itself, on a section, or on a key that is not there.
        """
        if lifetime is not Lifetime.STEP:
            value = plain(value)
        names = tuple(depends_on)
        if names:
            self._check_dependencies(key, names, source, lifetime)
        if source is Source.ENV:
            origin = Origin(source, names=(by,) if by else ())
        else:
            origin = Origin(source, by, names=names)
        if lifetime is not Lifetime.RUN:
            self._values.lifetimes[lifetime][key] = (value, origin)
        else:
            before = self._values.find_run(key)[0]
            self._functions.pop(key, None)
            self._values.store(key, value, origin)
            if self._values.edges and (before is ABSENT or plain(before) != value):
                self.invalidate(key)
        if self._listeners:
            self._publish(key, value, source)

    def resolve(
        self,
        key: str,
        value: Any,
        source: Source = Source.DATA,
        *,
        depends_on: Sequence[str] = (),
        by: str = "",
    ) -> Any:
        """The data, or a derivation from it, says what ``key`` is.

        It fills what nobody set. What the user set stays: a derivation gives way to it, and data
        that says otherwise stops the run. So do two parts of the data that differ.

        Args:
            key: The dotted key.
            value: A plain value.
            source: DATA or DERIVED.
            depends_on: As for ``set``.
            by: As for ``set``.

        Returns:
            The value that holds from now on.

        Raises:
            ConfigConflictError: naming both values and where each comes from.
        """
        current, origin = self._values.find_run(key)
        if current is not ABSENT and current is not None and not origin.stale:
            differs = plain(current) != plain(value)
            if differs:
                shown = "***" if any(map(self._values.hidden, depends_on)) else show(plain(value))
                self._compare(key, described(current, origin), origin, shown, Origin(source, by))
            if origin.is_users or (origin.is_data and source is Source.DERIVED):
                self._publish(key, current, origin.source)
                return current
        self.set(key, value, source, depends_on=depends_on, by=by)
        return value

    def derive(self, key: str, function: Callable[..., Any], depends_on: Sequence[str]) -> Any:
        """``resolve`` a value from others, now and whenever one of them is set to another value.

        Args:
            key: The dotted key.
            function: From the values of ``depends_on``, in their order, to this one.
            depends_on: Whole keys.

        Returns:
            The value that holds; the user's, if there is one.

        Raises:
            ConfigError: as ``set``.
        """
        names = tuple(depends_on)
        self._check_dependencies(key, names, Source.DERIVED, Lifetime.RUN)
        value = self.resolve(key, function(*map(self.get, names)), Source.DERIVED, depends_on=names)
        if self._values.find_run(key)[1].source is Source.DERIVED:
            self._functions[key] = function
        return value

    def invalidate(self, key: str) -> None:
        """Say that a value has changed: what was derived from it is computed anew, or stale."""
        affected = self._values.affected(key)
        for name in affected:
            self._values.mark_stale(name)
        for name in affected:
            names, function = self._values.edges[name], self._functions.get(name)
            sources = [self._values.find_run(each) for each in names]
            if function is not None and not any(origin.stale for _, origin in sources):
                value = plain(function(*(value for value, _ in sources)))
                self._values.store(name, value, Origin(Source.DERIVED, names=names))
                self._publish(name, value, Source.DERIVED)

    def end(self, lifetime: Lifetime) -> None:
        """Forget the values of a step, an epoch or the run that is over."""
        for shorter in Lifetime:
            if shorter <= lifetime:
                self._values.clear(shorter)

    def subscribe(self, key: str, function: Listener) -> Callable[[], None]:
        """Hear of every value that is set or resolved from now on.

        Args:
            key: One key, or a section with all that is below it.
            function: Called with key, value and source, once the value was checked and holds. What
                it raises reaches whoever set the value.

        Returns:
            What to call to hear no more.
        """
        entry = (key, function)
        self._listeners.append(entry)
        return lambda: self._listeners.remove(entry) if entry in self._listeners else None

    # ---- saving ---------------------------------------------------------------------------

    def to_yaml(self) -> str:
        """The resolved configuration; every line ends in a comment that names its source.

        A secret of the environment is not in it, but the reference it came from.
        """
        tree, origins = self._values.saved()
        return render(tree, origins.__getitem__)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint holds beside the configuration: facts of the run and of the epoch."""
        return self._values.state_dict()

    def contradictions(self, state: Mapping[str, Any]) -> list[str]:
        """How what the data says differs from a ``state_dict``, one sentence each."""
        return self._values.contradictions(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; what this process has decided already stays."""
        from loguru import logger

        for key, (value, origin) in unpacked(state.get("run", {})).items():
            current, now = self._values.find_run(key)
            if current is ABSENT:
                self._values.store(key, value, origin)
                self._publish(key, value, origin.source)
            elif plain(current) != value:
                was, holds = described(value, origin), described(current, now)
                logger.warning(f"{key} was {was}, is {holds}")
        self._values.lifetimes[Lifetime.EPOCH].update(unpacked(state.get("epoch", {})))

    # ---- rules ----------------------------------------------------------------------------

    def _check_dependencies(
        self, key: str, names: tuple[str, ...], source: Source, lifetime: Lifetime
    ) -> None:
        if source is not Source.DERIVED or lifetime is not Lifetime.RUN:
            raise ConfigError(f"{key}: only a DERIVED value of the RUN depends on others")
        for name in names:
            value = self._values.find_run(name)[0]
            if value is ABSENT and name != key:
                raise ConfigError(f"{key} depends on {name}, which is no value of the run")
            if is_dataclass(value) or isinstance(value, dict):
                raise ConfigError(f"{key} depends on {name}, a section; name its values")
        self._values.check_edge(key, names)

    def _compare(self, key: str, now: str, held: Origin, said: str, sayer: Origin) -> None:
        """Two values of one key differ: refuse it, or say so where one of them gives way."""
        from loguru import logger

        if held.is_users and sayer.is_data:
            raise ConfigConflictError(
                f"{key} is {now}, but {sayer.text or 'the data'} says {said}; remove the setting, "
                "or use the data it belongs to"
            )
        if held.is_users and key not in self._told:
            self._told.add(key)
            logger.info(f"{key} stays {now}; derived, it would be {said}")
        if held.is_data and sayer.is_data:
            if not held.place:  # both were said in this process
                raise ConfigConflictError(
                    f"{key} is {now}, but {sayer.text or 'other data'} says {said}; one run has "
                    "one value"
                )
            logger.warning(f"{key} was {now}, is {said} ({sayer})")

    def _publish(self, key: str, value: Any, source: Source) -> None:
        for heard, function in list(self._listeners):
            if key == heard or key.startswith(f"{heard}."):
                function(key, value, source)
