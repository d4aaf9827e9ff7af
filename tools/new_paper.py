#!/usr/bin/env python
"""Begin a paper: a copy of papers/_template under its own name, which passes the contract as it is.

tools/new_paper.py --name arcface --arxiv 1801.07698 --title "ArcFace: Additive Angular Margin Loss"
tools/new_paper.py --name product_search --title "Product Search" --project
"""

import argparse
import datetime
import json
import keyword
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from common.utils.errors import InputError, exit_on_error
from common.utils.paths import get_project_root, validate_name

TEMPLATE = "_template"
_IMPORT = re.compile(r"^(from (?:papers|projects)\.\S+ import )(.+)$", re.MULTILINE)
_ARXIV = re.compile(r"(\d\d)(0[1-9]|1[0-2])\.(\d{4,5})")
_FIRST_FIVE_DIGITS = 1501  # ids have had five digits after the dot since January 2015
_LONGEST_NAME = 30
_LONGEST_TITLE = 200
_LONGEST_LINE = 100


@dataclass(frozen=True)
class NewPaper:
    """What a person wants to begin, checked.

    Attributes:
        root: The repository.
        home: ``papers`` or ``projects``.
        name: Of its folder.
        title: Of the paper.
        arxiv: Its id; empty for a project.
        year: Of its first version.
    """

    root: Path
    home: str
    name: str
    title: str
    arxiv: str
    year: int

    @property
    def folder(self) -> Path:
        return self.root / self.home / self.name

    @property
    def tests(self) -> Path:
        return self.root / "tests" / self.home / f"test_{self.name}.py"

    @property
    def class_name(self) -> str:
        """``my_method`` is ``MyMethod``."""
        return "".join(part[:1].upper() + part[1:] for part in self.name.split("_"))

    def rewrite(self, text: str) -> str:
        """The template's text with this paper's names."""
        words = {
            "Reprise 2018, [arXiv 1801.00000](https://arxiv.org/abs/1801.00000).": self._citation(),
            'arxiv: "1801.00000"\n': f'arxiv: "{self.arxiv}"\n' if self.arxiv else "",
            "title: A Template": f"title: {_quoted(self.title)}",
            "A Template (Reprise 2018, arXiv 1801.00000)": self._named(self.title),
            '"A Template" (arXiv 1801.00000)': self._named(f'"{self.title}"', with_year=False),
            "A Template": self.title,
            "authors: The Reprise authors\nyear: 2018": f"authors: The authors\nyear: {self.year}",
            f"papers.{TEMPLATE}": f"{self.home}.{self.name}",
            f"papers/{TEMPLATE}": f"{self.home}/{self.name}",
            "COPY papers/__init__.py papers/": f"COPY {self.home}/__init__.py {self.home}/",
            "reprise-template": f"reprise-{self.name.replace('_', '-')}",
            "TemplateTask": f"{self.class_name}Task",
            "Template": self.class_name,
        }
        pattern = "|".join(re.escape(word) for word in words)  # the first that fits wins
        text = re.sub(pattern, lambda found: words[found[0]], text)
        return _IMPORT.sub(_sorted_import, text)

    def _citation(self) -> str:
        if not self.arxiv:
            return "A project."
        return f"{self.year}, [arXiv {self.arxiv}](https://arxiv.org/abs/{self.arxiv})."

    def _named(self, title: str, with_year: bool = True) -> str:
        parts = [str(self.year)] * with_year + [f"arXiv {self.arxiv}"] * bool(self.arxiv)
        return f"{title} ({', '.join(parts)})" if parts else title

    def create(self) -> None:
        """Write the folder and its tests, or nothing at all.

        Raises:
            InputError: if somebody made one of them in the meantime.
        """
        papers = self.root / "papers"
        ignored = shutil.ignore_patterns("__pycache__", "data", ".*")
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=".new-") as place:
            copy, tests = Path(place) / self.name, Path(place) / self.tests.name
            shutil.copytree(papers / TEMPLATE, copy, ignore=ignored)
            for path in copy.rglob("*"):
                if path.is_file():
                    path.write_text(self.rewrite(path.read_text(encoding="utf-8")), "utf-8")
            facts = self.root / "tests" / "papers" / f"test_{TEMPLATE.lstrip('_')}.py"
            tests.write_text(self.rewrite(facts.read_text(encoding="utf-8")), "utf-8")
            try:
                os.link(tests, self.tests)
            except FileExistsError:
                raise InputError(f"{self.tests} is there already") from None
            try:
                copy.rename(self.folder)
            except OSError as error:
                self.tests.unlink()
                raise InputError(f"{self.folder} cannot be made: {error.strerror}") from None


