"""A section of a run's context, for the task or callback that owns it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from common.config.origins import Lifetime, Source

if TYPE_CHECKING:
    from common.config.context import RunContext


class Namespace:
    """A ``RunContext`` whose keys are all below one prefix; ``depends_on`` names whole keys.

    Args:
        context: The whole.
        prefix: The dotted name of the section.
    """

    def __init__(self, context: "RunContext", prefix: str) -> None:
        self._context = context
        self.prefix = prefix

    def get(self, key: str, default: Any = None) -> Any:
        """See ``RunContext.get``."""
        return self._context.get(self.key(key), default)

    def source(self, key: str) -> Source:
        """See ``RunContext.source``."""
        return self._context.source(self.key(key))

    def set(
        self,
        key: str,
        value: Any,
        source: Source,
        lifetime: Lifetime = Lifetime.RUN,
        *,
        depends_on: Sequence[str] = (),
        by: str = "",
    ) -> None:
        """See ``RunContext.set``."""
        self._context.set(self.key(key), value, source, lifetime, depends_on=depends_on, by=by)

    def resolve(
        self,
        key: str,
        value: Any,
        source: Source = Source.DATA,
        *,
        depends_on: Sequence[str] = (),
        by: str = "",
    ) -> Any:
        """See ``RunContext.resolve``."""
        return self._context.resolve(self.key(key), value, source, depends_on=depends_on, by=by)

    def derive(self, key: str, function: Callable[..., Any], depends_on: Sequence[str]) -> Any:
        """See ``RunContext.derive``."""
        return self._context.derive(self.key(key), function, depends_on)

    def key(self, name: str) -> str:
        """The whole key of a name, as others must write it."""
        return f"{self.prefix}.{name}"
