"""A site's folder, opened: configuration, keys, policy, ledger and records."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from hortus.learning.datasets import Records, read_records, record_bytes
from hortus.learning.models import model_digest, resolve_model
from hortus.privacy.ledger import Ledger, dataset_fingerprint
from hortus.protocol.consortium import SiteConfig, SiteFiles
from hortus.protocol.files import load_yaml, validation_error
from hortus.protocol.identity import Roster, SiteIdentity
from hortus.protocol.plan import Agreement
from hortus.protocol.policy import Policy


class Site:
    """An opened site folder.

    Args:
        directory: The folder that `hortus init` made.
        clock: Seconds since the epoch, for ledger entries.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
    """

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self.files = SiteFiles(directory)
        self.config = _load_config(self.files.config)
        self.name = self.config.site
        self.policy = Policy.load(self.files.policy)
        self.roster = Roster.load(self.files.roster)
        self.identity = SiteIdentity.load(self.files.identity, self.name)
        self.ledger = Ledger.open(self.files.ledger, self.identity, clock)
        self._records: dict[tuple[str, str | None], Records] = {}
        self._digests: dict[Path, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

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
            self._records[key] = read_records(path, plan.task, unit)
        return self._records[key]

    def fingerprint(self, records: Records) -> str:
        """Returns the keyed identity that the budget of these records goes by."""
        return dataset_fingerprint(self.files.dataset_key.read_bytes(), record_bytes(records))


def _load_config(path: Path) -> SiteConfig:
    try:
        return SiteConfig.model_validate(load_yaml(path))
    except ValidationError as error:
        raise validation_error(path, error, SiteConfig) from error
