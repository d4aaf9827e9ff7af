"""A file made of a schema says every key, means the defaults, and reads back what was filled in."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import compose, nested, option
from common.config.schema import section_of, walk
from common.config.template import key_tables, template
from common.utils.errors import ConfigError


@dataclass
class Inner:
    """Further in."""

    width: int = option("how wide", 3, ge=1)
    kind: str = option("which", "a", choices=("a", "b"))


@dataclass
class Section:
    """What a section is for."""

    rate: float | None = option("how fast", None, gt=0, lt=1)
    names: list[str] | None = option("in order", None)
    counts: list[int] = option("of each", [])
    inner: Inner = nested(Inner)
    space: dict[str, Any] = option("by key", {})


@dataclass
class Config:
    """All of it."""

    seed: int = option("of everything", 0, ge=0)
    text: str = option("a | b", "x: y # z")
    section: Section = nested(Section)


def read(directory: Path, text: str) -> Config:
    (directory / "config.yaml").write_text(text, encoding="utf-8")
    return compose(Config, directory / "train.py")[0]


def test_a_template_means_the_defaults_and_has_every_key(tmp_path: Path) -> None:
    text = template(Config, header="one\ntwo")
    assert text.startswith("# one\n# two\n")
    assert read(tmp_path, text) == Config()
    for field in walk(Config):
        name = field.key.rpartition(".")[2]
        mark = "" if section_of(field.kind) else "# "
        assert re.search(rf"^ *{mark}{name}:", text, re.MULTILINE), field.key


def test_every_line_works_when_its_comment_sign_is_removed(tmp_path: Path) -> None:
    for line in template(Config).splitlines():
        if re.match(r" *# \w+: ", line):
            text = template(Config).replace(line, line.replace("# ", "", 1))
            assert read(tmp_path, text) == Config(), line


@pytest.mark.parametrize(
    "name",
    ["a: b", "it's", 'say "x"', "two\nlines", "日本語", "yes", "1e3", "null", "~", "- a", "#x"]
    + [
        "{a}",
        "*a",
        "&a",
        "!t",
        "%",
        "@",
        " a ",
        "",
        "true",
        "0x10",
        "1_000",
        "a\\b",
        "\x85",
        "=",
        "a #b",
    ],
)
def test_any_text_is_read_back_as_it_was(tmp_path: Path, name: str) -> None:
    names = [name, "x"]
    assert read(tmp_path, template(Config, {"section.names": names})).section.names == names
    one_a_line = template(Config, {"section.names": names}, {"section.names[0]": "first"})
    assert "- x\n" in one_a_line
    assert read(tmp_path, one_a_line).section.names == names


def test_values_of_every_depth_are_filled_in(tmp_path: Path) -> None:
    space = {"optimizer.lr": {"type": "loguniform", "low": 1e-5, "high": 0.1}}
    values = {
        "seed": 3,
        "section.counts": list(range(100)),
        "section.inner.width": 7,
        "section.space": space,
        "section.rate": 1e-5,
    }
    config = read(tmp_path, template(Config, values, {"seed": "looked up"}))
    assert (config.seed, config.section.inner, config.section.rate) == (3, Inner(7), 1e-5)
    assert config.section.counts == values["section.counts"]
    assert config.section.space == space
    assert "seed: 3  # looked up\n" in template(Config, values, {"seed": "looked up"})
    assert max(map(len, template(Config, values).splitlines())) < 120


@pytest.mark.parametrize("key", ["sed", "section", "section.inner.widht"])
def test_a_key_the_schema_does_not_know_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is not a key"):
        template(Config, {key: 1})


def test_the_tables_have_a_row_for_every_key_with_limits_and_choices() -> None:
    tables = key_tables(Config)
    assert r"| `text` | text | `\"x: y # z\"` | a \| b |".replace(r"\"", '"') in tables
    assert "| `section.inner.kind` | one of a, b | `a` | which |" in tables
    assert "| `section.rate` | a number or null, > 0 and < 1 | `null` | how fast |" in tables
    assert "## section.inner\n\nFurther in.\n" in tables
    rows = [field for field in walk(Config) if section_of(field.kind) is None]
    assert sum(line.startswith("| `") for line in tables.splitlines()) == len(rows)
