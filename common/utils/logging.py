"""One log: loguru on the console and in a file, with the dependencies' loggers routed into it."""

import logging
import os
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from loguru import logger
from tqdm import tqdm

if TYPE_CHECKING:
    from loguru import Logger

_NOISY = (
    *("datasets", "transformers", "huggingface_hub"),
    *("httpx", "httpx2", "httpcore2", "filelock", "urllib3", "fsspec"),
    *("faiss", "matplotlib"),
)
_CONSOLE = "<green>{time:HH:mm:ss}</green> <level>{level: <7}</level> {message}"
_FILE = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {name}:{line} {message}"


class _Intercept(logging.Handler):
    """Hands records of the standard library's ``logging`` to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        frame: FrameType | None = logging.currentframe()
        depth = 2
        while frame is not None and frame.f_code.co_filename == logging.__file__:
            frame = frame.f_back
            depth += 1
        logger.opt(depth=depth, exception=record.exc_info).log(level, record.getMessage())


def setup_logger(log_file: Path | None = None, level: str = "INFO") -> "Logger":
    """Configure the process's log and return it.

    The console shows short lines that do not tear a progress bar; the file keeps time, module and
    line. Chatty libraries are held to warnings. Calling it again replaces the earlier set-up.

    Args:
        log_file: Also write there (its directory is created); lines are appended.
        level: The lowest level shown on the console; the file keeps DEBUG.
    """
    logger.remove()
    logger.add(_write_above_bar, level=level, format=_CONSOLE, colorize=sys.stderr.isatty())
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        logger.add(log_file, level="DEBUG", format=_FILE, encoding="utf-8")
    logging.basicConfig(handlers=[_Intercept()], level=logging.INFO, force=True)
    logging.captureWarnings(True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return logger


def _write_above_bar(message: str) -> None:
    tqdm.write(message, file=sys.stderr, end="")
