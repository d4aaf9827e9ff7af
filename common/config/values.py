"""The values behind a ``RunContext``: the configuration's and the facts beside it, with origins.

``RunContext`` holds the rules of who may set what; here is where each value lies, what was derived
from what, and what of it may be saved.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from common.config.origins import Lifetime, Origin, Source
from common.config.tree import ABSENT, leaves, merge, nest, plain, read, write
from common.config.validate import show
from common.utils.errors import ConfigError

Entry = tuple[Any, Origin]


class Values:
    """Values and origins by key.

    Args:
        config: The schema's instance; its values are written into it.
        extra: Values the schema does not know.
        origins: Of both.
        facts: Values of the run that are neither.

    Attributes:
        lifetimes: The values beside the configuration.
        edges: What each derived value of the run was made from.
    """

    def __init__(
        self,
        config: Any,
        extra: dict[str, Any],
        origins: Mapping[str, Origin],
        facts: Mapping[str, Entry],
    ) -> None:
        self._config = config
        self._extra = extra
        self._origins = dict(origins)
        self.lifetimes: dict[Lifetime, dict[str, Entry]] = {t: {} for t in Lifetime}
        self.lifetimes[Lifetime.RUN].update(facts)
        known = [*self._origins.items(), *((key, origin) for key, (_, origin) in facts.items())]
        self.edges = {k: o.names for k, o in known if o.source is Source.DERIVED and o.names}

    def find(self, key: str) -> Entry:
        """The shortest-lived value of a key, or ``ABSENT``."""
        for values in self.lifetimes.values():
            if key in values:
                return values[key]
        return self.find_run(key)

    def find_run(self, key: str) -> Entry:
        """The run's value of a key, or ``ABSENT``."""
        if key in self.lifetimes[Lifetime.RUN]:
            return self.lifetimes[Lifetime.RUN][key]
        value = read(self._config, key)
        if value is ABSENT:
            value = read(self._extra, key)
        return value, self._origins.get(key, Origin(Source.DEFAULT))

    def store(self, key: str, value: Any, origin: Origin) -> None:
        """Put a plain value of the run where it belongs: into the configuration, or beside it.

        Raises:
            TypeError: for a section beside the configuration.
        """
        if read(self._config, key) is not ABSENT:
            write(self._config, key, value)
            self._origins[key] = origin
        elif isinstance(value, dict) and value:
            raise TypeError(f"{key} is a section, {show(value)}; set each of its values")
        else:
            self.lifetimes[Lifetime.RUN][key] = (value, origin)
        if origin.source is Source.DERIVED and origin.names:
            self.edges[key] = origin.names
        else:
            self.edges.pop(key, None)

    def mark_stale(self, key: str) -> None:
        """Say of a derived value of the run that it no longer holds."""
        value, origin = self.find_run(key)
        origin = replace(origin, stale=True)
        if key in self.lifetimes[Lifetime.RUN]:
            self.lifetimes[Lifetime.RUN][key] = (value, origin)
        else:
            self._origins[key] = origin

    def clear(self, lifetime: Lifetime) -> None:
        """Forget the values beside the configuration that live so long."""
        if lifetime is Lifetime.RUN:
            for key in self.lifetimes[lifetime]:
                self.edges.pop(key, None)
        self.lifetimes[lifetime].clear()

    def check_edge(self, key: str, names: tuple[str, ...]) -> None:
        """Stop before ``key`` is derived from ``names``, if that goes round in a circle.

        Raises:
            ConfigError: naming the circle.
        """
        _sorted({**self.edges, key: names})

    def affected(self, key: str) -> list[str]:
        """All that was derived from a key, directly or not, in an order to compute it in.

        Raises:
            ConfigError: if it goes round in a circle.
        """
        reached, affected = {key}, []
        for name in _sorted(self.edges):
            if not reached.isdisjoint(self.edges.get(name, ())):
                reached.add(name)
                affected.append(name)
        return affected

    def hidden(self, key: str) -> bool:
        """Whether a value is a secret, or was made from one."""
        seen: set[str] = set()
        waiting = [key]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if self.find_run(name)[1].secret:
                return True
            waiting += self.edges.get(name, ())
        return False

    def facts(self) -> dict[str, Entry]:
        """The run's values that are no configuration, without the secret ones."""
        values = self.lifetimes[Lifetime.RUN]
        return {key: entry for key, entry in values.items() if not self.hidden(key)}

    def tree(self) -> dict[str, Any]:
        """All values of the run, as plain values; secrets of the configuration included."""
        tree = plain(self._config) if self._config is not None else {}
        merge(tree, plain(self._extra))
        for key, (value, _) in self.facts().items():
            merge(tree, nest(key, value))
        return tree

    def saved(self) -> tuple[dict[str, Any], dict[str, Origin]]:
        """The tree as it may be saved, and the origins to write behind its values."""
        tree = self.tree()
        origins = {key: self.find_run(key)[1] for key, _ in leaves(tree)}
        for key, origin in origins.items():
            if self.hidden(key):
                write(tree, key, origin.reference)
                if origin.source is Source.DERIVED:
                    origins[key] = replace(origin, stale=True)  # nothing is there to be read
        return tree, origins

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint holds: all that data says, further facts, values of the epoch."""
        leaf = leaves(self.tree())
        said = {key: entry for key, _ in leaf if (entry := self.find_run(key))[1].is_data}
        epoch = self.lifetimes[Lifetime.EPOCH].items()
        return {
            "run": {key: _packed(*entry) for key, entry in {**said, **self.facts()}.items()},
            "epoch": {key: _packed(*entry) for key, entry in epoch if not entry[1].secret},
        }

    def contradictions(self, state: Mapping[str, Any]) -> list[str]:
        """How ``state`` differs in what the data says, one sentence each."""
        if "run" not in state:
            return []
        theirs = {key: e for key, e in unpacked(state["run"]).items() if e[1].is_data}
        ours = {key: e for key, e in unpacked(self.state_dict()["run"]).items() if e[1].is_data}
        found = []
        for key, entry in theirs.items():
            now = self.find_run(key)
            if now[0] is not ABSENT and plain(now[0]) != entry[0]:
                found.append(f"{key} was {described(*entry)}, is {described(*now)}")
        new = [key for key in ours if key not in theirs]
        return found + [f"{key} was not known, is {described(*ours[key])}" for key in new]


def described(value: Any, origin: Origin) -> str:
    """A value and where it comes from, for messages: ``100 (DATA)``."""
    shown = "***" if origin.secret else show(plain(value))
    return f"{shown} ({origin.place or origin})" if origin.is_users else f"{shown} ({origin})"


def unpacked(entries: Mapping[str, Any]) -> dict[str, Entry]:
    """Values of a checkpoint with their origins."""
    return {
        key: (entry["value"], Origin.parse(entry["origin"], "")) for key, entry in entries.items()
    }


def _packed(value: Any, origin: Origin) -> dict[str, Any]:
    return {"value": plain(value), "origin": str(origin)}


def _sorted(edges: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    try:
        return iter(list(TopologicalSorter(edges).static_order()))
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise ConfigError(f"values are derived from each other in a circle: {circle}") from None
