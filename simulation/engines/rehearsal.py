"""The engine that rehearses a deployment: every message, key, mask and ledger entry of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar, Literal

from pydantic import Field

from hortus.simulation.engines.base import Engine, Setting, VirtualSites


class Rehearsal(Engine):
    """The deployment's own code on one machine: agents, messages, keys, masks, policies and ledgers, for up to some 100 sites."""

    kind: Literal["rehearsal"] = "rehearsal"
    keeps_ledgers: ClassVar[bool] = True
    transport: Literal["memory", "grpc"] = Field(
        "memory", description="`grpc`: TLS over loopback, as deployed. Both give the same bits."
    )

    def open(self, setting: Setting) -> AbstractContextManager[VirtualSites]:
        """See `Engine`."""
        from hortus.simulation.rehearsed_sites import rehearsed_sites

        return rehearsed_sites(setting, over_grpc=self.transport == "grpc")
