"""Work that goes on beside the caller."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_background(name: str, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """Call ``function(*arguments)`` in a thread of its own that ends with the call.

    The interpreter does not exit before it is done.

    Args:
        name: Of the thread, for debuggers.
        function: What to call.
        arguments: Its arguments.

    Returns:
        Its result, or what it raised.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        return executor.submit(function, *arguments)
    finally:
        executor.shutdown(wait=False)
