"""References: ``${model.d_model}``, ``${.lr}`` for a neighbour, ``${oc.env:NAME}`` for a variable.

The syntax is OmegaConf's, without its other resolvers. A reference names one value, not a section;
what comes out is bounded. ``environment`` says who may read which variable.
"""

import re
from collections.abc import Iterator
from typing import Any

from common.config.environment import Environment
from common.config.tree import ABSENT
from common.config.validate import InvalidValue, show

_REFERENCE = re.compile(
    r"\$\{(?:(?P<dots>\.*)(?P<names>[A-Za-z_]\w*(?:\.\w+)*)"
    r"|oc\.env:(?P<variable>[A-Za-z_]\w*)(?:,(?P<default>[^{}$]*))?)\}"
)
_MAX_LENGTH = 100_000  # characters that references may add to a whole configuration
_MAX_CHAIN = 50


def check_references(tree: Any, key: str = "") -> None:
    """Check that every ``${`` is a plain reference.

    Raises:
        InvalidValue: for a resolver other than ``${oc.env:NAME}``, or an unclosed brace.
    """
    for where, text in _texts(tree, key):
        if "${" in _REFERENCE.sub("", text):
            raise InvalidValue(
                where,
                f"is {show(text)}; only references to keys, such as ${{seed}}, "
                "and to the environment, ${oc.env:NAME}, are understood",
            )


def resolve(tree: dict[str, Any], environment: Environment | None = None) -> dict[str, Any]:
    """A copy of ``tree`` with every reference replaced by the value it names.

    A value that is one reference keeps the type of what it names; inside text it becomes text.

    Args:
        tree: Nested dicts with references.
        environment: What variables mean; afterwards it knows which keys read which.

    Raises:
        InvalidValue: if a reference names nothing, a section or a list, or itself.
    """
    resolver = _Resolver(tree, environment or Environment())
    return {name: resolver.node(value, (name,), name) for name, value in tree.items()}


class _Resolver:
    def __init__(self, tree: dict[str, Any], environment: Environment) -> None:
        self._tree = tree
        self._environment = environment
        self._known: dict[tuple[str, ...], Any] = {}
        self._chain: list[tuple[str, ...]] = []
        self._length = 0

    def node(self, value: Any, path: tuple[str, ...], key: str, in_list: bool = False) -> Any:
        """Resolve what stands at ``path``; ``key`` names it, or the list it is in."""
        if isinstance(value, dict):
            return {
                name: self.node(item, (*path, name), key if in_list else f"{key}.{name}", in_list)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.node(item, (*path, str(i)), key, True) for i, item in enumerate(value)]
        return self._text(value, path, key) if isinstance(value, str) and "${" in value else value

    def _text(self, text: str, path: tuple[str, ...], key: str) -> Any:
        if path in self._known:
            return self._known[path]
        if path in self._chain or len(self._chain) >= _MAX_CHAIN:
            chain = " -> ".join(".".join(p) for p in [*self._chain[:5], path])
            raise InvalidValue(key, f"refers to itself, or too far: {chain}")
        self._chain.append(path)
        if whole := _REFERENCE.fullmatch(text):
            result = self._look_up(whole, path, key, whole=True)
        else:
            pieces, end = [], 0
            for match in _REFERENCE.finditer(text):
                found = self._look_up(match, path, key, whole=False)
                pieces += [text[end : match.start()], _as_text(found)]
                end = match.end()
                self._length += len(pieces[-1])
                if self._length > _MAX_LENGTH:
                    raise InvalidValue(key, f"makes text of over {_MAX_LENGTH:,} characters")
            result = "".join([*pieces, text[end:]])
        self._chain.pop()
        self._known[path] = result
        return result

    def _look_up(
        self, reference: re.Match[str], path: tuple[str, ...], key: str, whole: bool
    ) -> Any:
        if reference["variable"] is not None:
            return self._read(reference, key, whole)
        dots, names = reference["dots"], tuple(reference["names"].split("."))
        target = path[: max(len(path) - len(dots), 0)] + names if dots else names
        value: Any = self._tree
        for name in target:
            if not isinstance(value, dict) or name not in value:
                raise InvalidValue(key, f"refers to {reference.group()}, which does not exist")
            value = value[name]
        if isinstance(value, dict | list):
            kind = "section" if isinstance(value, dict) else "list"
            raise InvalidValue(key, f"refers to {reference.group()}, a {kind}; expected one value")
        found = self.node(value, target, ".".join(target))
        self._note(key, self._environment.variables.get(".".join(target), ()))
        return found

    def _read(self, reference: re.Match[str], key: str, whole: bool) -> Any:
        name, default = reference["variable"], reference["default"]
        value = self._environment.read(key, name, whole)
        if value is not ABSENT:
            self._note(key, (name,))
            return value
        if default is None:
            raise InvalidValue(
                key,
                f"refers to {reference.group()}, but the environment has no {name}; "
                f"set it, or write ${{oc.env:{name},a default}}",
            )
        default = default.strip()
        if not whole:
            return default
        return None if default == "null" else self._environment.typed(key, default)

    def _note(self, key: str, names: tuple[str, ...]) -> None:
        known = self._environment.variables.get(key, ())
        if names:
            self._environment.variables[key] = tuple(dict.fromkeys([*known, *names]))


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _texts(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for name, item in tree.items():
            yield from _texts(item, f"{key}.{name}" if key else name)
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from _texts(item, f"{key}[{index}]")
    elif isinstance(tree, str):
        yield key, tree
