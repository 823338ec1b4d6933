"""A site's folder, opened: configuration, keys, policy, ledger and records.

Policy, roster, records and base model are read again when their files have changed. What an operator
approves, allows or deletes counts from the next step on; whom the roster names, from the next session.
"""

import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from hortus.client.site.mandate import Mandate
from hortus.client.site.reread import Reread, file_version
from hortus.client.site.witness import require
from hortus.learning.data.identifiers import finder_of
from hortus.learning.data.records import Records, read_records, read_units, record_bytes
from hortus.learning.data.view import View
from hortus.learning.models.folder import is_relative_model, model_digest, resolve_model
from hortus.learning.tasks.kinds import TASKS
from hortus.parties.card import ServerCard, load_card
from hortus.parties.folders import SiteConfig, SiteFiles
from hortus.privacy.ledger.lineages import Placement
from hortus.privacy.ledger.marks import Content, dataset_fingerprint
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.heads import LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Agreement, Contract
from hortus.protocol.policy import Policy
from hortus.protocol.privacy import RECORD
from hortus.runtime.canonical import canonical_json
from hortus.runtime.errors import DataError, UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.names import SERVER

# Of plans with other columns, labels or units: the records of the last few are kept.
_MOST_READINGS = 4


@dataclass(frozen=True, slots=True)
class Dataset:
    """A site's records as a plan reads them.

    Attributes:
        records: The records.
        fingerprint: The keyed identity of this content, whatever the plan.
    """

    records: Records
    fingerprint: str


