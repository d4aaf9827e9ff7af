"""What command lines share: examples in the help, one-line mistakes, ``--a_b`` beside ``--a-b``.

Nothing here imports PyTorch, so that ``--help`` and a mistyped flag are answered at once.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from common.utils.errors import ConfigError
from common.utils.text import nearest


class Parser(argparse.ArgumentParser):
    """``argparse`` with examples in the help, mistakes in one line, and ``--a_b`` beside ``--a-b``.

    Args:
        prog: The command.
        description: One line.
        examples: Command lines, shown below the options.
    """

    def __init__(self, prog: str, description: str, examples: Sequence[str] = ()) -> None:
        super().__init__(
            prog=prog,
            description=description.replace("``", ""),
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def option(self, name: str, help: str, **kwargs: Any) -> None:
        """Add ``--name``, written with underscores or dashes."""
        names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        self.add_argument(*names, help=help, **kwargs)

    def words(self, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """The flags, and the ``key=value`` words between them.

        Raises:
            ConfigError: for a flag that does not exist, and a word that is no ``key=value``.
        """
        arguments, rest = self.parse_known_args(argv)
        for word in rest:
            if word.startswith("--") or "=" not in word:
                match = nearest(word.partition("=")[0], self._option_string_actions)
                hint = f"did you mean {match}?" if match else f"see {self.prog} --help"
                raise ConfigError(f"{self.prog}: unknown argument '{word}'; {hint}")
        return arguments, rest

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2, without the usage."""
        sys.stderr.write(f"error: {self.prog}: {message}; see {self.prog} --help\n")
        raise SystemExit(2)


def show(table: Mapping[str, object]) -> None:
    """Names and values on standard output, one a line."""
    width = max(map(len, table), default=0)
    for name, value in table.items():
        sys.stdout.write(f"{name:<{width}}  {value}\n")
