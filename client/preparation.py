"""What a site makes of its records and of the base model for a plan, before it takes part.

It is made ahead or in the background, and is there for the server from a public time on: nothing is
computed from a record between a question and its answer. How long it took shows only as a place on a grid,
and by the same place the next time, so that a server gains nothing by having it made again.
"""

import logging
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from hortus.client.consent.refusals import check_model
from hortus.client.pace import Clock, Pace
from hortus.client.site.folder import Site
from hortus.learning.loader import Encoded
from hortus.learning.methods.kinds import METHODS
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract
from hortus.runtime.errors import HortusError

# The first slot hides what takes less; longer ones, by factors of two, are met once for each model and task.
_FIRST_SECONDS = 5.0
_GROWTH = 2.0
# A failure is kept for as long, unless the files change: the server may ask again at once.
_KEPT_SECONDS = 60.0
_MANY_LAYERS = 2**16  # more than any model has: those that a plan leaves frozen
logger = logging.getLogger(__name__)


class Preparing(HortusError):  # noqa: N818 - an answer, not a fault
    """What a plan needs is not there yet.

    Args:
        seconds: After which it is worth asking again; they depend on no record.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"it is preparing for the plan; ask again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class EncodedDataset:
    """A site's records as a workbench takes them.

    Attributes:
        fingerprint: The keyed identity of their content: see `client.site.folder.Dataset`.
        records: The records.
    """

    fingerprint: str
    records: Encoded


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a site computes before a session.

    Attributes:
        workbench: The warm model of the plan.
        data: The records.
    """

    workbench: Workbench
    data: EncodedDataset


class Materials:
    """Reads and encodes what plans need at one site.

    Args:
        site: The site.
        workbench: Gives the warm model of a contract.
    """

    def __init__(self, site: Site, workbench: Callable[[Contract], Workbench]) -> None:
        self._site = site
        self._workbench = workbench
        # A step may find changed records while they are prepared for a question.
        self._follow_lock, self._encode_lock = threading.Lock(), threading.Lock()
        self._encoded: tuple[Hashable, Encoded] | None = None

    def prepare(self, contract: Contract) -> Prepared:
        """Computes all that a plan needs.

        Raises:
            Refused: The base model is not the contract's.
            HortusError: Plan, model and records do not fit together.
        """
        logger.info("prepares for %s: checks the base model", contract.name)
        check_model(contract, self._site.model_digest(contract))
        workbench = self._workbench(contract)
        logger.info("prepares for %s: reads and encodes its records", contract.name)
        return Prepared(workbench, self.records(contract, workbench))

    def records(
        self, contract: Contract, workbench: Workbench, known: EncodedDataset | None = None
    ) -> EncodedDataset:
        """Returns the records as they are now, encoded where they changed.

        Args:
            contract: Says what is read.
            workbench: Encodes it.
            known: A session's own: what is prepared for another plan meanwhile does not delay its steps.

        Raises:
            DataError: They do not fit the plan, or cannot be read.
            HortusError: The ledger cannot be written.
        """
        with self._follow_lock:
            dataset = self._site.follow(contract)
        if known is not None and known.fingerprint == dataset.fingerprint:
            return known
        with self._encode_lock:
            key = (dataset.fingerprint, encoding_key(contract))
            if self._encoded is None or self._encoded[0] != key:
                encoded = workbench.loader.encode(dataset.records)
                if empty := encoded.without_target:
                    logger.warning(
                        "%d of %d records are cut before anything that is to be learnt, and add nothing: raise "
                        "task.max_length, or leave them out",
                        empty,
                        len(encoded),
                    )
                self._encoded = (key, encoded)
            return EncodedDataset(dataset.fingerprint, self._encoded[1])


