"""A run as people look at it, during or after: read from its folder, which is not changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hortus.pages.plots import Plot, Points, together
from hortus.parties.folders import Consortium
from hortus.planning.plan_file import load_plan
from hortus.privacy.ledger.spending import Spending, read_spending
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import HortusError
from hortus.runtime.metric import Metric, Metrics, columns, finite
from hortus.server.run.absences import Absence, absences
from hortus.server.run.accounts import ACCOUNTS, Account, read_accounts
from hortus.server.run.attendance import (
    ATTENDANCE,
    Attendance,
    Said,
    Seen,
    has_attendance,
    is_attended,
    read_attendance,
)
from hortus.server.run.failure import FAILURE, read_failure
from hortus.server.run.records import RoundRecord, read_contract, read_run
from hortus.server.run.results import LAST, is_complete


class State(StrEnum):
    """How far a run has come."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site of a run.

    Attributes:
        name: The site.
        points: ε after each round that it took part in, rounds from 1; infinite without noise.
        spent: ε so far; None without a bound.
        budget: What its own policy and the grants in its ledger allow; None where the run's folder does not hold the
            site.
        charges: Charges in its own ledger; None where the run's folder does not hold it.
        took_part: For each finished round, whether the site was in its last sum.
        away: When it refused or was gone, and why.
        seen: How it is with the site now; None where no server is at work that could tell.
    """

    name: str
    points: Points
    spent: float | None
    budget: Budget | None
    charges: int | None
    took_part: tuple[bool, ...]
    away: tuple[Absence, ...]
    seen: Seen | None

    @property
    def standing(self) -> str:
        """How it is with the site, in some words; empty where nothing is to be said."""
        if self.seen is not None:
            return self.seen.in_words
        if self.away and self.away[-1].back is None:
            return f"away since round {self.away[-1].since}"
        return ""

    @property
    def is_missed(self) -> bool:
        """Whether something is wrong with it."""
        if self.seen is not None:
            return self.seen.is_down or self.seen.said in (Said.NO, Said.INVALID)
        return bool(self.standing)


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment.

    Attributes:
        directory: Its folder.
        contract: What is trained.
        rounds: Finished rounds.
        absences: Sites that refused or were gone, and whether they came back.
        sites: Every site that is known here, by name.
        attendance: What the server does now; None where none is at work.
        planned: The ε that the plan was made for; None where it names none.
        simulated: Whether the folder holds the sites: ε is then what each has spent, else the server's claim.
        has_ledgers: Whether what they have spent stands in their own ledgers; else an accountant has counted it.
        state: How far it has come.
        failure: Why it stopped; None otherwise.
        changed: When the run last changed, seconds since the epoch.
    """

    directory: Path
    contract: Contract
    rounds: tuple[RoundRecord, ...]
    absences: tuple[Absence, ...]
    sites: tuple[SiteView, ...]
    attendance: Attendance | None
    planned: float | None
    simulated: bool
    has_ledgers: bool
    state: State
    failure: HortusError | None
    changed: float

    @property
    def is_private(self) -> bool:
        """Whether there is a bound at all."""
        return self.contract.privacy.noise_multiplier is not None

    @property
    def last(self) -> RoundRecord | None:
        """The last finished round."""
        return self.rounds[-1] if self.rounds else None

    @property
    def primary(self) -> Metric | None:
        """What the run is judged by, as last measured; None where nothing was."""
        found = (record.primary for record in reversed(self.rounds))
        return next((metric for metric in found if metric is not None), None)

    @property
    def columns(self) -> Metrics:
        """A metric of each kind that was measured, the primary one first."""
        return columns(record.metrics for record in self.rounds)

    @property
    def progress(self) -> float:
        """Share of the plan's rounds that is done; the sums of the round under way count as well."""
        done, now = float(len(self.rounds)), self.attendance
        if now is not None and now.steps and now.round == len(self.rounds) + 1:
            done += max(0, now.step - 1) / now.steps
        return min(1.0, done / self.contract.training.rounds)

    @property
    def sums(self) -> int:
        """Secure sums made."""
        return sum(record.sums for record in self.rounds)

    @property
    def attempts(self) -> int:
        """Attempts at them."""
        return sum(record.attempts for record in self.rounds)

    @property
    def epsilon(self) -> float | None:
        """Largest ε of any site; None without a bound."""
        spent = [site.spent for site in self.sites]
        if not self.is_private or None in spent:
            return None
        return max((epsilon for epsilon in spent if epsilon is not None), default=0.0)


def read_view(directory: Path) -> RunView:
    """Reads a run's folder.

    Raises:
        UsageError: There is no run in it.
        HortusError: A file of it is damaged.
    """
    contract = read_contract(directory)
    rows = read_run(directory)
    accounts = read_accounts(directory)
    virtual = _accounted(accounts, contract) or _virtual_sites(directory, rows.run)
    attendance = read_attendance(directory) if is_attended(directory) else None
    seen = attendance.sites if attendance else {}
    away = absences(rows.departures, rows.rounds)
    names = {site for record in rows.rounds for site in record.sites}
    names |= {absence.site for absence in away} | set(virtual) | set(seen)
    sites = tuple(
        _site(name, contract, rows.rounds, away, seen.get(name), virtual.get(name))
        for name in sorted(names)
    )
    failure = read_failure(directory)
    return RunView(
        directory=directory,
        contract=contract,
        rounds=rows.rounds,
        absences=away,
        sites=sites,
        attendance=attendance,
        planned=_planned(directory),
        simulated=bool(virtual),
        has_ledgers=bool(virtual) and not accounts,
        state=_state(directory, contract, rows.rounds, failure),
        failure=failure,
        changed=max(_modified(path) for path in _followed(directory)[:2]),
    )


