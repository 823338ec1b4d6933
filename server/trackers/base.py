"""What a tracker is: it opens a log of a run, and is given numbers after each round."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from hortus.protocol.section import Kind


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is reported of a run: public numbers and words alone.

    Attributes:
        run: Its id, the same at every start.
        name: The plan's.
        parameters: The plan's values by dotted name.
        folder: A folder within the run's own for the tracker's files.
        next_round: The first round that has not been reported, from 1.
    """

    run: str
    name: str
    parameters: Mapping[str, str]
    folder: Path
    next_round: int


class Log(Protocol):
    """An open log of one run."""

    def add(self, number: int, values: Mapping[str, float]) -> None:
        """Adds a round's numbers, by name; rounds count from 1."""
        ...

    def close(self) -> None:
        """Writes what is missing."""
        ...


class Tracker(Kind):
    """The base of every tracker. Its file imports no client before a log is opened."""

    client: ClassVar[str]
    """The package that it is imported from."""

    @abstractmethod
    def open(self, tracked: Tracked) -> Log:
        """Opens a run's log, or continues it where an earlier start has left it."""
