"""Many virtual sites on one machine, with the code, folders and messages of a deployment."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from numpy.typing import NDArray

from hortus.client.agent import SiteAgent
from hortus.client.channel import dialling
from hortus.client.consent.approval import approve_unasked
from hortus.client.flower.relay import Agent, relay_app
from hortus.client.pace import RehearsalClock
from hortus.client.site.folder import Site
from hortus.learning.data.partition import partition
from hortus.learning.data.records import Records, read_ids, read_records
from hortus.learning.tasks.kinds import TASKS
from hortus.parties.folders import Consortium, ServerConfig
from hortus.parties.founding import create_consortium
from hortus.planning.prepare import pin
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Cohort, Contract, Plan
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.privacy import Noise
from hortus.protocol.transport import AggregationChannel
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.names import SERVER
from hortus.server.evaluation import Evaluator
from hortus.server.round_loop import RoundLoop
from hortus.server.run.attendance import AttendanceBook
from hortus.server.run.failure import stopping
from hortus.server.run.folder import claimed, open_run
from hortus.server.run.names import Place, named
from hortus.server.run.records import RoundRecord
from hortus.server.run.store import RunStore
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving
from hortus.simulation.clipped import share_cut
from hortus.simulation.local_grid import LocalGrid
from hortus.simulation.memory_channel import MemoryChannel
from hortus.simulation.shared_workbench import SharedWorkbench
from hortus.simulation.timings import Timings

_LOOPBACK = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")


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
    """

    directory: Path
    contract: Contract
    consortium: Consortium
    store: RunStore
    adapter: NDArray[np.float32]
    timings: Mapping[str, float]
    cut: float | None = None


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
        on_round: Told of each finished round, and of the ε that each site's ledger has by then.
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
    on_stage("choosing the noise")
    contract, model_path = pin(plan, plan_path.resolve().parent)
    on_stage("loading and checking the base model")
    workbench = (shared or SharedWorkbench()).of(contract, model_path)
    with _placed(plan, plan_path, contract, out) as place:
        on_place(place)
        folder = place.directory
        store = open_run(plan, plan_path, contract, folder, simulated=True, force=force)
        with stopping(folder, partial(on_stop, folder)):
            return _run(plan, contract, workbench, model_path, store, on_round, on_stage)


@contextmanager
def _placed(plan: Plan, plan_path: Path, contract: Contract, out: Path | None) -> Iterator[Place]:
    if out is None:
        with named(plan, contract, plan_path.parent / "runs") as place:
            yield place
    else:
        with claimed(out):
            yield Place(out)


def _run(
    plan: Plan,
    contract: Contract,
    workbench: Workbench,
    model_path: Path,
    store: RunStore,
    on_round: OnRound,
    on_stage: Callable[[str], None],
) -> SimulatedRun:
    out = store.directory
    on_stage("reading the sites' records")
    consortium = _lay_out(plan, contract, out)
    workbench.share_among(len(consortium.sites))
    on_stage("reading the server's test records")
    evaluator = Evaluator(workbench, plan.evaluation)
    hub, timings = Hub(Notary.open(consortium.server, time.time)), Timings()
    with ExitStack() as stack:
        names = consortium.sites
        port = None
        if plan.simulation and plan.simulation.transport == "grpc":
            tls = consortium.server.tls
            port = stack.enter_context(serving(hub, tls, _LOOPBACK.aggregation, len(names)))
        sites = [
            stack.enter_context(
                Site(consortium.site(name).directory, clock=time.time, model=model_path)
            )
            for name in names
        ]
        agents = []
        for site in sites:
            approve_unasked(site, contract, "the simulation")
            connect = partial(_connect, hub, site, port)
            agents.append(
                SiteAgent(
                    site, lambda _: workbench, connect, timings, RehearsalClock(), hides=False
                )
            )
        grid = LocalGrid(
            {
                site.name: relay_app(partial(_reach, agent))
                for site, agent in zip(sites, agents, strict=True)
            }
        )
        stack.callback(grid.close)
        stack.callback(_stop, agents)
        attendance = AttendanceBook(
            out, names, time.time, grid.names, lambda now: on_stage(now.in_words)
        )
        attendance.see(grid.names)

        datasets = {site: site.dataset(contract).fingerprint for site in sites}
        delta = contract.privacy.delta

        def tell(record: RoundRecord) -> None:
            on_round(record, {s.name: s.ledger.spent(d, delta) for s, d in datasets.items()})

        adapter = RoundLoop(
            grid=grid,
            identity=Identity.load(consortium.server.identity, SERVER),
            roster=lambda: Roster.load(consortium.server.roster),
            contract=contract,
            store=store,
            hub=hub,
            evaluator=evaluator,
            attendance=attendance,
            on_round=tell,
            site_folder=lambda name: shlex.quote(str(consortium.site(name).directory)),
        ).run()
        on_stage("looking at what clipping cuts")
        cut = share_cut(contract, workbench, [site.records(contract) for site in sites], adapter)
    return SimulatedRun(out, contract, consortium, store, adapter, timings.totals(), cut)


