"""References between values: ``${model.d_model}``, and ``${.lr}`` for a neighbour.

The syntax is OmegaConf's, without its resolvers: a configuration means the same on every machine,
and one that came from somewhere else reads no environment variable and no file. A reference names
one value, not a section; what comes out is bounded.
"""

import re
from collections.abc import Iterator
from typing import Any

from common.config.validate import InvalidValue, show

_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_]\w*(?:\.\w+)*)\}")
_MAX_LENGTH = 100_000  # characters that references may add to a whole configuration
_MAX_CHAIN = 50


def check_references(tree: Any, key: str = "") -> None:
    """Check that every ``${`` is a plain reference.

    Raises:
        InvalidValue: for a resolver such as ``${oc.env:HOME}``, or an unclosed brace.
    """
    for where, text in _texts(tree, key):
        if "${" in _REFERENCE.sub("", text):
            raise InvalidValue(
                where,
                f"is {show(text)}; only references to keys, such as ${{seed}}, are understood",
            )


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` with every reference replaced by the value it names.

    A value that is one reference keeps the type of what it names; inside text it becomes text.

    Raises:
        InvalidValue: if a reference names nothing, a section or a list, or itself.
    """
    resolver = _Resolver(tree)
    return {name: resolver.node(value, (name,)) for name, value in tree.items()}


class _Resolver:
    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree
        self._known: dict[tuple[str, ...], Any] = {}
        self._chain: list[tuple[str, ...]] = []
        self._length = 0

    def node(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {name: self.node(item, (*path, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self.node(item, (*path, str(i))) for i, item in enumerate(value)]
        return self._text(value, path) if isinstance(value, str) and "${" in value else value

    def _text(self, text: str, path: tuple[str, ...]) -> Any:
        if path in self._known:
            return self._known[path]
        key = ".".join(path)
        if path in self._chain or len(self._chain) >= _MAX_CHAIN:
            chain = " -> ".join(".".join(p) for p in [*self._chain[:5], path])
            raise InvalidValue(key, f"refers to itself, or too far: {chain}")
        self._chain.append(path)
        if whole := _REFERENCE.fullmatch(text):
            result = self._look_up(whole, path)
        else:
            pieces, end = [], 0
            for match in _REFERENCE.finditer(text):
                pieces += [text[end : match.start()], _as_text(self._look_up(match, path))]
                end = match.end()
                self._length += len(pieces[-1])
                if self._length > _MAX_LENGTH:
                    raise InvalidValue(key, f"makes text of over {_MAX_LENGTH:,} characters")
            result = "".join([*pieces, text[end:]])
        self._chain.pop()
        self._known[path] = result
        return result

    def _look_up(self, reference: re.Match[str], path: tuple[str, ...]) -> Any:
        dots, names = reference.group(1), tuple(reference.group(2).split("."))
        target = path[: max(len(path) - len(dots), 0)] + names if dots else names
        value: Any = self._tree
        for name in target:
            if not isinstance(value, dict) or name not in value:
                raise InvalidValue(
                    ".".join(path), f"refers to {reference.group()}, which does not exist"
                )
            value = value[name]
        if isinstance(value, dict | list):
            kind = "section" if isinstance(value, dict) else "list"
            raise InvalidValue(
                ".".join(path), f"refers to {reference.group()}, a {kind}; expected one value"
            )
        return self.node(value, target)


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
