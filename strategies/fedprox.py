"""FedProx (Li et al. 2020): federated averaging whose sites stay near what the server sent.

A site minimises its loss plus μ/2·‖w − w₀‖², w₀ being the start. That term's gradient, μ·(w − w₀), depends on no
record: it is computed from the site's own private steps and is post-processing. So it is added after the
noise, neither clipped nor charged, and the cost is that of `fedavg`. With μ = 0 it is `fedavg`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from hortus.strategies.fedavg import FedAvg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FedProx(FedAvg):
    """FedAvg with a proximal term, for sites whose records differ (Li et al. 2020; noise `local` only)."""

    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        {"mu": "its gradient depends on no record and costs nothing", **FedAvg.unread}
    )

    kind: Literal["fedprox"] = "fedprox"  # type: ignore[assignment]
    mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.01,
        description="μ of the term μ/2·‖w − w₀‖² that keeps a site near the start w₀ of its sum.",
    )

    def gradient(
        self,
        private: NDArray[np.float64],
        adapter: NDArray[np.float32],
        start: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Returns the private gradient plus μ·(w − w₀): see `FedAvg`."""
        return private + self.mu * (adapter.astype("float64") - start)

    @property
    def words(self) -> str:
        """Describes it: see `Strategy`."""
        return f"{super().words} Each step also draws it back towards where it started, whatever the records are."
