"""The engine for many sites: their steps and their sum, and nothing of the protocol around them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Literal

from hortus.protocol.plan import Contract
from hortus.simulation.engines.base import Engine, Setting, VirtualSites


class InProcess(Engine):
    """The same steps, noise and sums without keys, masks, messages or ledgers, for thousands of sites; the same bits as `rehearsal`."""

    kind: Literal["in-process"] = "in-process"
    keeps_ledgers: ClassVar[bool] = False

    def open(self, setting: Setting) -> AbstractContextManager[VirtualSites]:
        """See `Engine`."""
        from hortus.simulation.local_sites import local_sites

        return local_sites(setting, self.present)

    def present(
        self,
        contract: Contract,  # noqa: ARG002 - for kinds derived from this one
        number: int,  # noqa: ARG002
        sites: Sequence[str],
    ) -> Sequence[str]:
        """Returns which sites take part in a sum: all of them, unless a kind derived from this one says otherwise.

        Args:
            contract: What is trained; its seed is the plan's.
            number: Of the sum within the whole plan, from 0.
            sites: Those that could, sorted.
        """
        return sites
