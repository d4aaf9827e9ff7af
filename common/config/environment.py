"""The environment as a configuration may read it: ``${oc.env:NAME}``, for what a machine decides.

A new run reads any variable its files or its command line name. An earlier run has recorded what it
read, so that it means the same elsewhere; only secrets are read again, because they are not saved,
and a checkpoint that came from somewhere else reads nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common.config.files import parse_scalar
from common.config.origins import is_secret
from common.config.tree import ABSENT
from common.config.validate import InvalidValue


@dataclass
class Environment:
    """What references to the environment mean, and which keys made use of it.

    Attributes:
        wants_text: Whether all values of a key are text; others are read as a file's are.
        problem: Why a key may not read a variable, else empty.
        variables: What each value was made from, once the configuration is resolved.
    """

    wants_text: Callable[[str], bool] = lambda key: True
    problem: Callable[[str, str], str] = lambda key, name: ""
    variables: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, key: str, name: str, whole: bool) -> Any:
        """The value of a variable for a key; ``ABSENT`` if it is not set.

        Args:
            key: The dotted key.
            name: The variable.
            whole: Whether nothing stands around it; otherwise it stays text.

        Raises:
            InvalidValue: if the key may not read it.
        """
        if problem := self.problem(key, name):
            raise InvalidValue(key, problem)
        text = os.environ.get(name, ABSENT)
        return text if text is ABSENT or not whole else self.typed(key, text)

    def typed(self, key: str, text: str) -> Any:
        """The text of a variable, or the default in its place, as a value of the key."""
        return text if self.wants_text(key) else scalar(key, text)

    def hide(self, message: str) -> str:
        """The message without the values of secrets."""
        for name in {name for names in self.variables.values() for name in names}:
            for line in os.environ.get(name, "").splitlines() if is_secret(name) else ():
                if line.strip():  # messages cut what is long
                    message = message.replace(line, "***").replace(line[:50], "***")
        return message


def scalar(key: str, text: str) -> Any:
    """The text of a variable as a file's plain value."""
    try:
        return parse_scalar(text)
    except ValueError:
        raise InvalidValue(key, "is a number of too many digits") from None
