"""Points in time as a person types them: a date, or how long ago."""

import re
from datetime import UTC, datetime, timedelta

from common.utils.errors import ConfigError

_AGE = re.compile(r"(?P<count>[0-9]{1,5})(?P<unit>[hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


def parse_since(text: str) -> datetime:
    """The time that ``2026-11-01`` (in local time), ``12h``, ``7d`` or ``2w`` means.

    Raises:
        ConfigError: if it is none of these.
    """
    if found := _AGE.fullmatch(text):
        hours = int(found["count"]) * _HOURS[found["unit"]]
        return datetime.now(UTC) - timedelta(hours=hours)
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ConfigError(
            f"'{text}' is no time; expected a date such as 2026-11-01 or an age such as 12h, 7d, 2w"
        ) from None
