"""How one step's update becomes a ring vector at a site, and the mean update at the server.

Both ends derive it from the contract alone; the session descriptor repeats the scale, and a site
refuses a descriptor whose scale is not its own.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.gradients.adaptive_clipping import AdaptiveClipping
from hortus.privacy.gradients.clipping import (
    AutomaticClipping,
    Clipping,
    FlatClipping,
    PerLayerClipping,
    UnitClipping,
)
from hortus.privacy.gradients.engine import FINE_GRID, ClippedSum
from hortus.privacy.noise.mechanism import FixedPoint, Mechanism
from hortus.protocol.plan import Agreement, ClippingRule, Contract, Noise
from hortus.runtime.errors import ProtocolError

# Largest coordinate of an update that carries no noise of its own at upload.
_PLAIN_MAGNITUDE = 16.0


@dataclass(frozen=True, slots=True)
class StepEncoding:
    """The numbers of a step.

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
    def of(cls, contract: Contract, dimension: int, cohort: int) -> "StepEncoding":
        """Derives the encoding.

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
            adaptive = _adaptive(contract)
            distributed = privacy.noise is Noise.DISTRIBUTED
            mechanism = Mechanism.design(
                clipping_norm=adaptive.unit_norm if adaptive else privacy.clipping_norm,
                noise_multiplier=privacy.noise_multiplier,
                dimension=dimension + (1 if adaptive else 0),
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
    def adaptive(self) -> AdaptiveClipping | None:
        """How the clipping norm moves; None where it does not."""
        return _adaptive(self.contract) if self.mechanism else None

    @property
    def words(self) -> int:
        """Words of a vector, up and down: d, and one more where the clipping norm moves."""
        return self.dimension + (1 if self.adaptive else 0)

    def start(self, adapter: NDArray[np.float32], clipping_norm: np.float32) -> NDArray[np.float32]:
        """Returns what a step starts from, as it is sent to sites, float32[words]."""
        return np.append(adapter, clipping_norm) if self.adaptive else adapter

    def clipping_norm(self, start: NDArray[np.float32]) -> float:
        """Returns C of a step.

        Raises:
            ProtocolError: It is not within the plan's bounds.
        """
        adaptive = self.adaptive
        if adaptive is None:
            return self.contract.privacy.clipping_norm
        norm = float(start[-1])
        # A float32 of a bound may lie beside it by its rounding.
        if not adaptive.smallest * (1 - 1e-6) <= norm <= adaptive.largest * (1 + 1e-6):
            raise ProtocolError(
                f"the clipping norm received is {norm:g}, not from {adaptive.smallest:g} to "
                f"{adaptive.largest:g}"
            )
        return norm

    def clipping(self, clipping_norm: float) -> Clipping:
        """Returns the rule that units' gradients are clipped with."""
        privacy = self.contract.privacy
        if self.mechanism is None:
            return FlatClipping(math.inf)
        match privacy.clipping.rule:
            case ClippingRule.FLAT:
                return FlatClipping(clipping_norm)
            case ClippingRule.PER_LAYER:
                return PerLayerClipping(clipping_norm)
            case ClippingRule.AUTOMATIC:
                return AutomaticClipping(clipping_norm, privacy.clipping.stability or 0.0)
            case ClippingRule.ADAPTIVE:
                return UnitClipping(clipping_norm)

    def addend(self, clipped: ClippedSum, clipping_norm: float) -> NDArray[np.float64]:
        """Returns the clipped sum as the mechanism takes it, float64[words]."""
        if self.adaptive is None:
            return clipped.total
        count = self.adaptive.count(clipped.norms[0], clipping_norm, self.grid)
        return np.append(clipped.total, count)

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
        """Divides a sum of gradients by the public nominal batch of so many sites."""
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
        unit = float(clipping_norm) if self.adaptive else 1.0
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
        if self.adaptive is None:
            return self.mean_gradient(decoded, sites), clipping_norm
        gradient = float(clipping_norm) * self.mean_gradient(decoded[:-1], sites)
        nominal = nominal_batch(self.contract) * sites
        return gradient, self.adaptive.next_norm(float(clipping_norm), decoded[-1], nominal)


def _adaptive(contract: Contract) -> AdaptiveClipping | None:
    clipping = contract.privacy.clipping
    return AdaptiveClipping.of(clipping) if clipping.rule is ClippingRule.ADAPTIVE else None


def nominal_batch(plan: Agreement) -> float:
    """Returns the public expectation of a site's batch: q times the nominal number of units."""
    return plan.training.sampling_rate * plan.training.nominal_units


def largest_batch(plan: Agreement) -> int:
    """Returns the units that the ring has room for in a site's batch."""
    # Four times the nominal batch and twelve standard deviations: room for a site larger than told.
    batch = 4 * nominal_batch(plan)
    return math.ceil(batch + 12 * math.sqrt(batch))
