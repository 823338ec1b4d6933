"""A site's folder, opened: configuration, keys, policy, ledger and records.

Policy and roster are read again when their files have changed, so that what an operator approves or
removes counts from the next session on.
"""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import ValidationError

from hortus.client.witness import require
from hortus.learning.data.records import Records, read_records, record_bytes
from hortus.learning.models import model_digest, resolve_model
from hortus.privacy.ledger import Ledger, dataset_fingerprint
from hortus.protocol.canonical import canonical_json
from hortus.protocol.card import ServerCard, load_card
from hortus.protocol.consortium import SiteConfig, SiteFiles
from hortus.protocol.errors import DataError, UsageError
from hortus.protocol.files import write_atomic
from hortus.protocol.heads import Head
from hortus.protocol.identity import Roster, SiteIdentity
from hortus.protocol.names import SERVER
from hortus.protocol.plan import Agreement, Contract
from hortus.protocol.policy import Policy

Content = TypeVar("Content")


class _Reread(Generic[Content]):
    """A file's content, loaded again when the file was replaced or written to."""

    def __init__(self, path: Path, load: Callable[[Path], Content]) -> None:
        self._path = path
        self._load = load
        self._last: tuple[tuple[int, int, int], Content] | None = None

    def __call__(self) -> Content:
        state = self._path.stat()
        version = (state.st_ino, state.st_mtime_ns, state.st_size)
        if self._last is None or self._last[0] != version:
            self._last = (version, self._load(self._path))
        return self._last[1]


class Site:
    """An opened site folder.

    Args:
        directory: The folder that `hortus init site` made, with the server pinned.
        clock: Seconds since the epoch, for ledger entries.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
    """

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self.files = SiteFiles(directory)
        self.config = SiteConfig.load(self.files.config)
        self.name = self.config.site
        self.identity = SiteIdentity.load(self.files.identity, self.name)
        self._policy = _Reread(self.files.policy, Policy.load)
        self._roster = _Reread(self.files.roster, Roster.load)
        self._check_pinned()
        self.ledger = Ledger.open(self.files.ledger, self.identity, clock)
        try:
            self._check_anchor()
        except BaseException:
            self.ledger.close()
            raise
        self._records: dict[tuple[str, str | None], Records] = {}
        self._digests: dict[Path, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

    @property
    def policy(self) -> Policy:
        """What this site allows now."""
        return self._policy()

    @property
    def roster(self) -> Roster:
        """The keys that this site has pinned now."""
        return self._roster()

    @property
    def server(self) -> ServerCard:
        """The server's card, as pinned; it says where the server is dialled."""
        card = load_card(self.files.card(SERVER))
        if not isinstance(card, ServerCard):
            raise UsageError("this is no server's card", where=str(self.files.card(SERVER)))
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
                "the roster has another key for this site than keys/identity.pem",
                where=str(self.files.roster),
                remedy="If a change of the key was cut short: hortus rotate identity SITE_DIR",
            )

    def keep_contract(self, contract: Contract) -> None:
        """Stores a plan that the site takes part in, for who audits it later."""
        keep_contract(self.files, contract)

    def kept_contract(self, plan: str) -> Contract | None:
        """Returns the stored plan of a hash; None where there is none."""
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
            anchor = Head.load(self.files.directory / self.config.anchor)
            require(self.ledger, anchor)

    def model_path(self, plan: Agreement) -> Path:
        """Returns this site's own copy of the base model."""
        return resolve_model(self.config.model or plan.model, self.files.directory)

    def model_digest(self, plan: Agreement) -> str:
        """Returns the hash of that copy; computed once."""
        path = self.model_path(plan)
        if path not in self._digests:
            self._digests[path] = model_digest(path)
        return self._digests[path]

    def records(self, plan: Agreement) -> Records:
        """Reads the records with the plan's columns, labels and unit; read once for each of them."""
        unit = plan.privacy.unit_column
        key = (plan.task.model_dump_json(), unit)
        if key not in self._records:
            path = self.files.directory / self.config.data
            try:
                self._records[key] = read_records(path, plan.task, unit)
            except UsageError as error:
                raise DataError(error.problem, where=error.where, remedy=error.remedy) from error
        return self._records[key]

    def data_version(self) -> Hashable:
        """Returns what changes when the file of records is replaced or written to."""
        path = self.files.directory / self.config.data
        try:
            states = [file.stat() for file in (path, *sorted(path.glob("*")))]
        except OSError:
            return None
        return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)

    def fingerprint(self, records: Records) -> str:
        """Returns the keyed identity that the budget of these records goes by."""
        return dataset_fingerprint(self.files.dataset_key.read_bytes(), record_bytes(records))


def keep_contract(files: SiteFiles, contract: Contract) -> None:
    """Stores a plan in a site's folder, where its agent finds it before anybody asks."""
    path = _contract_file(files, contract.digest())
    if not path.exists():
        write_atomic(path, canonical_json(contract.model_dump(mode="json")))


def _contract_file(files: SiteFiles, plan: str) -> Path:
    return files.contracts / f"{plan}.json"
