"""Passes: which records go through a model together.

A record is padded to a length that follows from its own, and shares a pass only with records that are
padded alike, so the shape of what it meets is a function of itself alone. A unit of several
records has a pass of its own, padded to its longest record. How many records share a pass bounds
time and memory, and changes no bit: `learning.passes.isolation` keeps them apart, and `Passes.limits` takes
back whatever a check finds not to be kept apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Short records share a pass of so many hidden values, tokens times width: more gains no time, and takes memory.
_HIDDEN = 1024 * 384
_MOST = 64
# Below so many tokens, lengths are rounded up to the next multiple of the second number.
_STEPS = ((64, 8), (128, 16), (256, 32))


def shortest_alone(width: int) -> int:
    """Returns the fewest tokens with which a record always has a pass of its own, in a model so wide."""
    return _HIDDEN // width // 4 + 1


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a record must have in common with those that share its pass.

    Attributes:
        tokens: Length to which it is padded; 0 for records that are not texts any more.
        padded: Whether it is shorter. Models treat a batch without any padding differently.
    """

    tokens: int
    padded: bool


EMBEDDED = Shape(0, padded=False)


@dataclass(slots=True)
class Passes:
    """Divides records into passes.

    Attributes:
        longest: Tokens that a record may have.
        width: Hidden values of a token.
        limits: Records in a pass at most, for shapes of which fewer can be kept apart.
    """

    longest: int
    width: int
    limits: dict[Shape, int] = field(default_factory=dict)

    def padded_length(self, tokens: int) -> int:
        """Returns the length to which a record of so many tokens is padded.

        One that could go without padding gets some all the same, so that there are fewer shapes.
        """
        for limit, step in _STEPS:
            if tokens < limit:
                return min((tokens // step + 1) * step, self.longest)
        return tokens

    def shape(self, tokens: int) -> Shape:
        """Returns the shape of a record of so many tokens."""
        length = self.padded_length(tokens)
        return Shape(length, padded=length != tokens)

    def shared_shapes(self) -> dict[Shape, list[int]]:
        """Returns the shapes of texts of which several may share a pass, each with its lengths."""
        lengths: dict[Shape, list[int]] = {}
        for tokens in range(1, self.longest + 1):
            lengths.setdefault(self.shape(tokens), []).append(tokens)
        return {shape: found for shape, found in lengths.items() if self.most(shape, _MOST) > 1}

    def most(self, shape: Shape, limit: int) -> int:
        """Returns how many records of a shape share a pass, a power of four of at most `limit`."""
        wanted = self._tokens // shape.tokens if shape.tokens else _MOST
        return _power_of_four(min(self.limits.get(shape, wanted), limit))

    def shared_tokens(self, most: int) -> int:
        """Returns the tokens of a pass that so many records share, at most."""
        return max(self.longest, min(self._tokens, most * self.longest))

    @property
    def _tokens(self) -> int:
        return _HIDDEN // self.width

    def divide(
        self, units: NDArray[np.int64], tokens: NDArray[np.int64], most: int
    ) -> Iterator[NDArray[np.int64]]:
        """Yields positions of records, int64 (members,): one unit, or units of one record each.

        Args:
            units: int64 (m,), each record's unit.
            tokens: int64 (m,), its length.
            most: Records that share a pass, if no single unit has more.
        """
        alike: dict[Shape, list[int]] = {}
        order = np.argsort(units, kind="stable")
        for members in np.split(order, 1 + np.flatnonzero(np.diff(units[order]))):
            if len(members) == 1:
                alike.setdefault(self.shape(int(tokens[members[0]])), []).append(int(members[0]))
            elif len(members) > 1:
                yield members
        for shape, positions in sorted(alike.items()):
            # Powers of four, so that few sizes have to be checked.
            limit = self.most(shape, most)
            start = 0
            while start < len(positions):
                size = min(limit, _power_of_four(len(positions) - start))
                yield np.array(positions[start : start + size], np.int64)
                start += size


def _power_of_four(number: int) -> int:
    """Returns the largest power of four up to a positive number, and 1 for 0."""
    return 1 << max(0, number.bit_length() - 1) // 2 * 2
