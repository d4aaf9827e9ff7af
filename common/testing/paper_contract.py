"""The contract every paper passes, clause by clause; ``docs/add_a_paper.md`` says what each one asks.

    python -m common.testing.paper_contract papers.resnet
    python -m common.testing.paper_contract papers.resnet --clause smoke --clause evaluate
    python -m common.testing.paper_contract --changed-since main

``tests/test_papers.py`` holds every paper to all of it.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.testing import contract_commands, contract_docker, contract_files
from common.testing.contract_due import changed_files, due
from common.testing.contract_runs import RUNNING, PaperRuns, contract_server
from common.testing.contract_subject import Subject, choose_subjects
from common.testing.trials import TrialServer
from common.utils.errors import RepriseError, exit_on_error
from common.utils.paths import get_project_root
from common.visualization.tables import text_table

STATIC: dict[str, Callable[[Subject], Iterator[str]]] = {
    "files": contract_files.files,
    "configs": contract_files.configs,
    "readme": contract_commands.readme,
    "independence": contract_files.independence,
    "results": contract_files.results,
    "docker": contract_docker.docker,
}
CLAUSES = (*STATIC, *RUNNING)
_NEEDS_SMOKE = ("seed", "smoke", "evaluate", "resume")


@dataclass(frozen=True)
class Outcome:
    """How a paper stands to one clause.

    Attributes:
        module: The paper.
        clause: The clause.
        problems: What was found; nothing if the clause holds.
        seconds: How long that took.
    """

    module: str
    clause: str
    problems: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        """What was found, and the command that looks again."""
        if not self.problems:
            return f"{self.module} keeps the clause '{self.clause}'"
        return (
            f"{self.module} breaks the clause '{self.clause}': {'; '.join(self.problems)} "
            f"(alone: python -m common.testing.paper_contract {self.module} --clause {self.clause})"
        )


def look(module: str, clause: str, find: Callable[[], Iterator[str]]) -> Outcome:
    """Find a clause's problems; an error on the way is one."""
    began = time.monotonic()
    try:
        problems = tuple(find())
    except RepriseError as error:
        problems = (" ".join(str(error).split()),)
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        problems = (f"{_place(error, module)}{said}",)
    return Outcome(module, clause, problems, time.monotonic() - began)


def _place(error: Exception, module: str) -> str:
    """The paper's own file and line that an error came through last; empty if there is none."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    for file, line in reversed(frames):
        parts = Path(file).parts
        for index in range(len(parts) - 1):
            if ".".join(parts[index : index + 2]) == module:
                return f"{'/'.join(parts[index:])}:{line}: "
    return ""


def check_static(subject: Subject, clause: str) -> Outcome:
    """A clause that needs no run; the paper is imported into this process."""
    return look(subject.module, clause, lambda: STATIC[clause](subject))


def check(
    subject: Subject, clauses: Sequence[str], server: TrialServer, home: Path
) -> Iterator[Outcome]:
    """Clauses of a paper, in processes of their own: this one imports neither torch nor the paper.

    Args:
        subject: The paper.
        clauses: Their names.
        server: From ``contract_server``; it serves any number of papers.
        home: An empty folder for what the runs write.
    """
    runs = PaperRuns(subject, server, home)
    try:
        if any(clause in _NEEDS_SMOKE for clause in clauses):
            with suppress(RepriseError):  # the clauses that need it will say so
                runs.begin()
        if static := [clause for clause in clauses if clause in STATIC]:
            found = runs.ask("clauses", root=str(subject.root), module=subject.module, names=static)
            yield from (Outcome(**each) for each in found)
        for clause, find in RUNNING.items():
            if clause in clauses:
                yield look(subject.module, clause, partial(find, runs))
    finally:
        runs.close()


def report(outcomes: Sequence[Outcome]) -> str:
    """A table of clauses with their seconds, and what was found."""
    rows = [
        [o.module, o.clause, "broken" if o.problems else "kept", f"{o.seconds:.1f}"]
        for o in outcomes
    ]
    table = text_table(rows, ["paper", "clause", "", "seconds"])
    return "\n".join([table, *(f"{o}" for o in outcomes if o.problems)]) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m common.testing.paper_contract",
        description="Hold papers to their contract, offline, and show what they break.",
    )
    parser.add_argument("papers", nargs="*", help="such as papers.resnet (default: all)")
    parser.add_argument(
        "--clause", action="append", choices=CLAUSES, metavar="CLAUSE", help=", ".join(CLAUSES)
    )
    parser.add_argument(
        "--changed-since",
        metavar="REF",
        help="only papers whose files, tests or foundations changed since a commit",
    )
    parser.add_argument("--list", action="store_true", help="name the papers and run nothing")
    arguments = parser.parse_args(words)
    with exit_on_error():
        subjects = choose_subjects(arguments.papers)
        if arguments.changed_since is not None:
            changed = changed_files(arguments.changed_since, get_project_root())
            subjects = due(subjects, changed)
        if arguments.list or not subjects:
            sys.stdout.writelines(f"{subject.module}\n" for subject in subjects)
            return 0
        outcomes = _check_all(subjects, arguments.clause or CLAUSES)
    sys.stdout.write(report(outcomes))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


def _check_all(subjects: Sequence[Subject], clauses: Sequence[str]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with (
        contract_server(subjects[0].root) as server,
        tempfile.TemporaryDirectory(prefix="contract-") as home,
    ):
        for subject in subjects:
            outcomes += check(subject, clauses, server, Path(home) / subject.module)
            sys.stderr.write(f"{subject.module}\n")
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
