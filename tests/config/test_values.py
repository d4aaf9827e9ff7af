"""What a schema accepts, and how it says no."""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from common.config import compose, nested, option
from common.config.schema import defaults_of
from common.utils.errors import ConfigError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Average:
    decay: float = option("decay", ge=0, lt=1)
    every: int = option("steps", 1)


@dataclass
class Step:
    name: str = option("name")
    size: int = option("size", 3)


@dataclass
class Inner:
    width: int = option("width", 2)
    depth: int = option("depth", 3)


@dataclass
class Config:
    integer: int = option("", 1, ge=-5, le=5)
    number: float = option("", 1.0)
    truth: bool = option("", False)
    text: str = option("", "x")
    path: Path = option("", Path("here"))
    maybe: int | None = option("", None)
    either: int | str = option("", 1)
    word: Literal["a", "b"] = option("", "a")
    colour: Colour = option("", Colour.RED)
    numbers: list[float] = option("", [1.0], gt=0)
    pair: tuple[int, int] = option("", (1, 2))
    names: tuple[str, ...] = option("", ())
    table: dict[str, float] = option("", {})
    anything: Any = option("", None)
    average: Average | None = option("", None)
    steps: list[Step] = option("", [])
    inner: Inner = option("", default=Inner(width=7))
    choice: int = option("", 1, choices=(1, 2))
    bare: int = 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def read(file: Path, text: str, *overrides: str) -> Config:
    file.write_text(text)
    return compose(Config, file.with_name("train.py"), overrides=overrides)[0]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("integer: -3", "integer", -3),
        ("number: 2", "number", 2.0),
        ("number: 1e-3", "number", 0.001),
        ("truth: true", "truth", True),
        ("text: 'yes'", "text", "yes"),
        ("path: /tmp/x", "path", Path("/tmp/x")),
        ("maybe: 3", "maybe", 3),
        ("maybe: null", "maybe", None),
        ("either: x", "either", "x"),
        ("either: 3", "either", 3),
        ("word: b", "word", "b"),
        ("colour: BLUE", "colour", Colour.BLUE),
        ("numbers: [1, 2.5]", "numbers", [1.0, 2.5]),
        ("pair: [3, 4]", "pair", (3, 4)),
        ("names: [a, b, c]", "names", ("a", "b", "c")),
        ("table: {a: 1, b.c: 2}", "table", {"a": 1.0, "b.c": 2.0}),
        ("anything: {a: [1, {b: c}]}", "anything", {"a": [1, {"b": "c"}]}),
        ("average: {decay: 0.9}", "average", Average(0.9, 1)),
        ("average: null", "average", None),
        ("steps: [{name: a}, {name: b, size: 4}]", "steps", [Step("a", 3), Step("b", 4)]),
        ("inner: {depth: 9}", "inner", Inner(7, 9)),
        ("bare: 4", "bare", 4),
    ],
)
def test_a_value_becomes_its_kind(file: Path, text: str, key: str, value: Any):
    got = getattr(read(file, text), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("integer: 1.5", "integer is 1.5, expected an integer"),
        ("integer: 1.0", "integer is 1.0, expected an integer"),
        ("integer: true", "integer is true, expected an integer"),
        ("integer: '1'", "integer is '1', expected an integer"),
        ("integer: null", "integer is null, expected an integer"),
        ("integer: 6", "integer is 6, expected >= -5 and <= 5"),
        ("number: .inf", "number is inf, expected a finite number"),
        ("number: .nan", "number is nan, expected a finite number"),
        ("number: true", "number is true, expected a number"),
        ("number: abc", "number is 'abc', expected a number"),
        (f"number: 1{'0' * 400}", "number is an integer too large"),
        ("truth: yes", "truth is 'yes', expected true or false"),
        ("truth: 1", "truth is 1, expected true or false"),
        ("text: 1", "text is 1, expected text"),
        ("text: [a]", 'text is ["a"], expected text'),
        ("path: ''", "path is '', expected a path"),
        ("maybe: x", "maybe is 'x', expected an integer or null"),
        ("either: 1.5", "either is 1.5, expected an integer or text"),
        ("word: c", "word is 'c', expected one of a, b"),
        ("colour: GREEN", "colour is 'GREEN', expected one of RED, BLUE"),
        ("numbers: 1.0", "numbers is 1.0, expected a list (a number)"),
        ("numbers: [1, x]", "numbers[1] is 'x', expected a number"),
        ("numbers: [1, -2]", "numbers[1] is -2, expected > 0"),
        ("pair: [1]", "pair has 1 items, expected 2"),
        ("table: {a: x}", "table.a is 'x', expected a number"),
        ("anything: {a: [.inf]}", "anything.a[0] is inf"),
        ("average: {decay: 2}", "average.decay is 2, expected >= 0 and < 1"),
        ("average: {}", "average.decay has no value and no default; add average.decay=..."),
        ("steps: [{size: 1}]", "steps[0].name has no value"),
        ("steps: [{nam: 1}]", "steps[0].nam is not a key"),
        ("inner: 3", "inner is 3, expected a section of keys"),
        ("inner: null", "inner is null, expected a section of keys"),
        ("choice: 3", "choice is 3, expected one of 1, 2"),
        ("intege: 3", "intege is not a key; did you mean 'integer'?"),
        ("inner: {widht: 3}", "inner.widht is not a key; did you mean 'inner.width'?"),
        ("other: {width: 3}", "other is not a key"),
        ("integer: ${number}", "integer is 1.0, expected an integer"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(file: Path, text: str, problem: str):
    with pytest.raises(ConfigError) as error:
        read(file, f"# first line\n{text}\n")
    assert problem in str(error.value)
    assert "config.yaml:2: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_section_of_which_every_line_is_a_comment_has_its_defaults(file: Path):
    text = "inner:\n  # width: 3\naverage:\n  # decay: 0.5\n"
    assert read(file, text) == read(file, "")


def test_a_value_is_checked_also_where_the_command_line_replaces_it(file: Path):
    with pytest.raises(ConfigError, match=r"config.yaml:1: integer is 'x'"):
        read(file, "integer: x", "integer=2")


def test_a_mandatory_value_may_come_from_the_command_line(file: Path):
    config = read(file, "average: {every: 2}", "average.decay=0.5")
    assert config.average == Average(0.5, 2)


def test_two_configurations_share_no_list(file: Path):
    read(file, "").numbers.append(5.0)
    assert read(file, "").numbers == [1.0]
    assert defaults_of(Config)["numbers"] == [1.0]


def test_a_schemas_own_check_names_its_section_and_the_last_setting(file: Path):
    @dataclass
    class Model:
        width: int = option("", 8)
        heads: int = option("", 2)

        def __post_init__(self) -> None:
            if self.width % self.heads:
                raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")

    @dataclass
    class Whole:
        model: Model = nested(Model)

    file.write_text("model:\n  heads: 3\n")
    with pytest.raises(ConfigError, match=r"config.yaml:2: model does not fit together: width 8"):
        compose(Whole, file.with_name("train.py"))


def test_a_schema_may_not_hold_a_kind_no_file_can_write(file: Path):
    @dataclass
    class Whole:
        wrong: set[int] = option("", 3)

    file.write_text("wrong: 3\n")
    with pytest.raises(TypeError, match="a schema cannot hold"):
        compose(Whole, file.with_name("train.py"))