class _Work:
    """One plan's preparation, which runs in a thread of its own where the site is watched."""

    def __init__(
        self, contract: Contract, version: Hashable, pace: Pace, clock: Clock, begun: float
    ) -> None:
        self.plan = contract.digest()
        self.version = version
        self._pace = pace
        self._clock = clock
        self._begun = begun
        self._due: float | None = None
        self._outcome: Prepared | Exception | None = None

    def run(self, make: Callable[[], Prepared]) -> None:
        """Makes it; keeps an error, to report it at the right time."""
        try:
            self._outcome = make()
        except Exception as error:  # noqa: BLE001 - it is raised where it is asked for
            self._outcome = error
        self._due = self._begun + self._pace.due(self._clock.now() - self._begun)

    def seconds_left(self, now: float) -> float:
        """Returns the time until the next place on the grid; 0 or less when it is there for all to see."""
        if self._due is not None:
            return self._due - now
        return self._begun + self._pace.after(now - self._begun) - now

    def is_stale(self, version: Hashable, now: float) -> bool:
        """Whether it is to be made again: the files have changed, or it failed a while ago."""
        failed = isinstance(self._outcome, Exception)
        return version != self.version or (failed and self.seconds_left(now) < -_KEPT_SECONDS)

    def result(self) -> Prepared:
        """Returns what was made, or raises what was raised."""
        assert self._outcome is not None  # noqa: S101 - it is due
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class Preparations:
    """Keeps what the last plan needs.

    Args:
        make: Makes it: reads the model and the records.
        version: What changes when the files do that it reads.
        clock: The site's; where nobody watches, it is made when it is asked for.
    """

    def __init__(
        self,
        make: Callable[[Contract], Prepared],
        version: Callable[[Contract], Hashable],
        clock: Clock,
    ) -> None:
        self._make = make
        self._version = version
        self._clock = clock
        self._lock = threading.Lock()
        self._work: _Work | None = None
        self._thread: threading.Thread | None = None
        self._paces: dict[Hashable, Pace] = {}

    def of(self, contract: Contract) -> Prepared:
        """Returns what a plan needs; begins to make it where it is not there.

        Raises:
            Preparing: It, or another plan's, is being made.
            HortusError: It cannot be made: files do not fit, or another failure.
        """
        if not self._clock.observed:
            return self._at_once(contract)
        with self._lock:
            now, version = self._clock.now(), self._version(contract)
            left = self._work.seconds_left(now) if self._work else 0.0
            if left <= 0 and (
                self._work is None
                or self._work.plan != contract.digest()
                or self._work.is_stale(version, now)
            ):
                left = self._begin(contract, version, now)
            if left > 0:
                raise Preparing(math.ceil(left))
            assert self._work is not None  # noqa: S101 - else it has just begun
            return self._work.result()

    def wait(self, seconds: float) -> None:
        """Waits for what is being made, at the end of the program."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _at_once(self, contract: Contract) -> Prepared:
        with self._lock:
            now, version = self._clock.now(), self._version(contract)
            if (
                self._work is None
                or self._work.plan != contract.digest()
                or self._work.version != version
            ):
                made = self._make(contract)
                self._work = _Work(contract, version, Pace(1), self._clock, now)
                self._work.run(lambda: made)
            return self._work.result()

    def _begin(self, contract: Contract, version: Hashable, now: float) -> float:
        """Begins to make what a plan needs; returns the seconds to the first place on its grid."""
        self._work = work = _Work(contract, version, self._pace(contract), self._clock, now)
        self._thread = threading.Thread(
            target=work.run, args=(lambda: self._make(contract),), name="prepares", daemon=True
        )
        left = work.seconds_left(now)
        self._thread.start()
        return left

    def _pace(self, contract: Contract) -> Pace:
        """Returns the grid of what is made of the same files: of these a site's operator has approved few."""
        key = encoding_key(contract)[:4]
        return self._paces.setdefault(key, Pace(_FIRST_SECONDS, _GROWTH))


def encoding_key(contract: Contract) -> tuple[Hashable, ...]:
    """Returns everything that affects how records are encoded, which a plan's name and seed do not."""
    method = METHODS.parse(contract.adapter)
    return (
        contract.model_digest,
        contract.task.digest(),
        contract.privacy.unit,
        contract.training.precision,
        method.trains_heads_alone,
        method.frozen_layers(_MANY_LAYERS),
    )
