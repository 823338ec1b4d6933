"""What a parameter's units contribute to a clipped sum: three exact forms of per-unit gradients.

Every form answers the same two questions: the squared norm of each unit's gradient, and the sum of
the gradients weighted by factors that are known only when all parameters' norms are. Both in float64,
about the same float32 numbers: the norm of what is summed is the norm that was computed.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

# Elements of a Gram matrix that are held at once.
_GRAM_ELEMENTS = 2**22
_UNIT_ROUNDOFF = 2.0**-53


class Contribution(Protocol):
    """One parameter's gradients for the units of a batch."""

    def squared_norms(self) -> torch.Tensor:
        """Returns ‖gᵤ‖₂² or a little more, float64 (units,): less by float64 rounding only."""
        ...

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Adds Σ factorᵤ·gᵤ; a unit whose factor is 0 adds nothing even where it is not finite.

        Args:
            total: float64 (size,), the flat parameter.
            factors: float64 (units,).
        """
        ...

    def dense(self) -> torch.Tensor:
        """Returns the gradients themselves, float32 (units, size)."""
        ...


def combined(first: Contribution, second: Contribution) -> Contribution:
    """Adds the contributions of two uses of one parameter, before any norm is taken."""
    return Dense(first.dense() + second.dense())


@dataclass(frozen=True, slots=True)
class Dense:
    """The gradients one below the other: cheapest where a parameter is smaller than its activations.

    Attributes:
        gradients: (units, size).
    """

    gradients: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """Returns ‖gᵤ‖₂², float64 (units,); the squares of float32 numbers are exact."""
        return self.gradients.to(torch.float64).square().sum(1)

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Adds Σ factorᵤ·gᵤ."""
        total.add_(factors @ _without(self.gradients, factors).to(torch.float64))

    def dense(self) -> torch.Tensor:
        """Returns the gradients."""
        return self.gradients


@dataclass(frozen=True, slots=True)
class Rows:
    """The gradients of a table of which a unit uses a few rows.

    Attributes:
        unit: int64 (n,), the unit that a row's gradient belongs to.
        row: int64 (n,), which row; a pair of unit and row occurs once.
        gradients: (n, width).
        units: Number of units.
        height: Rows of the table.
        transposed: Whether the parameter is the table's transpose.
    """

    unit: torch.Tensor
    row: torch.Tensor
    gradients: torch.Tensor
    units: int
    height: int
    transposed: bool

    def squared_norms(self) -> torch.Tensor:
        """Returns ‖gᵤ‖₂², float64 (units,)."""
        squares = self.gradients.to(torch.float64).square().sum(1)
        return squares.new_zeros(self.units).index_add_(0, self.unit, squares)

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Adds Σ factorᵤ·gᵤ."""
        width = self.gradients.shape[1]
        table = total.view(width, self.height).T if self.transposed else total.view(-1, width)
        weights = factors[self.unit]
        weighted = _without(self.gradients, weights).to(torch.float64) * weights.unsqueeze(1)
        table.index_add_(0, self.row, weighted)

    def dense(self) -> torch.Tensor:
        """Returns the gradients as whole tables."""
        width = self.gradients.shape[1]
        tables = self.gradients.new_zeros(self.units * self.height, width)
        tables[self.unit * self.height + self.row] = self.gradients
        tables = tables.view(self.units, self.height, width)
        return (tables.mT if self.transposed else tables).reshape(self.units, -1)


@dataclass(frozen=True, slots=True)
class Factored:
    """Gradients Σₜ leftₜ ⊗ rightₜ that are never formed: a large matrix, few tokens.

    Norms come from Gram matrices (Goodfellow 2015; Li et al. 2022, Section 4), the sum from one
    weighted product of what was kept (book-keeping; Bu et al. 2023). The gradient is the real
    matrix that the float32 factors stand for. It is not float32 itself, so both are float64, and
    the Gram sum, which can cancel, is raised by a bound on its own rounding error.

    Attributes:
        left: (records, tokens, rows).
        right: (records, tokens, columns).
        unit: int64 (records,).
        units: Number of units.
    """

    left: torch.Tensor
    right: torch.Tensor
    unit: torch.Tensor
    units: int

    def squared_norms(self) -> torch.Tensor:
        """Returns at least ‖gᵤ‖₂², float64 (units,).

        With n-term dot products off by at most γₙ = n·2⁻⁵³/(1 − n·2⁻⁵³) of the sum of magnitudes,
        in any order of summation (Higham 2002, Section 3.1), the double sum over tokens t, s of
        ⟨leftₜ, leftₛ⟩⟨rightₜ, rightₛ⟩ is off by at most γ_k·(Σₜ ‖leftₜ‖‖rightₜ‖)², where k is
        rows + columns + tokens² and a few. Twice that is added.
        """
        norms = self.left.new_zeros(self.units, dtype=torch.float64)
        counts = torch.bincount(self.unit, minlength=self.units)
        order = torch.argsort(self.unit, stable=True)
        for count in torch.unique(counts[counts > 0]).tolist():
            # Units with equally many records, so that they are a batch: (units, count·tokens, …)
            members = torch.nonzero(counts == count).squeeze(1)
            records = order[torch.isin(self.unit[order], members)].view(-1, count)
            tokens = count * self.left.shape[1]
            at_once = max(1, _GRAM_ELEMENTS // tokens**2)
            for start in range(0, len(members), at_once):
                chosen = records[start : start + at_once]
                left = self.left[chosen].flatten(1, 2).to(torch.float64)
                right = self.right[chosen].flatten(1, 2).to(torch.float64)
                norms[members[start : start + at_once]] = _gram_bound(left, right)
        return norms

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Adds Σ factorᵤ·gᵤ."""
        weights = factors[self.unit]
        left = _without(self.left, weights).to(torch.float64) * weights[:, None, None]
        right = _without(self.right, weights).to(torch.float64)
        total.view(left.shape[2], -1).addmm_(left.flatten(0, 1).T, right.flatten(0, 1))

    def dense(self) -> torch.Tensor:
        """Returns the gradients, formed after all."""
        formed = torch.bmm(self.left.mT, self.right).flatten(1)
        return formed.new_zeros(self.units, formed.shape[1]).index_add_(0, self.unit, formed)


def _gram_bound(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns at least ‖Σₜ leftₜ ⊗ rightₜ‖², float64 (units,), of float64 (units, tokens, …)."""
    tokens = left.shape[1]
    terms = left.shape[2] + right.shape[2] + tokens**2 + 8
    gram = torch.bmm(left, left.mT).mul_(torch.bmm(right, right.mT)).sum((1, 2))
    magnitude = (left.norm(dim=2) * right.norm(dim=2)).sum(1).square()
    bound: torch.Tensor = gram + 2 * terms * _UNIT_ROUNDOFF * magnitude
    return bound


def _without(gradients: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns gradients, (n, …), with zeros where the weight, (n,), is 0: 0·∞ is not 0."""
    kept = weights != 0
    if bool(kept.all()):
        return gradients
    return torch.where(kept.view(-1, *[1] * (gradients.dim() - 1)), gradients, 0)
