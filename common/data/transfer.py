"""One GET request to the Hub: resumed where it broke off, retried with backoff, and bounded.

The Hub's own client neither checks what arrives against the hashes that the Hub publishes nor says
how often it tried; this uses that client's session and nothing else of it.
"""

import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from common.utils.errors import DownloadError

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

ATTEMPTS = 5  # in a row without a new byte
FEW_ATTEMPTS = 2  # nobody answers at all, or whole files come with wrong bytes
BACKOFF = 0.5  # seconds, doubled after every failure
LONGEST_WAIT = 60.0  # seconds that a server may ask for
_LOOKUP_SECONDS = 4.0
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 10.0
_PASSING = (408, 429, 500, 502, 503, 504)  # statuses that another attempt may cure
_TRUE = ("1", "ON", "YES", "TRUE")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

T = TypeVar("T")


class OfflineError(DownloadError):
    """The Hub cannot be asked: no network, or the environment forbids it."""


def is_offline() -> bool:
    """Whether the environment forbids requests (``HF_HUB_OFFLINE=1`` and its siblings)."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in _OFFLINE)


class BrokenOff(Exception):
    """A body ended early; the rest can be asked for."""


class WrongBytes(Exception):
    """A body is complete and not what was promised."""


def get(
    url: str,
    consume: "Callable[[httpx.Response], T]",
    received: Callable[[], int] = lambda: 0,
    stop: threading.Event | None = None,
) -> T:
    """GET ``url`` until ``consume`` has read the answer, resuming behind ``received()`` bytes.

    Raises:
        OfflineError: if nobody answers.
        DownloadError: after ``ATTEMPTS`` failures in a row without a new byte.
    """
    from huggingface_hub import get_session, get_token
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import hf_raise_for_status, httpx

    headers = {"Accept-Encoding": "identity", "User-Agent": "reprise"}
    if (token := get_token()) is not None:
        headers["Authorization"] = f"Bearer {token}"
    timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    stop = stop or threading.Event()
    attempts = failures = furthest = 0
    while True:
        attempts += 1
        limit, fault = ATTEMPTS, DownloadError
        pause = BACKOFF * 2**failures
        rest = {"Range": f"bytes={received()}-"} if received() else {}
        try:
            session = get_session()
            with session.stream("GET", url, headers=headers | rest, timeout=timeout) as response:
                if response.status_code not in _PASSING:
                    hf_raise_for_status(response)
                    return consume(response)
                reason = f"HTTP {response.status_code}"
                asked = response.headers.get("Retry-After", "")
                pause = max(pause, float(asked)) if asked.isdigit() else pause
        except OfflineModeIsEnabled:
            raise OfflineError("the environment forbids requests (HF_HUB_OFFLINE)") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            reason = f"no connection: {first_line(error)}"
            limit, fault = FEW_ATTEMPTS, OfflineError
        except WrongBytes as error:
            reason, limit = str(error), FEW_ATTEMPTS
        except (BrokenOff, httpx.RequestError) as error:
            reason = first_line(error)
        failures = 1 if received() > furthest else failures + 1
        furthest = max(furthest, received())
        if pause > LONGEST_WAIT:
            raise DownloadError(
                f"{url}: {reason}, and asks to wait {pause:,.0f} s; try again later"
            )
        if failures >= limit or stop.wait(pause):
            raise fault(f"{url}: {reason}; gave up after {attempts} attempts")


def look_up(address: str) -> None:
    """Find the host, within a bound that the system's resolver does not keep."""
    if {"http", "https", "all"} & urllib.request.getproxies().keys():  # the proxy looks it up
        return
    host = urllib.parse.urlsplit(address).hostname
    outcome: list[OSError | None] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(host, None)
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_LOOKUP_SECONDS)
    if not outcome or outcome[0] is not None:
        reason = outcome[0].strerror if outcome and outcome[0] is not None else "no answer"
        raise OfflineError(f"no connection to {address}: {reason}")


def first_line(error: Exception) -> str:
    """What an error says, or what it is if it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
