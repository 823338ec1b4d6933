"""How a site reads its own file: which column is what a plan calls by another name, and what is masked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hortus.learning.data.identifiers import in_texts
from hortus.runtime.errors import UsageError


@dataclass(frozen=True, slots=True)
class View:
    """How a file is read.

    Attributes:
        columns: The file's columns by the plan's names for them; others have one name.
        mask: What becomes of each text.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    mask: Callable[[str], str] | None = None

    def sources(self, names: Sequence[str]) -> list[str]:
        """Returns what the file calls a plan's columns."""
        return [self.columns.get(name, name) for name in names]

    def of(self, row: Mapping[str, Any], texts: Collection[str] = ()) -> dict[str, Any]:
        """Returns a row as a plan names its columns.

        Args:
            row: As the file has it.
            texts: The plan's names of columns whose texts are masked.
        """
        named = {name: row[source] for name, source in self.columns.items() if source in row}
        seen = {**row, **named}
        if self.mask is None:
            return seen
        return {
            name: in_texts(cell, self.mask) if name in texts else cell
            for name, cell in seen.items()
        }

    def explained(self, error: UsageError) -> UsageError:
        """Returns an error of a file in the file's own names."""
        problem, where = error.problem, error.where or ""
        for name, source in self.columns.items():
            if name != source:
                missing = f"there is no column {source!r}"
                problem = problem.replace(missing, f"{missing}, which is to be the plan's {name!r}")
                if where.endswith(f"column {name!r}"):
                    own = f"column {source!r} (the plan's {name!r})"
                    where = where.removesuffix(f"column {name!r}") + own
                    break
        return UsageError(problem, where=where or None, remedy=error.remedy)


AS_IT_IS = View()
"""A file whose columns are the plan's own."""
