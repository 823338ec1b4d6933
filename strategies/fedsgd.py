"""Distributed DP-SGD (FedSGD, McMahan et al. 2017): each secure sum is one private gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from hortus.strategies.base import Strategy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hortus.strategies.local_step import LocalStep


class FedSGD(Strategy):
    """Every sum is one private step: sites send clipped gradients, and the server steps against their mean."""

    kind: Literal["fedsgd"] = "fedsgd"
    sums_releases: ClassVar[bool] = True

    def local(self, step: LocalStep) -> NDArray[np.int64]:
        """Returns the step as it is."""
        return step.release()

    @property
    def words(self) -> str:
        """Describes it: see `Strategy`."""
        return "The site sends the result of that step, and the server steps against the mean."
