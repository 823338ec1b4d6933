"""The sites of a rehearsal: a deployment's parties, with their folders, keys, policies and ledgers, on threads."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context

from hortus.client.agent import SiteAgent
from hortus.client.channel import dialling
from hortus.client.consent.approval import approve_unasked
from hortus.client.flower.relay import Agent, relay_app
from hortus.client.pace import RehearsalClock
from hortus.client.site.folder import Site
from hortus.learning.data.records import Records
from hortus.learning.tasks.kinds import TASKS
from hortus.parties.folders import Consortium, ServerConfig
from hortus.parties.founding import create_consortium
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Cohort, Contract, Plan
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.privacy import Noise
from hortus.protocol.transport import AggregationChannel
from hortus.runtime.files import write_atomic
from hortus.runtime.names import SERVER
from hortus.server.grid_sites import GridSites
from hortus.server.run.attendance import AttendanceBook
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving
from hortus.simulation.budgets import budgets
from hortus.simulation.engines.base import Setting, VirtualSites
from hortus.simulation.local_grid import LocalGrid
from hortus.simulation.memory_channel import MemoryChannel
from hortus.simulation.site_records import check_count, read_site_records

_LOOPBACK = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")


@contextmanager
def rehearsed_sites(setting: Setting, *, over_grpc: bool) -> Iterator[VirtualSites]:
    """Makes the parties of a rehearsal, or finds those of an earlier start.

    Args:
        setting: What is simulated.
        over_grpc: Whether data travels over TLS on loopback, or through plain calls.

    Raises:
        UsageError: The plan's records cannot be used, or make fewer sites than the plan needs.
    """
    contract, out = setting.contract, setting.store.directory
    setting.on_stage("reading the sites' records")
    consortium = _lay_out(setting.plan, contract, out)
    names = consortium.sites
    setting.workbench.share_among(len(names))
    hub = Hub(Notary.open(consortium.server, time.time))
    with ExitStack() as stack:
        port = None
        if over_grpc:
            tls = consortium.server.tls
            port = stack.enter_context(serving(hub, tls, _LOOPBACK.aggregation, len(names)))
        sites = [
            stack.enter_context(
                Site(consortium.site(name).directory, clock=time.time, model=setting.model_path)
            )
            for name in names
        ]
        agents = {site.name: _agent(setting, site, hub, port) for site in sites}
        grid = LocalGrid(
            {name: relay_app(partial(_reach, agent)) for name, agent in agents.items()}
        )
        stack.callback(grid.close)
        stack.callback(_stop, list(agents.values()))
        attendance = AttendanceBook(
            out, names, time.time, grid.names, lambda now: setting.on_stage(now.in_words)
        )
        attendance.see(grid.names)
        datasets = {site: site.dataset(contract).fingerprint for site in sites}
        delta = contract.privacy.delta
        yield VirtualSites(
            _reached(setting, consortium, grid, hub, attendance),
            attendance,
            epsilon=lambda: {s.name: s.ledger.spent(d, delta) for s, d in datasets.items()},
            records=lambda: [site.records(contract) for site in sites],
        )


def _reached(
    setting: Setting,
    consortium: Consortium,
    grid: LocalGrid,
    hub: Hub,
    attendance: AttendanceBook,
) -> GridSites:
    return GridSites(
        grid=grid,
        identity=Identity.load(consortium.server.identity, SERVER),
        roster=lambda: Roster.load(consortium.server.roster),
        contract=setting.contract,
        store=setting.store,
        hub=hub,
        attendance=attendance,
        site_folder=lambda name: shlex.quote(str(consortium.site(name).directory)),
    )


def _agent(setting: Setting, site: Site, hub: Hub, port: int | None) -> SiteAgent:
    approve_unasked(site, setting.contract, "the simulation")
    return SiteAgent(
        site,
        lambda _: setting.workbench,
        partial(_connect, hub, site, port),
        setting.timings,
        RehearsalClock(),
        hides=False,
    )


def _stop(agents: Sequence[SiteAgent]) -> None:
    """Has all sites give up at once what nobody will add up, should the run be interrupted."""
    with ThreadPoolExecutor(len(agents)) as pool:
        list(pool.map(lambda agent: agent.stop(0.0), agents))


def _lay_out(plan: Plan, contract: Contract, out: Path) -> Consortium:
    """Makes the virtual parties' folders with their records, or finds those of an earlier start."""
    consortium = Consortium(out / "consortium")
    if consortium.directory.exists():
        return consortium
    records = read_site_records(plan)
    check_count(plan, records)
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
    return {
        site: Policy(
            budget=Budget(epsilon=budget, delta=plan.privacy.delta, unit=plan.privacy.unit),
            min_cohort=plan.cohort.minimum,
            min_honest=plan.cohort.min_honest,
            max_honest_share=1.0,
            unsafe_seeded_noise=True,
            unsafe_no_privacy=plan.privacy.noise is Noise.UNSAFE_NONE,
        )
        for site, budget in budgets(plan, contract, sites).items()
    }


def _connect(
    hub: Hub, site: Site, port: int | None, rules: Cohort
) -> AbstractContextManager[AggregationChannel]:
    if port is None:
        return nullcontext(MemoryChannel(hub, site.name))
    return dialling(f"127.0.0.1:{port}", site.files.tls, rules)


def _reach(agent: SiteAgent, _: Context) -> AbstractContextManager[Agent]:
    return nullcontext(agent)
