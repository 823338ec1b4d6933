"""How one step's update becomes a ring vector at a site, and the mean update at the server.

Both ends derive it from the contract alone; the session descriptor repeats the scale, and a site
refuses a descriptor whose scale is not its own.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.gradients.clipping.base import Clipping, ClippingAt
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.gradients.engine import FINE_GRID, ClippedSum
from hortus.privacy.noise.mechanism import FixedPoint, Mechanism
from hortus.protocol.plan import Agreement, Contract
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import ProtocolError

# Largest coordinate of an update that carries no noise of its own at upload.
_PLAIN_MAGNITUDE = 16.0


@dataclass(frozen=True, slots=True)
class PrivateStep:
    """One private step of a contract, alike at both ends: clipping, noise, rounding, and what it is charged as.

    Attributes:
        contract: The approved plan.
        dimension: d, the number of adapter parameters.
        mechanism: The private step's mechanism; None for `unsafe_none`.
        fixed_point: For vectors that need no more noise: what was made of releases, and everything of
            `unsafe_none`.
    """

    contract: Contract
    dimension: int
    mechanism: Mechanism | None
    fixed_point: FixedPoint

    @classmethod
    def of(cls, contract: Contract, dimension: int, cohort: int) -> "PrivateStep":
        """Derives the step.

        Args:
            contract: The approved plan.
            dimension: Adapter parameters.
            cohort: Sites in the session.

        Raises:
            UsageError: The ring is too small for the plan.
        """
        mechanism = None
        privacy = contract.privacy
        if privacy.noise_multiplier is not None:
            rule = CLIPPINGS.parse(privacy.clipping)
            distributed = privacy.noise is Noise.DISTRIBUTED
            mechanism = Mechanism.design(
                clipping_norm=rule.limit(privacy.clipping_norm),
                noise_multiplier=privacy.noise_multiplier,
                dimension=dimension + rule.moves,
                shares=contract.cohort.min_honest if distributed else 1,
                cohort=cohort,
                max_batch=largest_batch(contract),
                ring_bits=privacy.ring_bits,
            )
        fixed_point = FixedPoint.for_magnitude(_PLAIN_MAGNITUDE, cohort, privacy.ring_bits)
        return cls(contract, dimension, mechanism, fixed_point)

    @property
    def codec(self) -> Mechanism | FixedPoint:
        """What a step's release is a vector of."""
        return self.mechanism or self.fixed_point

    @property
    def rule(self) -> Clipping:
        """How units' gradients are clipped; not at all without a mechanism."""
        return CLIPPINGS.parse(self.contract.privacy.clipping) if self.mechanism else FlatClipping()

    @property
    def words(self) -> int:
        """Words of a vector, up and down: d, and one more where the clipping norm moves."""
        return self.dimension + self.rule.moves

    def start(self, adapter: NDArray[np.float32], clipping_norm: np.float32) -> NDArray[np.float32]:
        """Returns what a step starts from, as it is sent to sites, float32[words]."""
        return np.append(adapter, clipping_norm) if self.rule.moves else adapter

    def clipping_norm(self, start: NDArray[np.float32]) -> float:
        """Returns C of a step.

        Raises:
            ProtocolError: It is not within the plan's bounds.
        """
        privacy = self.contract.privacy
        if not self.rule.moves:
            return privacy.clipping_norm
        norm, (smallest, largest) = float(start[-1]), privacy.norm_bounds
        # A float32 of a bound may lie beside it by its rounding.
        if not smallest * (1 - 1e-6) <= norm <= largest * (1 + 1e-6):
            raise ProtocolError(
                f"the clipping norm received is {norm:g}, not from {smallest:g} to {largest:g}"
            )
        return norm

    def clipping(self, clipping_norm: float) -> ClippingAt:
        """Returns the rule that units' gradients are clipped with."""
        return self.rule.at(clipping_norm if self.mechanism else math.inf)

    def addend(self, clipped: ClippedSum, clipping_norm: float) -> NDArray[np.float64]:
        """Returns the clipped sum as the mechanism takes it, float64[words]."""
        if not self.rule.moves:
            return clipped.total
        return np.append(clipped.total, self.rule.tally(clipped.norms, clipping_norm, self.grid))

    @property
    def grid(self) -> float:
        """What each unit's contribution to a clipped sum is a multiple of."""
        return self.mechanism.grid if self.mechanism else FINE_GRID

    @property
    def event(self) -> GaussianEvent | None:
        """What one private step is to an accountant; None for `unsafe_none`."""
        if self.mechanism is None:
            return None
        return GaussianEvent(
            self.contract.training.sampling_rate, self.mechanism.effective_noise_multiplier
        )

    def mean_gradient(self, total: NDArray[np.float64], sites: int) -> NDArray[np.float64]:
        """Divides a sum of gradients by the public nominal batch of this many sites."""
        return total / (nominal_batch(self.contract) * sites)

    def noise_deviation(self, sites: int, clipping_norm: np.float32) -> float:
        """Returns the standard deviation of the noise in each coordinate of a sum's mean gradient.

        0 where a step has no noise.

        Args:
            sites: Sites whose releases are in the sum.
            clipping_norm: C of the step.
        """
        if self.mechanism is None:
            return 0.0
        unit = self.rule.scale(float(clipping_norm))
        deviation = self.mechanism.share_std / self.mechanism.scale * math.sqrt(sites)
        return unit * deviation / (nominal_batch(self.contract) * sites)

    def mean_release(
        self, total: NDArray[np.uint32], sites: int, clipping_norm: np.float32
    ) -> tuple[NDArray[np.float64], np.float32]:
        """Returns the mean gradient of summed releases, float64[d], and the next clipping norm.

        Args:
            total: uint32[words], the ring sum of a step.
            sites: Sites whose releases are in it.
            clipping_norm: C of the step.
        """
        decoded = self.codec.decode(total)
        if self.mechanism is None:
            return decoded / sites, clipping_norm
        rule, norm = self.rule, float(clipping_norm)
        gradient = rule.scale(norm) * self.mean_gradient(decoded[: self.dimension], sites)
        if not rule.moves:
            return gradient, clipping_norm
        nominal = nominal_batch(self.contract) * sites
        return gradient, np.float32(rule.next_bound(norm, float(decoded[-1]), nominal))


def nominal_batch(plan: Agreement) -> float:
    """Returns the public expectation of a site's batch: q times the nominal number of units."""
    return plan.training.sampling_rate * plan.training.nominal_units


def largest_batch(plan: Agreement) -> int:
    """Returns the units that the ring has room for in a site's batch."""
    # Four times the nominal batch and twelve standard deviations: room for a site larger than told.
    batch = 4 * nominal_batch(plan)
    return math.ceil(batch + 12 * math.sqrt(batch))
