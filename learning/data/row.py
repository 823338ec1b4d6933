"""What every reader of a format yields."""

from collections.abc import Sequence
from typing import Any

from hortus.runtime.errors import UsageError

Row = tuple[str, dict[str, Any]]
"""Where the row is, such as "line 3", as an editor counts, or "row 2"; and its columns."""


def check_distinct(columns: Sequence[str], where: str) -> None:
    """Raises UsageError where two columns have one name."""
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise UsageError(f"the column {twice!r} comes twice", where=where)