def signature(directory: Path) -> tuple[tuple[int, int], ...]:
    """Returns what changes whenever something in a run's folder that a view shows has changed."""
    return (*(_stat(path) for path in _followed(directory)), (int(is_attended(directory)), 0))


def metric_plot(view: RunView, last: int | None = None) -> Plot:
    """The primary metric on public evaluation records, round by round."""
    metric = view.primary
    if metric is None:
        remark = (
            "The plan names no evaluation records." if view.rounds else "No round has finished yet."
        )
        return Plot("metric", "evaluation", {}, {}, remark, last=last)
    remark = f"{metric.title} was finite after no round."
    curves = {"this run": curve(view.rounds, metric)}
    return Plot("metric", metric.axis, curves, {}, remark, last=last)


def curve(rounds: Sequence[RoundRecord], metric: Metric) -> Points:
    """A metric after each round, rounds from 1, as its axis has it."""
    return tuple(
        (record.round + 1, metric.unit.drawn(found.value))
        for record in rounds
        for found in record.metrics
        if found.name == metric.name and found.value is not None
    )


def epsilon_plot(view: RunView, last: int | None = None) -> Plot:
    """ε of each site, round by round, and the budgets."""
    if not view.is_private or any(site.spent is None for site in view.sites):
        return Plot(
            "epsilon", "ε spent", {}, {}, "No noise, so no bound: ε is infinite.", last=last
        )
    alike: dict[Points, list[str]] = {}
    for site in view.sites:
        alike.setdefault(site.points, []).append(site.name)
    curves = {together(names): points for points, names in alike.items() if points}
    budgets = {site.budget.epsilon for site in view.sites if site.budget is not None}
    levels = {f"budget {epsilon:.4g}": epsilon for epsilon in sorted(budgets)}
    if view.planned is not None and view.planned not in budgets:
        levels[f"plan {view.planned:.4g}"] = view.planned
    quantity = "ε spent" if view.simulated else "ε claimed"
    return Plot("epsilon", quantity, curves, levels, "No site has released anything.", last=last)


def _virtual_sites(directory: Path, run: str) -> Mapping[str, tuple[Spending, Budget]]:
    """Returns what the sites of a simulated run have spent, and may, by name."""
    consortium = Consortium(directory / "consortium")
    if not consortium.directory.is_dir():
        return {}
    files = {name: consortium.site(name) for name in consortium.sites}
    found = {}
    for name, site in files.items():
        spending, budget = read_spending(site.ledger, run), Policy.load(site.policy).budget
        allowed = budget.epsilon + spending.granted
        found[name] = spending, budget.model_copy(update={"epsilon": allowed})
    return found


def _accounted(
    accounts: Iterable[Account], contract: Contract
) -> Mapping[str, tuple[Spending, Budget]]:
    """Returns the same of sites that keep no ledger."""
    unit = contract.privacy.unit
    found: dict[str, tuple[Spending, Budget]] = {}
    for account in accounts:
        spending = Spending(account.charges, account.epsilon, account.after_round, 0.0)
        budget = Budget(epsilon=account.budget, delta=account.delta, unit=unit)
        found |= dict.fromkeys(account.sites, (spending, budget))
    return found


def _site(
    name: str,
    contract: Contract,
    rounds: Sequence[RoundRecord],
    absent: Sequence[Absence],
    seen: Seen | None,
    virtual: tuple[Spending, Budget] | None,
) -> SiteView:
    took_part = tuple(name in record.sites for record in rounds)
    away = tuple(absence for absence in absent if absence.site == name)
    if virtual is not None:
        spending, budget = virtual
        points = tuple((number + 1, value) for number, value in spending.after_round.items())
        spent = finite(spending.epsilon)
        return SiteView(name, points, spent, budget, spending.charges, took_part, away, seen)
    claims = tuple(
        (record.round + 1, record.epsilon)
        for record, present in zip(rounds, took_part, strict=True)
        if present and record.epsilon is not None
    )
    claimed = claims[-1][1] if claims else 0.0
    private = contract.privacy.noise_multiplier is not None
    return SiteView(name, claims, claimed if private else None, None, None, took_part, away, seen)


def _state(
    directory: Path,
    contract: Contract,
    rounds: Sequence[RoundRecord],
    failure: HortusError | None,
) -> State:
    planned = contract.training.rounds
    if len(rounds) >= planned and is_complete(directory, planned):
        return State.FINISHED
    if failure is not None:
        return State.STOPPED
    if has_attendance(directory) and not is_attended(directory):
        return State.SILENT
    return State.RUNNING if rounds else State.WAITING


def _planned(directory: Path) -> float | None:
    """The ε of the plan's own file; its contract has the noise that follows instead."""
    try:
        return load_plan(directory / "plan.yaml").privacy.epsilon
    except HortusError:
        return None


def _followed(directory: Path) -> list[Path]:
    """The files that a view is read from, the run's database first."""
    ledgers = sorted((directory / "consortium" / "sites").glob("*/ledger.sqlite"))
    databases = [directory / "run.sqlite", *ledgers]
    logged = [path for base in databases for path in (base, base.with_name(f"{base.name}-wal"))]
    return [
        *logged,
        directory / ACCOUNTS,
        directory / FAILURE,
        directory / ATTENDANCE,
        directory / LAST,
    ]


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _modified(path: Path) -> float:
    return _stat(path)[0] / 1e9
