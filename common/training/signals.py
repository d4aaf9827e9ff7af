"""A signal asks a run to stop; the loop answers at the next step boundary."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """While entered, SIGINT, SIGTERM and SIGUSR1 only set ``signal_number``.

    A second SIGINT stops at once with ``KeyboardInterrupt``. Outside the main thread, where Python
    takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self.signal_number is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        note = f"\n{signal.Signals(number).name}: saving at the next step"
        hint = " (again: stop now)" if number == signal.SIGINT else ""
        with suppress(OSError):  # whoever read it may have ended with the same Ctrl-C
            os.write(2, f"{note}{hint}\n".encode())  # safe in a handler, unlike a logger

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        self.signal_number = None
