"""What an accountant is, where a plan names one."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from hortus.protocol.section import Kind

if TYPE_CHECKING:
    from hortus.privacy.accounting.events import History


class Accountant(Kind):
    """Says what releases cost when a plan's noise is chosen for `privacy.epsilon`.

    It decides nothing else: whatever a plan names, ledgers charge, sites compare with their budgets, and auditors
    recompute ε by the tightest bound that is known here (`hortus.privacy.accounting.accountant.epsilon`). A looser
    accountant means more noise. One that claims less than that bound is refused when the noise is chosen.
    """

    @abstractmethod
    def epsilon(self, history: History, delta: float) -> float:
        """Returns an upper bound on ε(δ) of releases, falling as their noise rises; 0 for none.

        Args:
            history: What is released.
            delta: δ in (0, 1).
        """
