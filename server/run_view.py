"""A run as people look at it, during or after: read from its folder, which is not changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hortus.pages.plots import Plot, Points, together
from hortus.privacy.spending import Spending, finite, read_spending
from hortus.protocol.consortium import Consortium
from hortus.protocol.errors import HortusError
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Budget, Policy
from hortus.server.failure import FAILURE, read_failure
from hortus.server.run_records import Departure, RoundRecord, read_contract, read_run


class State(StrEnum):
    """How far a run has come."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site of a run.

    Attributes:
        name: The site.
        points: ε after each round that it took part in, rounds from 1; infinite without noise.
        spent: ε so far; None without a bound.
        budget: What its own policy and the grants in its ledger allow; None where the run's folder does not hold the site.
        charges: Charges in its own ledger; None where the run's folder does not hold it.
        took_part: For each finished round, whether the site was in its last sum.
        departures: When it refused or left, and why.
    """

    name: str
    points: Points
    spent: float | None
    budget: Budget | None
    charges: int | None
    took_part: tuple[bool, ...]
    departures: tuple[Departure, ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment.

    Attributes:
        directory: Its folder.
        contract: What is trained.
        rounds: Finished rounds.
        departures: Who refused or left.
        sites: Every site that is known here, by name.
        simulated: Whether the folder holds the sites: ε is then their own ledgers', else the
            server's claim.
        state: How far it has come.
        failure: Why it stopped; empty otherwise.
        changed: When the run last changed, seconds since the epoch.
    """

    directory: Path
    contract: Contract
    rounds: tuple[RoundRecord, ...]
    departures: tuple[Departure, ...]
    sites: tuple[SiteView, ...]
    simulated: bool
    state: State
    failure: str
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
    virtual = _virtual_sites(directory, rows.run)
    names = {site for record in rows.rounds for site in record.sites}
    names |= {departure.site for departure in rows.departures} | set(virtual)
    sites = tuple(
        _site(name, contract, rows.rounds, rows.departures, virtual.get(name))
        for name in sorted(names)
    )
    failure = read_failure(directory)
    return RunView(
        directory=directory,
        contract=contract,
        rounds=rows.rounds,
        departures=rows.departures,
        sites=sites,
        simulated=bool(virtual),
        state=_state(directory, contract, rows.rounds, failure),
        failure=str(failure or ""),
        changed=max(_modified(path) for path in _followed(directory)[:2]),
    )


def signature(directory: Path) -> tuple[tuple[int, int], ...]:
    """Returns what changes whenever something in a run's folder that a view shows has changed."""
    return tuple(_stat(path) for path in _followed(directory))


def accuracy_plot(view: RunView, last: int | None = None) -> Plot:
    """The accuracy on public evaluation records, round by round."""
    remark = (
        "The plan names no evaluation records." if view.rounds else "No round has finished yet."
    )
    return Plot(
        "accuracy", "accuracy, %", {"this run": accuracy(view.rounds)}, {}, remark, last=last
    )


def accuracy(rounds: Sequence[RoundRecord]) -> Points:
    """Accuracy in per cent after each round, rounds from 1."""
    return tuple(
        (record.round + 1, 100 * record.metrics["accuracy"])
        for record in rounds
        if "accuracy" in record.metrics
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


def _site(
    name: str,
    contract: Contract,
    rounds: Sequence[RoundRecord],
    departures: Sequence[Departure],
    virtual: tuple[Spending, Budget] | None,
) -> SiteView:
    took_part = tuple(name in record.sites for record in rounds)
    left = tuple(departure for departure in departures if departure.site == name)
    if virtual is not None:
        spending, budget = virtual
        points = tuple((number + 1, value) for number, value in spending.after_round.items())
        spent = finite(spending.epsilon)
        return SiteView(name, points, spent, budget, spending.charges, took_part, left)
    claims = tuple(
        (record.round + 1, record.epsilon)
        for record, present in zip(rounds, took_part, strict=True)
        if present and record.epsilon is not None
    )
    claimed = claims[-1][1] if claims else 0.0
    private = contract.privacy.noise_multiplier is not None
    return SiteView(name, claims, claimed if private else None, None, None, took_part, left)


def _state(
    directory: Path,
    contract: Contract,
    rounds: Sequence[RoundRecord],
    failure: HortusError | None,
) -> State:
    if len(rounds) >= contract.training.rounds and (directory / "adapter").is_dir():
        return State.FINISHED
    if failure is not None:
        return State.STOPPED
    return State.RUNNING if rounds else State.WAITING


def _followed(directory: Path) -> list[Path]:
    """The files that a view is read from, the run's database first."""
    ledgers = sorted((directory / "consortium" / "sites").glob("*/ledger.sqlite"))
    databases = [directory / "run.sqlite", *ledgers]
    logged = [path for base in databases for path in (base, base.with_name(f"{base.name}-wal"))]
    return [*logged, directory / FAILURE, directory / "adapter"]


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _modified(path: Path) -> float:
    return _stat(path)[0] / 1e9