def _stop(agents: Sequence[SiteAgent]) -> None:
    """Has all sites give up at once what nobody will add up, should the run be interrupted."""
    with ThreadPoolExecutor(len(agents)) as pool:
        list(pool.map(lambda agent: agent.stop(0.0), agents))


def read_site_records(plan: Plan) -> dict[str, Records]:
    """Returns every virtual site's records, by name.

    Raises:
        UsageError: A file cannot be used, or a label is found at no site at all.
    """
    source, task = plan.simulation, TASKS.parse(plan.task)
    if source is None:
        raise UsageError(
            "the plan says nothing about whose records to use",
            where="simulation",
            remedy="Add `simulation:` with `sites:` or with `train:` and `partition:`.",
        )
    if source.sites is not None:
        records = {
            site: read_records(path, task, plan.privacy.unit_column)
            for site, path in source.sites.items()
        }
    else:
        assert source.train is not None  # noqa: S101 - the schema says so
        assert source.partition is not None  # noqa: S101 - the schema says so
        column = source.partition.column
        values = read_ids(source.train, column) if column else None
        whole = read_records(source.train, task, plan.privacy.unit_column)
        found = [task.group(value) for value in whole.values]
        groups = [group for group in found if group is not None]
        records = partition(
            whole,
            source.partition,
            plan.seed,
            values,
            np.array(groups, np.int64) if len(groups) == len(found) else None,
        )
    task.check_values([value for own in records.values() for value in own.values])
    return records


def _lay_out(plan: Plan, contract: Contract, out: Path) -> Consortium:
    """Makes the virtual parties' folders with their records, or finds those of an earlier start."""
    consortium = Consortium(out / "consortium")
    if consortium.directory.exists():
        return consortium
    records = read_site_records(plan)
    if len(records) < plan.cohort.minimum:
        raise UsageError(
            f"there are {len(records)} sites, the plan needs {plan.cohort.minimum}",
            where="cohort.minimum",
        )
    for site, own in records.items():
        lines = (json.dumps(row) + "\n" for row in _rows(plan, own))
        write_atomic(out / "records" / f"{site}.jsonl", "".join(lines).encode())
    # As a site's folder sees it: the whole run may be moved.
    files = {site: Path("../../../records") / f"{site}.jsonl" for site in records}
    policies = _policies(plan, contract, sorted(records))
    return create_consortium(consortium.directory, files, policies, _LOOPBACK, datetime.now(UTC))


def _rows(plan: Plan, records: Records) -> Iterator[dict[str, Any]]:
    task = TASKS.parse(plan.task)
    for number, value in enumerate(records.values):
        unit = {plan.privacy.unit: records.units[number]} if records.units else {}
        yield unit | task.row(value)


def _policies(plan: Plan, contract: Contract, sites: Sequence[str]) -> dict[str, Policy]:
    """Virtual sites allow what the plan asks, up to the ε that it claims or rehearses."""
    claim, noise_multiplier = 1.0, contract.privacy.noise_multiplier
    if noise_multiplier is not None:
        # The plan's own: what rounding adds to it depends on how many sites are in a sum.
        event = GaussianEvent(plan.training.sampling_rate, noise_multiplier)
        claim = epsilon({event: plan.releases}, plan.privacy.delta)
    budgets = dict.fromkeys(sites, plan.privacy.epsilon or claim)
    rehearsed = plan.simulation.budgets if plan.simulation else {}
    for site in set(rehearsed) - set(sites):
        raise UsageError(
            f"there is no site {site!r}, only {', '.join(sites)}", where="simulation.budgets"
        )
    return {
        site: Policy(
            budget=Budget(epsilon=budget, delta=plan.privacy.delta, unit=plan.privacy.unit),
            min_cohort=plan.cohort.minimum,
            min_honest=plan.cohort.min_honest,
            max_honest_share=1.0,
            unsafe_seeded_noise=True,
            unsafe_no_privacy=plan.privacy.noise is Noise.UNSAFE_NONE,
        )
        for site, budget in (budgets | rehearsed).items()
    }


def _connect(
    hub: Hub, site: Site, port: int | None, rules: Cohort
) -> AbstractContextManager[AggregationChannel]:
    if port is None:
        return nullcontext(MemoryChannel(hub, site.name))
    return dialling(f"127.0.0.1:{port}", site.files.tls, rules)


def _reach(agent: SiteAgent, _: Context) -> AbstractContextManager[Agent]:
    return nullcontext(agent)
