"""Times as people and programs read them: in UTC, the same in every locale."""

from datetime import UTC, datetime

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def iso_time(seconds: float) -> str:
    """Returns seconds since the epoch as a date and time of ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def moment(seconds: float) -> str:
    """Returns seconds since the epoch in words: 27 Nov 2026 17:50 UTC."""
    return f"{day(seconds)} {datetime.fromtimestamp(seconds, UTC):%H:%M} UTC"


def day(seconds: float) -> str:
    """Returns the day of seconds since the epoch in words: 27 Nov 2026."""
    time = datetime.fromtimestamp(seconds, UTC)
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}"


def period(first: float, last: float) -> str:
    """Returns a span of days in words."""
    begun, ended = day(first), day(last)
    return begun if begun == ended else f"{begun} to {ended}"
