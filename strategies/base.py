"""What a strategy is: what a site computes for one secure sum, and what the server makes of the sum.

Both halves stand in one class, so that they cannot disagree. Neither sees a record. A site's half gets a
`LocalStep`, whose private steps are the ones that the site's ledger is charged for, and it gets no more of
them than that; the server's half gets the decoded mean. Whatever a strategy computes is thus
post-processing, and ε follows from the plan's plain numbers alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.protocol.plan import Agreement
from hortus.protocol.privacy import Noise
from hortus.protocol.section import Kind
from hortus.runtime.errors import UsageError
from hortus.strategies.optimizers.base import Optimizer
from hortus.strategies.optimizers.kinds import AnyOptimizer
from hortus.strategies.optimizers.torch_optim import Adam

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hortus.privacy.noise.mechanism import FixedPoint, Mechanism
    from hortus.privacy.step import PrivateStep
    from hortus.strategies.local_step import LocalStep


class Strategy(Kind):
    """An algorithm of federated training.

    Attributes:
        sums_releases: Whether what is summed are private steps' releases as they are. Then any mode of noise will do,
            and a sum takes one step. Otherwise a site looks at its own steps before anything is summed: each
            must be private with the site's own noise alone, and the sum carries none of its own.
    """

    sums_releases: ClassVar[bool]
    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        {
            "server_optimizer": "it is the server's own and steps with what sites have already released"
        }
    )

    server_optimizer: AnyOptimizer = Field(
        default_factory=Adam, description="What the server steps with."
    )

    @abstractmethod
    def local(self, step: LocalStep) -> NDArray[np.int64]:
        """Returns what a site adds to one secure sum, int64[words]."""

    def pseudo_gradient(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns what the server's optimiser steps against, float64[d].

        Args:
            mean: float64[d], the mean of what sites added: where releases are summed, the mean gradient.
        """
        return mean

    def codec(self, encoding: PrivateStep) -> Mechanism | FixedPoint:
        """Returns what a sum is decoded with; its scale is in the session's descriptor."""
        return encoding.codec if self.sums_releases else encoding.fixed_point

    @property
    @abstractmethod
    def words(self) -> str:
        """What a site does with the private steps of a sum, in sentences for `hortus plan show`."""

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimisers of either side, by field."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in fields.items() if isinstance(value, Optimizer)}

    def fit(self, plan: Agreement) -> None:
        """Checks the strategy against the rest of its plan: see `Kind`."""
        steps = plan.training.local_steps
        if self.sums_releases:
            if steps > 1:
                raise UsageError(
                    f"{self.kind} sums single steps, so it does not work with {steps} steps for a sum",
                    where="training.local_steps",
                    remedy="Leave it at 1 and set training.steps_per_round, or use strategy.kind: fedavg.",
                )
            return
        if plan.privacy.noise is Noise.DISTRIBUTED:
            raise UsageError(
                f"{self.kind} needs a site's own noise: the noise of others does not protect its local steps",
                where="privacy.noise",
                remedy="Set it to local, or use strategy.kind: fedsgd.",
            )
        if CLIPPINGS.parse(plan.privacy.clipping).moves:
            raise UsageError(
                f"{self.kind} does not work with a clipping norm that adapts: the server sees no count of a "
                "site's local steps",
                where="privacy.clipping.kind",
                remedy="Use another rule, or strategy.kind: fedsgd.",
            )
