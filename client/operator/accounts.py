"""What a site's operator sees of its ledger, without opening records or models."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hortus.parties.folders import SiteConfig, SiteFiles
from hortus.privacy.ledger.charges import Charge, Charged
from hortus.privacy.ledger.decisions import EVERY_DATASET, Disjoint
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.exposure import Exposure, exposures
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:  # it brings the models' libraries along
    from hortus.client.site.folder import Site


@dataclass(frozen=True, slots=True)
class AccountLine:
    """What one dataset, with all that it was before, has spent and may spend.

    Attributes:
        dataset: The fingerprint of its first content.
        unit: The privacy unit of its releases.
        spent: ε of everything released from it, at the policy's δ; infinite without noise.
        limit: The policy's lifetime ε and the grants.
        frozen: Why nothing may be released from it; None if it may.
        statement: Why it has an account of its own; None where nothing was stated.
    """

    dataset: str
    unit: str
    spent: float
    limit: float
    frozen: str | None
    statement: Disjoint | None

    @property
    def left(self) -> float:
        """What the lifetime limit still allows."""
        return max(0.0, self.limit - self.spent)

    @property
    def share(self) -> float:
        """Spent over limit, 1 at most."""
        return min(1.0, self.spent / self.limit)


@dataclass(frozen=True, slots=True)
class OpenAccountLine(AccountLine):
    """The same of a ledger that is open, with what its entries alone do not say.

    Attributes:
        held: Releases that are being computed.
        contents: How many contents of the dataset anything was released from.
    """

    held: int
    contents: int


@contextmanager
def opened_ledger(directory: Path, clock: Callable[[], float]) -> Iterator[tuple[Ledger, Policy]]:
    """Opens the ledger of a site's folder, also while its agent runs.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
        HortusError: The ledger was altered.
    """
    files = SiteFiles(directory)
    name = SiteConfig.load(files.config).site
    policy = Policy.load(files.policy)
    identity = Identity.load(files.identity, name)
    with closing(Ledger.open(files.ledger, identity, clock)) as ledger:
        yield ledger, policy


def account_lines(ledger: Ledger, budget: Budget) -> list[OpenAccountLine]:
    """Returns a line for each dataset that anything was ever released from, or is about to be."""
    held = [(ledger.account_of(charge.dataset), charge) for charge in ledger.held()]
    units = {account: charge.unit for account, charge in held}
    units |= {dataset: account.unit for dataset, account in ledger.accounts().items()}
    contents, bodies = ledger.contents(), (entry.body for entry in ledger.entries())
    statements = {body.dataset: body for body in bodies if isinstance(body, Disjoint)}
    return [
        OpenAccountLine(
            dataset=dataset,
            unit=unit,
            spent=ledger.spent(dataset, budget.delta),
            limit=budget.epsilon + ledger.granted(dataset),
            held=sum(account == dataset for account, _ in held),
            frozen=ledger.frozen(dataset),
            contents=sum(account == dataset for account in contents.values()),
            statement=statements.get(dataset),
        )
        for dataset, unit in sorted(units.items())
    ]


def unit_lines(ledger: Ledger, delta: float) -> dict[str, list[Exposure]]:
    """Returns what the units of each dataset have spent at δ, most first; none where none was hashed."""
    contents = ledger.contents()
    charged: dict[str, list[tuple[int, Charge]]] = {account: [] for account in contents.values()}
    for entry in ledger.entries():
        if isinstance(entry.body, Charged):
            charge = entry.body.charge
            charged[contents[charge.dataset]].append((entry.seq, charge))
    return {
        account: exposures(ledger.stays(account), charges, delta)
        for account, charges in charged.items()
    }


def state_disjoint(
    site: "Site", data: Path | None, others: Sequence[str], operator: str, reason: str
) -> tuple[Entry, Disjoint, int]:
    """Signs that a file holds other people than some datasets.

    Args:
        site: The opened site.
        data: The file; None for the site's present records.
        others: First digits of the datasets' fingerprints.
        operator: Name of whoever states it.
        reason: Why it is so.

    Returns:
        The entry, what it says, and how many units were compared.

    Raises:
        UsageError: The file cannot be read, or what it says is not so, or nobody can tell.
    """
    if not site.ledger.accounts():
        raise UsageError(
            "nothing has been released yet, so a file has nothing to be disjoint from",
            where=str(site.files.ledger),
            remedy="The first dataset needs no statement.",
        )
    content = site.content(site.data if data is None else data)
    named = [find_dataset(site.ledger, prefix) for prefix in others]
    try:
        entry = site.ledger.state_disjoint(content, named, operator, reason)
    except ValueError as error:
        raise UsageError(str(error)) from error
    assert isinstance(entry.body, Disjoint)  # noqa: S101 - what was recorded
    return entry, entry.body, content.units


def find_dataset(ledger: Ledger, prefix: str | None) -> str:
    """Returns the account of the content whose fingerprint starts like this; `EVERY_DATASET` for None.

    Raises:
        UsageError: None does, or several do.
    """
    if prefix is None:
        return EVERY_DATASET
    contents = ledger.contents()
    known = sorted(set(contents.values()))
    found = {contents[name] for name in contents if prefix and name.startswith(prefix)}
    if len(found) != 1:
        raise UsageError(
            f"{len(found)} datasets of this ledger have a fingerprint that starts with {prefix!r}",
            where="--dataset",
            remedy="Known are " + (", ".join(d[:16] for d in known) or "none yet") + ".",
        )
    return found.pop()