def _sorted_import(found: re.Match[str]) -> str:
    """An import with its new names in order, over several lines if it is long."""
    names = sorted(found[2].split(", "), key=str.lower)
    line = found[1] + ", ".join(names)
    if len(line) <= _LONGEST_LINE:
        return line
    return "\n".join([f"{found[1]}(", *(f"    {name}," for name in names), ")"])


def checked(root: Path, name: str, title: str, arxiv: str | None, is_project: bool) -> NewPaper:
    """What was asked for, if it can be made.

    Raises:
        InputError: in one line that says what is wrong with it.
    """
    _check_name(root, name)
    if arxiv is None and not is_project:
        raise InputError(
            "--arxiv is missing; a paper has an id such as 1801.07698, a --project none"
        )
    title = " ".join(title.split())
    if not title or len(title) > _LONGEST_TITLE or re.search(r'[\\"`<>]', title):
        raise InputError(
            f"--title {title!a} is no title; expected 1 to {_LONGEST_TITLE} characters "
            "without backslashes, double quotes, backquotes and angle brackets"
        )
    validate_name(title.replace("/", " "), "title")
    this_year = datetime.date.today().year
    year = this_year if arxiv is None else _year_of(arxiv, this_year)
    home = "projects" if is_project else "papers"
    return NewPaper(root, home, name, title, arxiv or "", year)


def _check_name(root: Path, name: str) -> None:
    validate_name(name, "--name")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _LONGEST_NAME:
        raise InputError(
            f"--name {name!a} is no name of a module; expected lower-case letters, digits and _, "
            f"a letter first, at most {_LONGEST_NAME}: my_method"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise InputError(f"--name {name} is a word of the Python language; choose another")
    taken = next((f for f in ("papers", "projects") if (root / f / name).exists()), None)
    if taken is not None:
        raise InputError(f"--name {name} is taken by {taken}/{name}; choose another")
    if name in sys.stdlib_module_names or (root / name).exists() or find_spec(name) is not None:
        raise InputError(f"--name {name} is a module already; choose another, such as {name}_paper")
    class_name = NewPaper(root, "papers", name, "", "", 0).class_name
    used = re.compile(rf"\b{class_name}(Task)?\b")
    for path in (root / "papers" / TEMPLATE).glob("*.py"):
        if used.search(path.read_text(encoding="utf-8")):
            raise InputError(
                f"--name {name} would make a class {class_name}, a name that {path.name} uses for "
                f"something else; choose another, such as {name}_paper"
            )


def _year_of(arxiv: str, this_year: int) -> int:
    found = _ARXIV.fullmatch(arxiv)
    if found is not None:
        year, digits = (
            2000 + int(found[1]),
            5 if int(found[1] + found[2]) >= _FIRST_FIVE_DIGITS else 4,
        )
        if 2007 <= year <= this_year and len(found[3]) == digits:
            return year
    raise InputError(
        f"--arxiv {arxiv!a} is no arXiv id; expected year, month, dot and number, as 1801.07698"
    )


def _quoted(text: str) -> str:
    """Text as a YAML value."""
    plain = re.fullmatch(r"[A-Za-z][\w ,()-]*", text) and text.lower() not in (
        "null",
        "true",
        "false",
    )
    return text if plain else json.dumps(text, ensure_ascii=False)


def main() -> None:
    """Parse the command line, copy, and say what comes next."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="of the folder, as it is imported: my_method")
    parser.add_argument("--title", required=True, help="of the paper, in quotes")
    parser.add_argument("--arxiv", help="the paper's id, such as 1801.07698")
    parser.add_argument("--project", action="store_true", help="research of our own: projects/NAME")
    arguments = parser.parse_args()
    with exit_on_error():
        paper = checked(
            get_project_root(),
            arguments.name,
            arguments.title,
            arguments.arxiv,
            arguments.project,
        )
        paper.create()
    module = f"{paper.home}.{paper.name}"
    sys.stdout.write(
        f"{paper.home}/{paper.name}/\ntests/{paper.home}/{paper.tests.name}\n\n"
        "It trains already, on digits. Next:\n"
        f"1. python -m {module}.train\n"
        f"2. write model.py, its facts in {paper.tests.name}, the authors and claims in paper.yaml\n"
        f"3. python -m common.testing.paper_contract {module}\n"
    )


if __name__ == "__main__":
    main()
