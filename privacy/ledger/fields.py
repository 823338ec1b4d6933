"""What the fields of a ledger's entries may hold."""

import re
from enum import StrEnum

# What float64 and SQLite count exactly, and what no plan asks for.
MOST_COUNT = 2**31
_MOST_REASON, _MOST_UNIT, _MOST_NAME = 500, 200, 100
_HEX = re.compile(r"[0-9a-f]+")


def check_hex(name: str, value: str, digits: int) -> None:
    """Raises ValueError unless a value is this many hexadecimal digits."""
    if len(value) != digits or not _HEX.fullmatch(value):
        raise ValueError(f"{name}: {value[:70]!r} is not {digits} hexadecimal digits")


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raises ValueError unless a number is within bounds."""
    if not least <= value <= most:  # nor is NaN
        raise ValueError(f"{name}: {value!r:.40} is not from {least:g} to {most:g}")


def check_member(name: str, value: str, kind: type[StrEnum]) -> None:
    """Raises ValueError unless a value is one of an enumeration."""
    if value not in [member.value for member in kind]:
        raise ValueError(f"{name}: {value[:70]!r} is not among {', '.join(kind)}")


def check_unit(unit: str) -> None:
    """Raises ValueError unless a privacy unit has a usable name."""
    if not 1 <= len(unit) <= _MOST_UNIT:
        raise ValueError(f"unit: a unit has 1 to {_MOST_UNIT} characters")


def check_name(what: str, name: str) -> None:
    """Raises ValueError unless a name has a usable length."""
    if not 1 <= len(name.strip()) <= _MOST_NAME:
        raise ValueError(f"{what} has 1 to {_MOST_NAME} characters")


def check_reason(reason: str) -> None:
    """Raises ValueError unless a reason has a usable length."""
    if not 1 <= len(reason.strip()) <= _MOST_REASON:
        raise ValueError(f"a reason has 1 to {_MOST_REASON} characters")
