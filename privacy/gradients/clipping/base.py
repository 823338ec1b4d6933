"""What a clipping rule is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hortus.protocol.section import Kind
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from hortus.protocol.plan import Agreement


class Clipping(Kind):
    """A rule that looks at one unit's norms only, so that one unit never changes another's factor.

    The parameters are divided into groups; a group's part of a unit's gradient has one norm and one
    factor. What a rule bounds is thus ‖factor·g‖ ≤ factor·norm of each group.

    A rule that lets a unit add another norm than C has a field `unit_norm`, which states it; one whose C moves
    has fields `smallest` and `largest`, its bounds (`hortus.protocol.privacy.Privacy` reads them). So whoever audits
    holds charges against a contract without knowing the kind.

    Attributes:
        moves: Whether C follows what is summed. Then C is sent with each step, and each vector has one
            more word, the tally.
    """

    moves: ClassVar[bool] = False

    @abstractmethod
    def factors(self, norms: torch.Tensor, bound: float) -> torch.Tensor:
        """Returns the factors, float64 (groups, units).

        Args:
            norms: float64 (groups, units), never below the true norms, and above them by so much
                that float64 rounding cannot lift factor·gradient above factor·norm; infinite for
                a unit that adds nothing whatever its factor.
            bound: C.
        """

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns the group of each parameter, 0, 1, … without gaps: one for all.

        Args:
            names: Of the trainable parameters, sorted.
        """
        return [0] * len(names)

    def limit(self, bound: float) -> float:
        """Returns what one unit adds to a sum at most, in L2 norm, tally included: the section's `unit_norm`, or C."""
        return bound

    def scale(self, bound: float) -> float:  # noqa: ARG002 - others do
        """Returns what a sum of factor·g is to be multiplied by for a sum of gradients."""
        return 1.0

    def tally(self, norms: NDArray[np.float64], bound: float, grid: float) -> float:
        """Returns the last word of a vector where C moves: a sum over units, each term a multiple of the grid.

        Args:
            norms: float64 (groups, units), before clipping; infinite for a unit that adds nothing else.
            bound: C.
            grid: A power of two.
        """
        raise NotImplementedError

    def next_bound(self, bound: float, tally: float, nominal: float) -> float:
        """Returns the next C, where it moves.

        Args:
            bound: C.
            tally: The noisy sum of tallies.
            nominal: The public number of units that the sum is taken to be over.
        """
        raise NotImplementedError

    def fit(self, plan: Agreement) -> None:
        """Checks that the plan states what one unit adds at most: see `Kind`."""
        stated, own = plan.privacy.unit_norm, self.limit(plan.privacy.clipping_norm)
        if stated != own:
            raise UsageError(
                f"{self.kind} lets a unit add {own:g}, but the plan states {stated:g}",
                where="privacy.clipping.unit_norm",
            )

    def words(self, bound: float) -> str:
        """Describes it for `hortus plan`.

        Args:
            bound: C.
        """
        return f"{self.kind}, C = {bound:g}"

    def at(self, bound: float) -> ClippingAt:
        """Returns the rule with its C.

        Args:
            bound: C, or infinity for no clipping.

        Raises:
            UsageError: It is not positive.
        """
        if not bound > 0:
            raise UsageError(f"a clipping norm is positive, not {bound}")
        return ClippingAt(self, bound)


@dataclass(frozen=True, slots=True)
class ClippingAt:
    """A rule with its C.

    Attributes:
        rule: The rule.
        bound: C.
    """

    rule: Clipping
    bound: float

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns the group of each parameter: see `Clipping`."""
        return self.rule.groups(names)

    @property
    def limit(self) -> float:
        """What one unit adds at most: see `Clipping`."""
        return self.rule.limit(self.bound)

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Returns the factors, float64 (groups, units): see `Clipping`."""
        return self.rule.factors(norms, self.bound)
