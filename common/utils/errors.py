"""Errors a person can act on, and how a command line shows them.

An error names what was received, what was expected and what to do, in one line. Its class says
whose turn it is: an ``InputError`` (exit code 2) is for the person who typed the command or made
the file, a ``FaultError`` (exit code 1) is for the disk, the network or the machine.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class RepriseError(Exception):
    """Base of all errors that are shown as one line, without a traceback."""

    exit_code = 1
    label = "error"


class InputError(RepriseError):
    """Something that was typed or supplied is wrong."""

    exit_code = 2


class FaultError(RepriseError):
    """Something outside went wrong: disk, network, a damaged file."""

    exit_code = 1


class InterruptedRun(RepriseError):
    """A run was asked to stop, saved its state, and can be resumed.

    Args:
        message: Where it stopped and how to go on.
        signal_number: The signal that asked; the exit code is 128 + this number.
    """

    label = "interrupted"

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ConfigError(InputError):
    """A configuration key, type, value or file is wrong."""


class DataError(InputError):
    """A data set or one of its samples is not what it should be."""


class UnsafeNameError(InputError):
    """A name that would leave its root or confuse a shell or a reader."""


class CheckpointError(FaultError):
    """A checkpoint is missing, damaged, or does not fit."""


class DownloadError(FaultError):
    """A file could not be fetched, or what arrived is not what was promised."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn errors into one line on standard error and an exit code.

    Raises:
        SystemExit: with the error's ``exit_code``, 130 after Ctrl-C, or 141 when nobody reads on.
    """
    try:
        yield
        sys.stdout.flush()  # a reader that has gone shows now, not when the interpreter ends
    except RepriseError as error:
        sys.stderr.write(f"{error.label}: {' '.join(str(error).split())}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
