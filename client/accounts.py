"""What a site's operator sees of its ledger, without opening records or models."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hortus.privacy.entries import EVERY_DATASET
from hortus.privacy.ledger import Ledger
from hortus.protocol.consortium import SiteConfig, SiteFiles
from hortus.protocol.errors import UsageError
from hortus.protocol.identity import SiteIdentity
from hortus.protocol.policy import Budget, Policy


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One dataset, with all that it was before: a lineage.

    Attributes:
        dataset: The fingerprint of its first content.
        unit: The privacy unit of its releases.
        spent: ε of everything released from it, at the policy's δ; infinite without privacy.
        limit: The policy's lifetime ε and the grants.
        held: Releases that are being computed.
        frozen: Why nothing may be released; None if it may.
    """

    dataset: str
    unit: str
    spent: float
    limit: float
    held: int
    frozen: str | None


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
    identity = SiteIdentity.load(files.identity, name)
    with closing(Ledger.open(files.ledger, identity, clock)) as ledger:
        yield ledger, policy


def account_lines(ledger: Ledger, budget: Budget) -> list[AccountLine]:
    """Returns a line for each dataset that anything was ever released from, or is about to be."""
    held = [(ledger.account_of(charge.dataset), charge) for charge in ledger.held()]
    units = {account: charge.unit for account, charge in held}
    units |= {dataset: account.unit for dataset, account in ledger.accounts().items()}
    return [
        AccountLine(
            dataset=dataset,
            unit=unit,
            spent=ledger.spent(dataset, budget.delta),
            limit=budget.epsilon + ledger.granted(dataset),
            held=sum(account == dataset for account, _ in held),
            frozen=ledger.frozen(dataset),
        )
        for dataset, unit in sorted(units.items())
    ]


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
