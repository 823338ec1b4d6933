"""Privacy loss distributions, composed numerically: the bound by which everything is charged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hortus.privacy.accounting.accountants.base import Accountant

if TYPE_CHECKING:
    from hortus.privacy.accounting.events import History


class PldAccountant(Accountant):
    """Privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022): as much noise as ε takes, and no more."""

    kind: Literal["pld"] = "pld"

    def epsilon(self, history: History, delta: float) -> float:
        """Returns the tightest bound: see `hortus.privacy.accounting.accountant`."""
        from hortus.privacy.accounting.accountant import epsilon

        return epsilon(history, delta)
