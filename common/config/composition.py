"""One file with its groups and overrides, on the way to an instance of a schema.

Hydra's grammar reads the overrides, and Hydra composes the file with the groups of its defaults
list. What Hydra gets was read by our strict reader and accepted by the schema, so that a mistake is
reported with its file, line and key, and nothing a file says is ignored.
"""

import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config.environment import Environment
from common.config.files import ConfigFile
from common.config.interpolation import check_references, resolve
from common.config.locate import group_folder, read_group
from common.config.origins import Origin, Source, is_secret
from common.config.overrides import COMMAND_LINE, Override, parse_overrides
from common.config.schema import (
    defaults_of,
    fields_of,
    lookup,
    members,
    section_of,
    suggest,
    walk,
)
from common.config.targets import check_targets
from common.config.tree import ABSENT, leaves, merge, nest, read
from common.config.validate import (
    InvalidValue,
    build,
    check_finite,
    check_partial,
    check_value,
    show,
    wants_text,
)
from common.utils.errors import ConfigError

_SELF = "_self_"
_ADDED = "+ "  # before the origin of a value the schema does not know


class Composition:
    """Composes and checks; afterwards ``origins`` says where each value comes from.

    ``changed`` names the values of an earlier run that overrides replaced by others.

    Args:
        schema: The experiment's dataclass.
        file: The file that was read.
        folder: The experiment's folder, or a run.
    """

    def __init__(self, schema: type, file: ConfigFile, folder: Path) -> None:
        self.schema = schema
        self.file = replace(file, content=_said(schema, file, file.content))
        self.folder = folder
        self.origins: dict[str, Origin] = {}
        self.changed: list[str] = []
        self._typed: set[str] = set()
        self._restored = False

    def restore(self) -> dict[str, tuple[Any, Origin]]:
        """Take the file as a run's: its comments say where each value came from.

        Returns:
            Values of the run that are no keys of the schema (``trainer.total_steps``).
        """
        self._restored = True
        content, unknown = _split(self.schema, self.file.content)
        for key, _ in leaves(self.file.content):
            place = self.file.place(key)
            self.origins[key] = Origin.parse(self.file.comments.get(key, ""), place)
        facts: dict[str, tuple[Any, Origin]] = {}
        for key, value in leaves(unknown):
            origin = self.origins[key]
            if origin.source in (Source.DATA, Source.DERIVED, Source.ENV):
                facts[key] = (value, origin)
                del self.origins[key]
            elif origin.text.startswith(_ADDED):
                merge(content, nest(key, value))
            else:
                problem = f"{key} is not a key; {suggest(self.schema, key)}"
                raise ConfigError(f"{self.file.place(key)}: {problem}")
        for key in [key for key, origin in self.origins.items() if origin.stale]:
            if read(content, key) is not ABSENT:  # the default, until it is derived again
                outer, _, name = key.rpartition(".")
                del (read(content, outer) if outer else content)[name]
        self.file = replace(self.file, content=content)
        return facts

    def run(self, words: Sequence[str], folders: Sequence[Path]) -> tuple[Any, dict[str, Any]]:
        """Returns the schema's instance and the values the schema does not know."""
        overrides = parse_overrides(words)
        chosen = [o for o in overrides if isinstance(o.value, str) and group_folder(o.key, folders)]
        choices = {o.key: o.value for o in chosen}
        order = [] if self._restored else self._defaults()
        order = [(group, choices.pop(group, choice)) for group, choice in order] or [(_SELF, "")]
        order += choices.items()  # groups the file does not name come last, and win
        layers = [
            self.file if group == _SELF else read_group(self.file, group, choice, folders)
            for group, choice in order
        ]
        for layer in layers:
            self._check_layer(layer)
        values = [self._check_override(o) for o in overrides if o not in chosen]
        _check_overlap([o.key for o in overrides if o not in chosen])
        tree = _compose_with_hydra(order, layers, self.file.shown)
        for value in values:
            merge(tree, value)
        return self._finish(tree)

    def _defaults(self) -> list[tuple[str, str]]:
        """The defaults list, in order, as pairs of group and choice; it leaves the content."""
        content = dict(self.file.content)
        entries = content.pop("defaults", [])
        place = self.file.place("defaults")
        self.file = replace(self.file, content=content)
        order: list[tuple[str, str]] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            pair = list(entry.items()) if isinstance(entry, dict) else [(entry, "")]
            group, choice = pair[0] if len(pair) == 1 else (None, None)
            wrong = isinstance(entry, dict) == (group == _SELF)  # one or the other
            if wrong or not isinstance(choice, str):
                raise ConfigError(
                    f"{place}: defaults has the entry {show(entry)}; "
                    "expected '_self_' or 'group: choice'"
                )
            if group in dict(order):
                raise ConfigError(f"{place}: defaults names {group} twice")
            order.append((str(group), choice))
        if order and _SELF not in dict(order):
            order.append((_SELF, ""))  # as Hydra: the file wins over its groups
        return order

    def _check_layer(self, layer: ConfigFile) -> None:
        known = _split(self.schema, layer.content)[0] if self._restored else layer.content
        try:
            check_partial(self.schema, known)
            check_references(layer.content)
            for name, value in layer.content.items():
                check_finite(name, value)
        except InvalidValue as error:
            raise ConfigError(f"{layer.place(error.key)}: {error}") from None
        if not self._restored:
            name = self._origin_of(layer)
            for key, _ in leaves(layer.content):
                self.origins[key] = Origin(Source.USER, name, layer.place(key))

    def _origin_of(self, layer: ConfigFile) -> str:
        """The file's name in comments: from the experiment's folder when it lies there."""
        path = Path(layer.shown).absolute()
        inside = path.is_relative_to(self.folder)
        return path.relative_to(self.folder).as_posix() if inside else layer.shown

    def _check_override(self, override: Override) -> dict[str, Any]:
        """Check an override, note its origin, and give its value as a tree."""
        key, value = override.key, override.value
        field = lookup(self.schema, key)
        known = {f.key for f in walk(self.schema)}
        try:
            if field is None:
                self._check_added(override, known)
            else:
                if override.adds == "+" and key in known:
                    raise InvalidValue(key, f"is a key already; write {key}={override.text}")
                if section_of(field.kind) is not None and isinstance(value, str):
                    raise InvalidValue(
                        key, f"is a section, and no folder configs/{key}/ offers '{value}'"
                    )
                if wants_text(field.kind) and isinstance(value, bool | int | float):
                    value = override.text
                check_value(self.schema, field, value)
            check_references(value, key)
        except InvalidValue as error:
            raise ConfigError(f"{COMMAND_LINE}: {error}") from None
        name = COMMAND_LINE if field is not None else _ADDED + COMMAND_LINE
        tree = nest(key, value)
        for leaf, _ in leaves(tree):
            self.origins[leaf] = Origin(Source.USER, name, COMMAND_LINE)
            self._typed.add(leaf)
        return tree

    def _check_added(self, override: Override, known: set[str]) -> None:
        key = override.key
        if not override.adds:
            raise InvalidValue(
                key, f"is not a key; {suggest(self.schema, key)} (+{key}=... adds a new key)"
            )
        outer = key.rpartition(".")[0]
        while outer:
            field = lookup(self.schema, outer)
            if field is not None and section_of(field.kind) is None:
                raise InvalidValue(key, f"cannot be added: {outer} is a value, not a section")
            outer = outer.rpartition(".")[0]
        check_finite(key, override.value)

    def _finish(self, tree: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        known, extra = _split(self.schema, tree)
        whole = _fill(self.schema, known, defaults_of(self.schema))
        merge(whole, extra)
        environment = Environment(self._wants_text, self._environment_problem)
        try:
            resolved = resolve(whole, environment)
            check_targets(resolved)
            known, extra = _split(self.schema, resolved)
            built = build(self.schema, known)
        except InvalidValue as error:
            message = environment.hide(str(error))
            raise ConfigError(f"{self._place(error.key)}: {message}") from None
        for key, names in environment.variables.items():
            place, reference = f"{self._place(key)}, ENV: {', '.join(names)}", read(whole, key)
            origin = Origin(Source.ENV, place=place, names=names)
            self.origins[key] = replace(origin, reference=reference) if origin.secret else origin
        if self._restored:
            before = self.file.content
            self.changed = [k for k in self._typed if read(before, k) != read(resolved, k)]
        return built, extra

    def _wants_text(self, key: str) -> bool:
        field = lookup(self.schema, key)
        return field is not None and wants_text(field.kind)

    def _environment_problem(self, key: str, variable: str) -> str:
        """Why a key of an earlier run may not read a variable; empty where it may."""
        if not self._restored or key in self._typed:
            return ""
        if not is_secret(variable):
            return f"refers to {variable}, but a run reads only secrets again; give {key}=..."
        if not self.folder.is_dir():
            return f"refers to {variable}, which a checkpoint does not read; give {key}=..."
        return ""

    def _place(self, key: str) -> str:
        """Where the value of a key, or the last value below a section, was set."""
        key = key.partition("[")[0]
        if key in self.origins:
            return self.origins[key].place
        below = [o.place for k, o in self.origins.items() if k.startswith(f"{key}.")]
        return below[-1] if below else self.file.place(key)


def _check_overlap(keys: Sequence[str]) -> None:
    for outer in keys:
        for inner in keys:
            if inner.startswith(f"{outer}."):
                raise ConfigError(f"{COMMAND_LINE}: {outer} and {inner} overlap; give one of them")


def _said(schema: type, file: ConfigFile, tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A file's values without the sections of which every line is a comment."""
    fields = fields_of(schema, prefix)
    said: dict[str, Any] = {}
    for name, value in tree.items():
        section = section_of(fields[name].kind) if name in fields else None
        if section is not None and isinstance(value, dict):
            said[name] = _said(section, file, value, f"{prefix}{name}.")
        elif section is None or f"{prefix}{name}" not in file.unsaid:
            said[name] = value
        elif types.NoneType in members(fields[name].kind):
            said[name] = value  # null is one of its values
    return said


def _split(schema: type, tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tree as what the schema knows and what it does not."""
    known: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    fields = fields_of(schema)
    for name, value in tree.items():
        section = section_of(fields[name].kind) if name in fields else None
        if section is not None and isinstance(value, dict):
            known[name], rest = _split(section, value)
            if rest:
                unknown[name] = rest
        elif name in fields:
            known[name] = value
        else:
            unknown[name] = value
    return known, unknown


def _fill(schema: type, tree: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The tree with the defaults of all that it does not say."""
    filled = dict(defaults)
    for name, field in fields_of(schema).items():
        if name not in tree:
            continue
        section = section_of(field.kind)
        if section is not None and isinstance(tree[name], dict):
            inner = defaults[name] if isinstance(defaults[name], dict) else defaults_of(section)
            filled[name] = _fill(section, tree[name], inner)
        else:
            filled[name] = tree[name]
    return filled


def _compose_with_hydra(
    order: Sequence[tuple[str, str]], layers: Sequence[ConfigFile], shown: str
) -> dict[str, Any]:
    """Let Hydra compose a file with its groups; what it gets is already checked."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    defaults = [group if group == _SELF else {group: choice} for group, choice in order]
    try:
        with _private_hydra() as store:
            for (group, choice), layer in zip(order, layers, strict=True):
                if group == _SELF:
                    store.store(name="config", node={"defaults": defaults, **layer.content})
                else:
                    store.store(group=group, name=choice, node=layer.content[group])
            composed = hydra_compose("config")
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"{shown}: {reason}") from None
    tree = OmegaConf.to_container(composed, resolve=False)
    return {str(name): value for name, value in tree.items()} if isinstance(tree, dict) else {}


@contextmanager
def _private_hydra() -> Iterator[Any]:
    """Hydra with an empty store of its own; whoever else uses Hydra here finds it untouched."""
    from hydra import initialize
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins

    Plugins.instance()  # plugins store their own configurations once, when they are first seen
    store, running = ConfigStore.instance(), GlobalHydra.instance().hydra
    stored = store.repo
    store.repo = {name: node for name, node in stored.items() if name.startswith(("hydra", "_"))}
    GlobalHydra.instance().clear()
    try:
        with initialize(version_base=None, config_path=None, job_name="reprise"):
            yield store
    finally:
        store.repo = stored
        GlobalHydra.instance().hydra = running
