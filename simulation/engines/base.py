"""What a simulation engine is: whatever brings a plan's virtual sites to the round loop.

The loop, its checkpoints and its evaluation are those of a deployment (`hortus.server.round_loop`), and a site's
step is a deployed site's (`hortus.client.trainer`), whatever the engine.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hortus.protocol.plan import Contract, Plan
from hortus.protocol.section import Kind

if TYPE_CHECKING:
    from hortus.learning.data.records import Records
    from hortus.privacy.gradients.workbench import Workbench
    from hortus.server.round_loop import Sites
    from hortus.server.run.attendance import AttendanceBook
    from hortus.server.run.store import RunStore
    from hortus.simulation.timings import Timings


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated.

    Attributes:
        plan: The plan.
        contract: Its binding part.
        workbench: The warm model, which all sites share.
        model_path: Folder of the base model.
        store: The run so far; what an engine keeps goes into its `directory`.
        timings: Times the phases of the sites' steps.
        on_stage: Told in some words what happens now.
    """

    plan: Plan
    contract: Contract
    workbench: Workbench
    model_path: Path
    store: RunStore
    timings: Timings
    on_stage: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class VirtualSites:
    """The sites of a simulation.

    Attributes:
        sites: They, as the round loop reaches them.
        attendance: Where it is noted who is there, and what the server does.
        epsilon: Returns the ε that each site has spent by now; infinite without noise.
        records: Returns every site's records.
    """

    sites: Sites
    attendance: AttendanceBook
    epsilon: Callable[[], Mapping[str, float]]
    records: Callable[[], Sequence[Records]]


class Engine(Kind):
    """Brings virtual sites to the round loop.

    Attributes:
        keeps_ledgers: Whether each site keeps a ledger, in the run's folder, which `hortus audit` verifies. If not,
            the engine keeps the sites' ε in `hortus.server.run.accounts`.
    """

    keeps_ledgers: ClassVar[bool]

    @abstractmethod
    def open(self, setting: Setting) -> AbstractContextManager[VirtualSites]:
        """Makes the sites, or finds those of an earlier start; they are there within the block.

        Raises:
            UsageError: The plan's records cannot be used, or make fewer sites than the plan needs.
        """
