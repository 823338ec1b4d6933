"""A parser under test: what it may be given, and what it must never do with it."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzzing.mutation import Change
from google.protobuf.message import DecodeError

from hortus.runtime.errors import HortusError

TAKEN = "taken"
_ROOT = Path(__file__).parents[2]


class Accepted(AssertionError):  # noqa: N818 - a verdict
    """Something was taken that must not be."""


class Documented(Exception):  # noqa: N818 - an answer, not a fault
    """A refusal in other words than those of `runtime.errors`, which its parser documents."""


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser.

    Attributes:
        name: What it reads.
        seeds: Inputs that it takes.
        change: Makes other inputs of one.
        read: Gives it an input. Returns, or raises one of our errors, or `Documented`; raises `Accepted`
            where it was taken and must not be. Anything else is a crash.
        share: How many inputs it gets of what a fast parser gets.
    """

    name: str
    seeds: tuple[bytes, ...]
    change: Change
    read: Callable[[bytes], None]
    share: float = 1.0

    def make(self, chance: Random) -> bytes:
        """Returns a changed seed."""
        data = chance.choice(self.seeds)
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = self.change(data, chance)
        return data

    def outcome(self, data: bytes) -> str:
        """Reads an input; returns `TAKEN`, or where it was refused.

        Raises:
            Exception: It crashed, or took what it must not.
        """
        try:
            self.read(data)
        except (HortusError, Documented, DecodeError) as error:
            return f"{type(error).__name__} {place(error)}"
        return TAKEN


def place(error: BaseException) -> str:
    """Returns the line of the project that raised an error last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)] or list(frames)
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "nowhere"


def _is_own(filename: str) -> bool:
    parts = Path(filename).parts
    return "hortus" in parts or (str(_ROOT) in filename and ".venv" not in parts)


def must(holds: bool, what: str) -> None:
    """Raises Accepted unless it holds."""
    if not holds:
        raise Accepted(what)