class Site:
    """An opened site folder.

    Args:
        directory: The folder that `hortus init site` made, with the server pinned.
        clock: Seconds since the epoch, for ledger entries.
        model: Where the base model lies, if site.yaml does not say so.
        alone: Whether the server need not be pinned yet, since nobody is met.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
    """

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], float],
        model: Path | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.files = SiteFiles(directory)
        self.config = SiteConfig.load(self.files.config)
        self.name = self.config.site
        self.identity = Identity.load(self.files.identity, self.name)
        # A step and a question of the server's may come at once.
        self._reading = threading.Lock()
        self._policy = Reread(self.files.policy, Policy.load)
        self._roster = Reread(self.files.roster, Roster.load)
        if not alone:
            self._check_pinned()
        self.view = self._make_view()
        self.ledger = Ledger.open(self.files.ledger, self.identity, clock)
        try:
            self._check_anchor()
        except BaseException:
            self.ledger.close()
            raise
        self._readings: dict[tuple[str, str | None], Reread[Dataset]] = {}
        self._given_model = model
        self._model: tuple[Path, Reread[str]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

    @property
    def policy(self) -> Policy:
        """What this site allows now."""
        return self._policy()

    @property
    def mandate(self) -> Mandate:
        """What this site's operator has allowed by now."""
        consents = self.ledger.consents().values()
        return Mandate.of(self.policy, consents, names_model=self.config.model is not None)

    @property
    def roster(self) -> Roster:
        """The keys that this site has pinned now."""
        return self._roster()

    @property
    def server(self) -> ServerCard:
        """The server's card, as pinned; it says where the server is dialled."""
        card = load_card(self.files.card(SERVER))
        if not isinstance(card, ServerCard):
            raise UsageError("this is not a server's card", where=str(self.files.card(SERVER)))
        return card

    def _check_pinned(self) -> None:
        if not self.files.roster.exists():
            raise UsageError(
                "this site has not pinned the server's card yet",
                where=str(self.files.roster),
                remedy="hortus roster add SITE_DIR server.card.yaml OTHER_SITES.card.yaml …",
            )
        if self.roster.sites.get(self.name) != self.identity.public_key_bytes:
            raise UsageError(
                "the roster's key for this site is not that of keys/identity.pem",
                where=str(self.files.roster),
                remedy="If a change of the key was interrupted, run: hortus rotate identity SITE_DIR",
            )

    def keep_contract(self, contract: Contract) -> None:
        """Stores a plan that the site takes part in, for whoever audits it later."""
        keep_contract(self.files, contract)

    def kept_contract(self, plan: str) -> Contract | None:
        """Returns the stored plan of a hash; None if it is not stored."""
        try:
            contract = Contract.model_validate_json(_contract_file(self.files, plan).read_bytes())
        except (OSError, ValidationError):
            return None
        return contract if contract.digest() == plan else None

    def kept_contracts(self) -> set[str]:
        """Returns the hashes of the plans that are stored."""
        return {path.stem for path in self.files.contracts.glob("*.json")}

    def _check_anchor(self) -> None:
        """Does not start from a ledger that was rolled back behind what the operator keeps."""
        if self.config.anchor is not None:
            anchor = LedgerHead.load(self.files.directory / self.config.anchor)
            require(self.ledger, anchor)

    def model_path(self, plan: Agreement) -> Path:
        """Returns this site's own copy of the base model.

        It is where site.yaml says; otherwise where it was when the operator approved the plan; otherwise where the plan
        says.
        """
        if self.config.model is None and self._given_model is not None:
            return self._given_model
        approved = self._approved_model(plan) if self.config.model is None else None
        return resolve_model(self.config.model or approved or plan.model, self.files.directory)

    def _approved_model(self, plan: Agreement) -> str | None:
        if not isinstance(plan, Contract):
            return None
        try:
            return self.files.approved_model(plan.digest()).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def model_digest(self, plan: Agreement) -> str:
        """Returns the hash of that copy as it is on disk now; computed when its files change."""
        path = self.model_path(plan)
        with self._reading:
            if self._model is None or self._model[0] != path:
                self._model = (path, Reread(path, model_digest))
            return self._model[1]()

    def dataset(self, plan: Agreement) -> Dataset:
        """Returns the records as they are on disk now, with the plan's columns, labels and unit.

        What is hashed is what was parsed. They are read again when the file changes.

        Raises:
            DataError: They do not fit the plan, or cannot be read.
        """
        unit = plan.privacy.unit_column
        key, task = (plan.task.digest(), unit), TASKS.parse(plan.task)

        def read(path: Path) -> Dataset:
            records = read_records(path, task, unit, self.view)
            return Dataset(records, self._fingerprint(record_bytes(records)))

        with self._reading:
            reading = self._readings.pop(key, None) or Reread(self.data, read)
            self._readings[key] = reading
            if len(self._readings) > _MOST_READINGS:
                del self._readings[next(iter(self._readings))]
            try:
                return reading()
            except UsageError as error:
                raise DataError(error.problem, where=error.where, remedy=error.remedy) from error
            except OSError as error:
                problem = f"it cannot be read: {error.strerror}"
                raise DataError(problem, where=str(self.data)) from error

    def records(self, plan: Agreement) -> Records:
        """Returns the records as they are now; see `dataset`."""
        return self.dataset(plan).records

    def follow(self, plan: Agreement) -> Dataset:
        """Returns the records as they are now, after the ledger has taken up whose they are.

        Raises:
            DataError: They do not fit the plan, or cannot be read.
            HortusError: The ledger cannot be written.
        """
        dataset, unit = self.dataset(plan), plan.privacy.unit
        if not self.ledger.is_following(dataset.fingerprint, unit):
            self.ledger.follow(self._content(dataset, unit))
        return dataset

    def foresee(self, plan: Agreement) -> tuple[Dataset, Placement]:
        """Returns the records as they are now, and where they would be charged; nothing is noted.

        Raises:
            DataError: They do not fit the plan, or cannot be read.
            HortusError: The ledger cannot be read.
        """
        dataset = self.dataset(plan)
        return dataset, self.ledger.foresee(self._content(dataset, plan.privacy.unit))

    def _content(self, dataset: Dataset, unit: str) -> Content:
        records = dataset.records
        rows = record_bytes(records)
        return Content.of(self._dataset_key(), dataset.fingerprint, unit, rows, records.units)

    def content(self, data: Path) -> Content:
        """Returns the keyed hashes of a file's rows, and of the units that the policy protects.

        Raises:
            UsageError: The file cannot be read, or has no such column.
        """
        unit = self.policy.budget.unit
        rows, units = read_units(data, None if unit == RECORD else unit, self.view)
        return Content.of(self._dataset_key(), self._fingerprint(rows), unit, rows, units)

    @property
    def data(self) -> Path:
        """Where the records lie."""
        return self.files.directory / self.config.data

    def _make_view(self) -> View:
        """Returns the file's own names for columns, and what is masked in them."""
        try:
            finder = finder_of(self.config.mask_identifiers)
        except UsageError as error:
            where = f"{self.files.config}: {error.where}"
            raise UsageError(error.problem, where=where, remedy=error.remedy) from error
        return View(self.config.columns, None if finder is None else finder.mask)

    def _dataset_key(self) -> bytes:
        return self.files.dataset_key.read_bytes()

    def _fingerprint(self, rows: Iterable[bytes]) -> str:
        return dataset_fingerprint(self._dataset_key(), rows)

    def data_version(self) -> Hashable:
        """Returns what changes when the file of records is replaced or written to."""
        try:
            return file_version(self.data)
        except OSError:
            return None


def keep_contract(files: SiteFiles, contract: Contract) -> None:
    """Stores a plan in a site's folder, where its agent finds it before anybody asks."""
    path = _contract_file(files, contract.digest())
    if not path.exists():
        write_atomic(path, canonical_json(contract.model_dump(mode="json")))


def keep_model(files: SiteFiles, contract: Contract, model: Path) -> None:
    """Notes where the base model of an approved plan lies: the plan names it from its own folder."""
    if is_relative_model(contract.model):
        write_atomic(files.approved_model(contract.digest()), str(model.resolve()).encode())


def _contract_file(files: SiteFiles, plan: str) -> Path:
    return files.contracts / f"{plan}.json"
