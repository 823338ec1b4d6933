"""How one step's update becomes a ring vector at a site, and the mean update at the server.

Both ends derive it from the contract alone; the session descriptor repeats the scale, and a site
refuses a descriptor whose scale is not its own.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.accounting import GaussianEvent
from hortus.privacy.mechanism import FixedPoint, Mechanism
from hortus.protocol.plan import Agreement, Contract, Noise, Update

# Largest coordinate of an update that carries no noise of its own at upload.
_PLAIN_MAGNITUDE = 16.0


@dataclass(frozen=True, slots=True)
class StepEncoding:
    """The numbers of a step.

    Attributes:
        contract: The approved plan.
        mechanism: The private step's mechanism; None for `unsafe_none`.
        fixed_point: For vectors that need no more noise: deltas, and everything of `unsafe_none`.
    """

    contract: Contract
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
            distributed = privacy.noise is Noise.DISTRIBUTED
            mechanism = Mechanism.design(
                clipping_norm=privacy.clipping_norm,
                noise_multiplier=privacy.noise_multiplier,
                dimension=dimension,
                shares=contract.cohort.min_honest if distributed else 1,
                cohort=cohort,
                max_batch=_largest_batch(contract),
            )
        return cls(contract, mechanism, FixedPoint.for_magnitude(_PLAIN_MAGNITUDE, cohort))

    @property
    def plain(self) -> bool:
        """Whether the uploaded vector carries no noise of its own."""
        return self.mechanism is None or self.contract.training.update is Update.DELTA

    @property
    def scale(self) -> int:
        """Ring units for 1.0 in an uploaded vector."""
        return self.fixed_point.scale if self.plain or not self.mechanism else self.mechanism.scale

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

    def server_gradient(self, total: NDArray[np.uint32], sites: int) -> NDArray[np.float64]:
        """Returns what the server's optimiser steps against.

        Args:
            total: uint32[d], the ring sum of a step.
            sites: Sites whose vectors are in it.
        """
        codec = self.fixed_point if self.plain or not self.mechanism else self.mechanism
        decoded = codec.decode(total)
        if self.contract.training.update is Update.DELTA:
            return -decoded / sites
        return decoded / sites if self.plain else self.mean_gradient(decoded, sites)


def nominal_batch(plan: Agreement) -> float:
    """Returns the public expectation of a site's batch: q times the nominal number of units."""
    return plan.training.sampling_rate * plan.training.nominal_units


def sums_per_round(plan: Agreement) -> int:
    """Returns the secure sums in a round."""
    return 1 if plan.training.update is Update.DELTA else plan.training.steps_per_round


def releases_per_sum(plan: Agreement) -> int:
    """Returns the private steps that one secure sum releases."""
    return plan.training.steps_per_round // sums_per_round(plan)


def _largest_batch(plan: Agreement) -> int:
    # Four times the nominal batch and twelve standard deviations: room for a site larger than told.
    batch = 4 * nominal_batch(plan)
    return math.ceil(batch + 12 * math.sqrt(batch))
