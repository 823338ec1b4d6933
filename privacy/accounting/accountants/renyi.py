"""Rényi differential privacy: looser, and simpler to recompute by hand or with other software."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hortus.privacy.accounting.accountants.base import Accountant

if TYPE_CHECKING:
    from hortus.privacy.accounting.events import History


class RenyiAccountant(Accountant):
    """Rényi DP (Mironov et al. 2019), as most software states ε: more noise than `pld` for the same ε."""

    kind: Literal["renyi"] = "renyi"

    def epsilon(self, history: History, delta: float) -> float:
        """Returns the Rényi bound, converted by Balle et al. (2020), Theorem 21."""
        from hortus.privacy.accounting.accountant import epsilon_rdp

        return epsilon_rdp(history, delta)
