"""A plan with many virtual sites on one machine: one loop, whatever engine brings the sites to it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hortus.parties.folders import Consortium
from hortus.planning.prepare import pin
from hortus.protocol.plan import Contract, Plan
from hortus.server.evaluation import Evaluator
from hortus.server.round_loop import RoundLoop
from hortus.server.run.failure import stopping
from hortus.server.run.folder import claimed, open_run
from hortus.server.run.names import Place, named
from hortus.server.run.records import RoundRecord
from hortus.server.run.store import RunStore
from hortus.simulation.clipped import share_cut
from hortus.simulation.engines.base import Engine, Setting
from hortus.simulation.engines.kinds import engine_of
from hortus.simulation.shared_workbench import SharedWorkbench
from hortus.simulation.timings import Timings


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A finished simulation.

    Attributes:
        directory: The run's folder.
        contract: What was trained.
        consortium: The virtual parties' folders.
        store: Its rounds.
        adapter: float32[d], the result; in PEFT's format under `directory`/adapter.
        timings: Seconds by phase, over all sites.
        cut: Share of the units whose gradients C cuts at the end; None where no fixed C does.
        has_ledgers: Whether the parties' folders are there, with a ledger for each site.
    """

    directory: Path
    contract: Contract
    consortium: Consortium
    store: RunStore
    adapter: NDArray[np.float32]
    timings: Mapping[str, float]
    cut: float | None = None
    has_ledgers: bool = True


OnRound = Callable[[RoundRecord, Mapping[str, float]], None]


def simulate(
    plan: Plan,
    plan_path: Path,
    out: Path | None,
    on_round: OnRound,
    on_stage: Callable[[str], None] = lambda _: None,
    *,
    force: bool = False,
    on_place: Callable[[Place], None] = lambda _: None,
    on_stop: Callable[[Path], None] = lambda _: None,
    shared: SharedWorkbench | None = None,
) -> SimulatedRun:
    """Runs a plan, or resumes its unfinished run.

    Args:
        plan: A plan with a `simulation` section.
        plan_path: Its file; a relative model path is relative to its folder.
        out: The run's folder. None: the one of this plan's run in runs/ beside the plan, or a new one there
            (see `server.run.names`).
        on_round: Told of each finished round, and of the ε that each site has spent by then.
        on_stage: Told in some words what happens now.
        force: Start over where the folder holds a run.
        on_place: Told where the run goes, when that is settled.
        on_stop: Called with the folder when the run ends before its time, while it is still this process's.
        shared: Where the model is kept for what else this process trains.

    Raises:
        UsageError: Plan or data cannot be used, or `out` holds a run of something else.
        CohortTooSmall: Too few virtual sites remain; finished rounds are kept.
        InUse: Another process runs in the folder.
    """
    engine = engine_of(plan)
    on_stage("choosing the noise")
    contract, model_path = pin(plan, plan_path.resolve().parent)
    on_stage("loading and checking the base model")
    workbench = (shared or SharedWorkbench()).of(contract, model_path)
    with _placed(plan, plan_path, contract, out) as place:
        on_place(place)
        folder = place.directory
        store = open_run(plan, plan_path, contract, folder, simulated=True, force=force)
        with stopping(folder, partial(on_stop, folder)):
            setting = Setting(plan, contract, workbench, model_path, store, Timings(), on_stage)
            return _run(setting, engine, on_round)


@contextmanager
def _placed(plan: Plan, plan_path: Path, contract: Contract, out: Path | None) -> Iterator[Place]:
    if out is None:
        with named(plan, contract, plan_path.parent / "runs") as place:
            yield place
    else:
        with claimed(out):
            yield Place(out)


def _run(setting: Setting, engine: Engine, on_round: OnRound) -> SimulatedRun:
    contract, store = setting.contract, setting.store
    with engine.open(setting) as virtual:
        setting.on_stage("reading the server's test records")
        adapter = RoundLoop(
            sites=virtual.sites,
            contract=contract,
            store=store,
            evaluator=Evaluator(setting.workbench, setting.plan.evaluation),
            attendance=virtual.attendance,
            on_round=lambda record: on_round(record, virtual.epsilon()),
        ).run()
        setting.on_stage("looking at what clipping cuts")
        cut = share_cut(contract, setting.workbench, virtual.records(), adapter)
    return SimulatedRun(
        directory=store.directory,
        contract=contract,
        consortium=Consortium(store.directory / "consortium"),
        store=store,
        adapter=adapter,
        timings=setting.timings.totals(),
        cut=cut,
        has_ledgers=engine.keeps_ledgers,
    )
