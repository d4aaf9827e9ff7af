"""The strict YAML reader, and references between values."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from common.config.files import parse_config, read_config
from common.config.interpolation import check_references, resolve
from common.config.validate import InvalidValue
from common.utils.errors import ConfigError

ORDINARY = """\
# a comment
text: plain words, and more
quoted: "1e-3"
single: 'it''s'
integer: -12
grouped: 1_000
number: 1e-3
point: .5
truth: true
nothing: null
empty:
list: [1, 2.5, x, {a: 1}]
block:
  - one
  - two: 2
    three: [3]
section:
  inner: {deep: {deeper: 1}}
paragraph: |
  line one
  line two
folded: >
  a
  b
"""


def test_ordinary_yaml_reads_as_omegaconf_reads_it():
    reference = OmegaConf.to_container(OmegaConf.create(ORDINARY))
    assert parse_config(ORDINARY, "file").content == reference


@pytest.mark.parametrize(
    "word", ["yes", "no", "on", "off", "2024-01-01", "010", "12:30", "0x10", "NaN", "1e", "-"]
)
def test_words_that_older_yaml_reinterprets_stay_text(word: str):
    assert parse_config(f"a: '{word}'\nb: x{word}", "file").content["a"] == word
    if word != "-":
        assert parse_config(f"a: {word}", "file").content["a"] == word


@pytest.mark.parametrize("text", ["", "# nothing here\n", "---\n"])
def test_an_empty_file_gives_no_values(text: str):
    assert parse_config(text, "file").content in ({}, None)


def test_keys_and_comments_are_found_again():
    file = parse_config("a: 1\nb:\n  c: [1, # here\n    2]  # there\n", "file")
    assert (file.place("b.c"), file.place("b.c.unknown"), file.place("x")) == (
        "file:3",
        "file:3",
        "file",
    )
    assert file.comments == {"b.c": "there"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "file:2: key 'b.c' is given twice (first in line 2)"),
        ("a: &x [1]\nb: *x", "file:1: anchor '&x' is refused"),
        ("a: *x", "alias '*x' is refused; refer with ${key}"),
        ("a: !!python/name:os.system", "python/name:os.system' is refused"),
        ("a: !!float 1", "tag 'tag:yaml.org,2002:float' is refused"),
        ("a: 1\n---\nb: 2", "file:2: a second document"),
        ("- 1", "file holds a list; expected keys and values"),
        ("word", "file holds a single value"),
        ("? [a, b]\n: 1", "a key must be text"),
        ("'': 1", "an empty key"),
        ("a: [1", "not YAML"),
        ("a: b: c", "file:1: not YAML"),
        ("a: \x00", "not YAML"),
        ("a: " + "[" * 100_000, "nested deeper than 20 levels"),
        ("a: " + "9" * 5000, "a number of too many digits"),
        ("# @package _global_\na: 1", "'# @package' has no meaning here"),
        ("a: " + "x" * 1_000_001, "the limit is 1,000,000"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_in_one_line(text: str, problem: str):
    with pytest.raises(ConfigError) as error:
        parse_config(text, "file")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfseed: 1\r\n")
    assert read_config(tmp_path / "a.yaml").content == {"seed": 1}


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(b"title: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(tmp_path / "a.yaml")


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="no regular file"):
        read_config(tmp_path / "a.yaml")


TREE = {
    "size": 4,
    "name": "x",
    "rate": 0.5,
    "flag": True,
    "none": None,
    "same": "${size}",
    "chain": "${same}",
    "text": "${name}-${chain}-${rate}",
    "section": {"here": 2, "neighbour": "${.here}", "outer": "${..size}", "list": ["${name}", 1]},
}


def test_references_resolve_as_omegaconf_resolves_them():
    assert resolve(TREE) == OmegaConf.to_container(OmegaConf.create(TREE), resolve=True)


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"a": "${b}"}, "refers to ${b}, which does not exist"),
        ({"a": "${b}", "b": "${a}"}, "refers to itself"),
        ({"a": "${a}"}, "refers to itself"),
        ({"a": "${b}", "b": {"c": 1}}, "a section; expected one value"),
        ({"a": "${b}", "b": [1]}, "a list; expected one value"),
        ({f"a{i}": f"${{a{i + 1}}}" for i in range(5000)} | {"a5000": 1}, "or too far"),
        (
            {f"a{i}": f"${{a{i + 1}}}" * 10 for i in range(9)} | {"a9": "x" * 100},
            "makes text of over 100,000 characters",
        ),
    ],
)
def test_a_reference_that_cannot_be_resolved_is_refused(tree: dict, problem: str):
    with pytest.raises(InvalidValue) as error:
        resolve(tree)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.create:HOME}",
        "${oc.env:}",
        "${oc.env:A,${b}}",
        "${now:%Y}",
        "${open",
        "${a.${b}}",
        "${}",
        "x ${a b}",
        "${${a}:b}",
    ],
)
def test_only_plain_references_are_understood(text: str):
    with pytest.raises(InvalidValue, match="only references to keys"):
        check_references({"section": {"list": [text]}})
