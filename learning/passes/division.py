"""Passes: which records go through a model together.

A record is padded to a length that follows from its own, and shares a pass only with records that are
padded alike, so the shape of what it meets is a function of itself alone. A record of several sequences has a
length for each, and shares a pass only with records alike in all of them. A unit of several
records has a pass of its own, padded to its longest record. How many records share a pass bounds
time and memory, and changes no bit: `learning.passes.isolation` keeps them apart, and `Passes.limits` takes
back whatever a check finds not to be kept apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

# Short records share a pass of so many hidden values, tokens times width: more gains no time, and takes memory.
_HIDDEN = 1024 * 384
_MOST = 64
# Below so many tokens, lengths are rounded up to the next multiple of the second number.
_STEPS = ((64, 8), (128, 16), (256, 32))
# The same where records have several sequences: every combination of lengths is a shape to check.
_STEPS_OF_SEVERAL = ((32, 16), (256, 32))


def shortest_alone(width: int) -> int:
    """Returns the fewest tokens with which a record always has a pass of its own, in a model so wide."""
    return _HIDDEN // width // 4 + 1


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a record must have in common with those that share its pass.

    Attributes:
        tokens: Length to which it is padded; 0 for records that are not texts any more.
        padded: Whether it is shorter. Models treat a batch without any padding differently.
        further: The same of its further sequences.
    """

    tokens: int
    padded: bool
    further: "tuple[Shape, ...]" = ()

    @property
    def total(self) -> int:
        """Tokens of all its sequences."""
        return self.tokens + sum(one.tokens for one in self.further)


EMBEDDED = Shape(0, padded=False)


@dataclass(slots=True)
class Passes:
    """Divides records into passes.

    Attributes:
        longest: Tokens that a record may have.
        width: Hidden values of a token.
        further: Tokens that each of its further sequences may have.
        limits: Records in a pass at most, for shapes of which fewer can be kept apart.
    """

    longest: int
    width: int
    further: tuple[int, ...] = ()
    limits: dict[Shape, int] = field(default_factory=dict)

    @property
    def largest(self) -> tuple[int, ...]:
        """Tokens that each sequence of a record may have."""
        return (self.longest, *self.further)

    def padded_lengths(self, *tokens: int) -> tuple[int, ...]:
        """Returns the lengths to which a record's sequences of so many tokens are padded.

        One that could go without padding gets some all the same, so that there are fewer shapes.
        """
        return tuple(map(self._padded_length, tokens, self.largest))

    def _padded_length(self, tokens: int, longest: int) -> int:
        for limit, step in _STEPS_OF_SEVERAL if self.further else _STEPS:
            if tokens < limit:
                return min((tokens // step + 1) * step, longest)
        return tokens

    def shape(self, *tokens: int) -> Shape:
        """Returns the shape of a record whose sequences have so many tokens."""
        first, *further = map(_shape, self.padded_lengths(*tokens), tokens)
        return Shape(first.tokens, first.padded, tuple(further))

    def shared_shapes(self) -> dict[Shape, list[tuple[int, ...]]]:
        """Returns the shapes of texts of which several may share a pass, each with lengths of its records'.

        Of a text of one sequence those are all lengths; of several, some of each.
        """
        shapes: dict[Shape, list[tuple[int, ...]]] = {}
        for lengths in product(*(self._lengths(longest) for longest in self.largest)):
            shapes.setdefault(self.shape(*lengths), []).append(lengths)
        return {shape: found for shape, found in shapes.items() if self.most(shape, _MOST) > 1}

    def _lengths(self, longest: int) -> list[int]:
        """Returns lengths among which are all shapes of a sequence."""
        if not self.further:
            return list(range(1, longest + 1))
        by_shape: dict[Shape, list[int]] = {}
        for tokens in range(1, min(longest, self._tokens // 4) + 1):  # what is longer is alone
            shape = _shape(self._padded_length(tokens, longest), tokens)
            by_shape.setdefault(shape, []).append(tokens)
        few = (sorted({found[0], found[-1]}) for found in by_shape.values())
        return [tokens for found in few for tokens in found]

    def most(self, shape: Shape, limit: int) -> int:
        """Returns how many records of a shape share a pass, a power of four of at most `limit`."""
        wanted = self._tokens // shape.total if shape.total else _MOST
        return _power_of_four(min(self.limits.get(shape, wanted), limit))

    def shared_tokens(self, most: int) -> int:
        """Returns the tokens of a pass that so many records share, at most."""
        largest = sum(self.largest)
        return max(largest, min(self._tokens, most * largest))

    @property
    def _tokens(self) -> int:
        return _HIDDEN // self.width

    def divide(
        self, units: NDArray[np.int64], tokens: NDArray[np.int64], most: int
    ) -> Iterator[NDArray[np.int64]]:
        """Yields positions of records, int64 (members,): one unit, or units of one record each.

        Args:
            units: int64 (m,), each record's unit.
            tokens: int64 (m, sequences), the lengths of its sequences.
            most: Records that share a pass, if no single unit has more.
        """
        if len(units) == 0:
            return
        alike: dict[Shape, list[int]] = {}
        order = np.argsort(units, kind="stable")
        for members in np.split(order, 1 + np.flatnonzero(np.diff(units[order]))):
            if len(members) == 1:
                shape = self.shape(*tokens[members[0]].tolist()) if tokens.any() else EMBEDDED
                alike.setdefault(shape, []).append(int(members[0]))
            else:
                yield members
        for shape, positions in sorted(alike.items()):
            # Powers of four, so that few sizes have to be checked.
            limit = self.most(shape, most)
            start = 0
            while start < len(positions):
                size = min(limit, _power_of_four(len(positions) - start))
                yield np.array(positions[start : start + size], np.int64)
                start += size


def _shape(length: int, tokens: int) -> Shape:
    """Returns the shape of one sequence."""
    return Shape(length, padded=length != tokens)


def _power_of_four(number: int) -> int:
    """Returns the largest power of four up to a positive number, and 1 for 0."""
    return 1 << max(0, number.bit_length() - 1) // 2 * 2
