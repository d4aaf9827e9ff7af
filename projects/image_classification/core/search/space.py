"""What a search varies: ``search.search_space``, checked against the schema before a study exists.

Each entry names a key of the configuration and the values it may take:

    optimizer.lr: {type: loguniform, low: 1e-4, high: 1e-1}
    optimizer.momentum: {type: uniform, low: 0.8, high: 0.99, step: 0.01}
    training.batch_size: {type: int, low: 16, high: 128, log: true}
    optimizer.name: {type: categorical, choices: [sgd, adamw]}
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.config.schema import Field, lookup, members, section_of, suggest
from common.config.validate import InvalidValue, check_value, show
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean
from projects.image_classification.core.config import Config

SECTION = "search.search_space"
_WORDS = {
    "loguniform": ("low", "high"),
    "uniform": ("low", "high", "step", "log"),
    "int": ("low", "high", "step", "log"),
    "categorical": ("choices",),
}
_ALL_WORDS = {"type", *(word for words in _WORDS.values() for word in words)}
_ELSEWHERE = {
    "data.fold": "search.fold says which fold a trial trains",
    "data.data_dir": "trials on different data cannot be compared",
    "data.class_names": "trials on different data cannot be compared",
}


@dataclass(frozen=True)
class Parameter:
    """One key that a search varies.

    Attributes:
        key: The dotted key; also what Optuna calls it.
        kind: ``float``, ``int`` or ``categorical``.
        low: Smallest value.
        high: Largest value.
        step: Distance between the values; ``None`` for a float means any value.
        log: Whether the logarithm is uniform.
        choices: Of a categorical one.
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """The value that a trial of Optuna takes."""
        if self.kind == "categorical":
            encoded = trial.suggest_categorical(self.key, [_encode(c) for c in self.choices])
            return self.decode(encoded)
        if self.kind == "int":
            low, high = int(self.low), int(self.high)
            return trial.suggest_int(self.key, low, high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def decode(self, value: Any) -> Any:
        """The value of the configuration that a stored value of a trial stands for."""
        for choice in self.choices:
            if isinstance(choice, list) and _encode(choice) == value:
                return choice
        return value

    def grid(self) -> list[Any]:
        """All values, as Optuna stores them.

        Raises:
            ConfigError: if there is no end of them.
        """
        if self.kind == "categorical":
            return [_encode(choice) for choice in self.choices]
        step = self.step if self.step is not None else 1 if self.kind == "int" else None
        if step is None or self.log:
            raise ConfigError(
                f"{SECTION}: {self.key} has no list of values for GridSampler; give it a step "
                "without log, or type: categorical with choices"
            )
        count = int((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + step * i for i in range(count)]
        return [int(v) for v in values] if self.kind == "int" else values

    def describe(self) -> dict[str, Any]:
        """Plain values, for a record."""
        if self.kind == "categorical":
            return {"type": "categorical", "choices": list(self.choices)}
        shown = {"type": self.kind, "low": self.low, "high": self.high, "log": self.log}
        return shown if self.step is None else {**shown, "step": self.step}


def parse_space(section: Mapping[str, Any]) -> list[Parameter]:
    """The parameters of ``search.search_space``.

    Args:
        section: Dotted keys, or the sections they name, with what may be tried.

    Raises:
        ConfigError: for an unknown key (with the nearest one), a type or limit that does not fit
            it, and a range that holds nothing.
    """
    merged: dict[str, dict[str, Any]] = {}
    for key, entry in _entries(section):
        merged.setdefault(key, {}).update(entry)  # a word of the command line changes one value
    if not merged:
        raise ConfigError(
            f"{SECTION} is empty; name what is to be varied, such as "
            "optimizer.lr: {type: loguniform, low: 1e-4, high: 1e-1} "
            "(ml-init-config DATA_DIR --optuna writes one)"
        )
    try:
        return [_parameter(key, entry) for key, entry in merged.items()]
    except InvalidValue as error:
        raise ConfigError(f"{SECTION}: {error}") from None


def override_word(key: str, value: Any) -> str:
    """``key=value`` that Hydra's grammar reads back as exactly this value."""
    return f"{key}={_word(value)}"


def _entries(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys with what is said of them, whether written ``optimizer.lr`` or nested."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        if not isinstance(value, dict):
            raise ConfigError(
                f"{SECTION}: {key} is {show(value)}, expected a section such as "
                "{type: uniform, low: 0, high: 1}"
            )
        field = lookup(Config, key)
        is_section = section_of(field.kind) is not None if field else not _ALL_WORDS & set(value)
        if is_section and value and not _ALL_WORDS & set(value):
            yield from _entries(value, f"{key}.")
        else:
            yield key, value


def _parameter(key: str, entry: dict[str, Any]) -> Parameter:
    field = lookup(Config, key)
    if field is None:
        raise InvalidValue(key, f"is not a key; {suggest(Config, key)}")
    if section_of(field.kind) is not None:
        raise InvalidValue(key, "is a section; name one of its values")
    if key in _ELSEWHERE or key.startswith("search."):
        raise InvalidValue(key, f"cannot be searched: {_ELSEWHERE.get(key, 'it is the search')}")
    kind = entry.get("type")
    if kind not in _WORDS:
        hint = "is missing" if kind is None else f"is {show(kind)}"
        raise InvalidValue(f"{key}.type", f"{hint}, expected one of {', '.join(_WORDS)}")
    needed = _WORDS[kind]
    for word in entry:
        if word != "type" and word not in needed:
            raise InvalidValue(
                f"{key}.{word}", f"is nothing of type {kind}; {did_you_mean(word, needed)}"
            )
    if kind == "categorical":
        return Parameter(key, kind, choices=_choices(field, entry))
    return _range(field, kind, entry)


def _range(field: Field, kind: str, entry: dict[str, Any]) -> Parameter:
    key = field.key
    is_int = kind == "int"
    for name in ("low", "high"):
        value: Any = entry.get(name)
        kinds = (int,) if is_int else (int, float)
        if type(value) not in kinds or not math.isfinite(value):
            shown = "missing" if name not in entry else show(value)
            expected = "an integer" if is_int else "a number"
            raise InvalidValue(f"{key}.{name}", f"is {shown}, expected {expected}")
        check_value(Config, field, value)
    wanted = members(field.kind)
    if not is_int and float not in wanted and Any not in wanted:
        raise InvalidValue(key, f"takes no fractions, so type: {kind} does not fit; use int")
    low, high = entry["low"], entry["high"]
    if not low < high:
        raise InvalidValue(key, f"has low {low} and high {high}; expected low < high")
    log = entry.get("log", kind == "loguniform")
    if not isinstance(log, bool):
        raise InvalidValue(f"{key}.log", f"is {show(log)}, expected true or false")
    if log and low <= 0:
        raise InvalidValue(f"{key}.low", f"is {low}; expected > 0, for its logarithm is taken")
    step = entry.get("step")
    if step is not None:
        if type(step) not in ((int,) if is_int else (int, float)) or not 0 < step < math.inf:
            expected = "an integer" if is_int else "a number"
            raise InvalidValue(f"{key}.step", f"is {show(step)}, expected {expected} > 0")
        if log:
            raise InvalidValue(f"{key}.step", "and log exclude each other; keep one")
        if step > high - low:
            raise InvalidValue(f"{key}.step", f"is {step}, more than high - low ({high - low})")
    number = int if is_int else float
    return Parameter(key, "int" if is_int else "float", number(low), number(high), step, log)


def _choices(field: Field, entry: dict[str, Any]) -> tuple[Any, ...]:
    key = f"{field.key}.choices"
    choices = entry.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InvalidValue(key, f"is {show(choices)}, expected a list of values")
    for choice in choices:
        if isinstance(choice, dict):
            raise InvalidValue(key, f"holds {show(choice)}; sections cannot be searched as one")
        check_value(Config, field, choice)
    texts = [json.dumps(choice) for choice in choices]
    twice = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    if twice is not None:
        raise InvalidValue(key, f"holds {twice} twice")
    return tuple(choices)


def _encode(choice: Any) -> Any:
    """A choice as a storage of Optuna can hold it: a list becomes its JSON."""
    return json.dumps(choice) if isinstance(choice, list) else choice


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """Text in quotes; a backslash escapes only before a quote, where it is doubled itself."""
    out, slashes = [], 0
    for character in text:
        if character == "'":
            out.append("\\" * slashes + "\\")
        slashes = slashes + 1 if character == "\\" else 0
        out.append(character)
    return "'" + "".join(out) + "\\" * slashes + "'"


def split_words(words: Sequence[str]) -> dict[str, str]:
    """The keys of ``key=value`` words, with the words."""
    return {word.lstrip("+~").partition("=")[0]: word for word in words}
