"""Sites in one process: each computes what it would send, and the sum is taken at once."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hortus.client.trainer import Trainer
from hortus.learning.loader import Encoded
from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import CohortTooSmall, HortusError, UsageError, in_one_line
from hortus.server.run.accounts import Accounts
from hortus.server.run.attendance import AttendanceBook
from hortus.server.run.records import Departure
from hortus.server.sums.aggregator import StepSum
from hortus.simulation.budgets import budgets
from hortus.simulation.engines.base import Setting, VirtualSites
from hortus.simulation.local_sum import ring_sum
from hortus.simulation.site_records import check_count, read_site_records

# From a contract, a sum's number and the sites that could take part to those that do.
Present = Callable[[Contract, int, Sequence[str]], Sequence[str]]
_SHOWN = 5  # reasons
logger = logging.getLogger(__name__)


@contextmanager
def local_sites(setting: Setting, present: Present) -> Iterator[VirtualSites]:
    """Reads and encodes every site's records.

    Args:
        setting: What is simulated.
        present: Says which sites take part in a sum.

    Raises:
        UsageError: The plan's records cannot be used, or make fewer sites than the plan needs.
    """
    plan, contract, out = setting.plan, setting.contract, setting.store.directory
    setting.on_stage("reading the sites' records")
    records = read_site_records(plan)
    check_count(plan, records)
    limits = budgets(plan, contract, sorted(records))
    accounts = Accounts.open(out, limits, contract.privacy.delta)
    setting.on_stage("encoding the sites' records")
    setting.workbench.share_among(len(records))
    encoded = {name: setting.workbench.loader.encode(own) for name, own in records.items()}
    # Whether a site is connected is no question here; of many, each answer would be written down.
    attendance = AttendanceBook(
        out, (), time.time, on_change=lambda now: setting.on_stage(now.in_words)
    )
    yield VirtualSites(
        LocalSites(setting, encoded, accounts, present),
        attendance,
        epsilon=accounts.epsilon,
        records=lambda: list(records.values()),
    )


@dataclass(frozen=True, slots=True)
class LocalSites:
    """Sites that take part while their accounts cover it; see `round_loop.Sites`.

    Attributes:
        setting: What is simulated.
        records: Every site's, encoded.
        accounts: What they are charged to.
        present: Says which sites take part in a sum.
    """

    setting: Setting
    records: Mapping[str, Encoded]
    accounts: Accounts
    present: Present

    def volunteers(
        self, number: int, absent: Mapping[str, str], smallest: PrivateStep
    ) -> tuple[str, ...]:
        """See `round_loop.Sites`."""
        contract, store = self.setting.contract, self.setting.store
        asked = sorted(self.records.keys() - absent.keys())
        refused = self.accounts.refusals(asked, smallest.event, contract.training.local_steps)
        for site, why in refused.items():
            store.note_departure(Departure(number, site, why))
        willing = tuple(site for site in asked if site not in refused)
        if len(willing) < contract.cohort.minimum:
            raise CohortTooSmall(
                f"{len(willing)} of {len(self.records)} virtual sites would take part, the plan needs "
                f"{contract.cohort.minimum}. {_reasons(refused | dict(absent))}",
                where=f"round {number + 1}",
                remedy="Finished rounds are kept. Simulate another plan: with fewer steps, a larger ε in "
                "simulation.budgets or privacy.epsilon, or a smaller cohort.minimum.",
            )
        return willing

    def session(
        self, name: str, first: int, cohort: tuple[str, ...], step: PrivateStep
    ) -> "LocalSession":
        """See `round_loop.Sites`."""
        contract, setting = self.setting.contract, self.setting
        trainers = {
            site: Trainer(
                step,
                setting.workbench,
                self.records[site],
                UnsafeSeededRandomness(contract.seed, site),
                setting.timings,
            )
            for site in cohort
        }
        return LocalSession(name, first, step, trainers, self.accounts, self.present)


class LocalSession:
    """A session in which a site leaves when its account is spent, or its step fails; see `round_loop.Session`.

    Args:
        name: Of the session.
        first: Its first round, from 0.
        step: A step of its cohort.
        trainers: Compute the sites' vectors, by name.
        accounts: What the sites are charged to.
        present: Says which sites take part in a sum.
    """

    def __init__(
        self,
        name: str,
        first: int,
        step: PrivateStep,
        trainers: Mapping[str, Trainer],
        accounts: Accounts,
        present: Present,
    ) -> None:
        self._name = name
        self._first = first
        self._step = step
        self._contract = step.contract
        self._trainers = trainers
        self._accounts = accounts
        self._present = present
        self._departures: dict[str, str] = {}

    @property
    def departures(self) -> Mapping[str, str]:
        """See `round_loop.Session`."""
        return self._departures

    def begin(self) -> None:
        """Does nothing: there are no keys."""

    def close(self) -> None:
        """Does nothing: nobody waits."""

    def drain(self) -> None:
        """Does nothing: nobody computes any more."""

    def sum(
        self, step: int, start: NDArray[np.float32], note: Callable[[AttemptRecord], None]
    ) -> StepSum:
        """See `round_loop.Session`: makes another attempt where a site has failed, as a secure sum does."""
        number = self._first * self._contract.training.steps_per_round + step
        total, sites = np.zeros(self._step.words, np.uint32), self._ready(number)
        for attempt in itertools.count():
            note(AttemptRecord(self._name, step, attempt, sites, (), complete=False))
            if attempt == 0 or self._pays_again:
                total, heard = self._vectors(sites, start, number, attempt)
            complete = len(heard) == len(sites)
            note(AttemptRecord(self._name, step, attempt, sites, heard, complete))
            if complete:
                return StepSum(total, sites, attempt + 1)
            sites = self._enough(self._paying(heard) if self._pays_again else heard)
        raise AssertionError  # never reached: too few sites end it first

    @property
    def _pays_again(self) -> bool:
        """Whether another attempt is another release: a vector that is private alone stays the same, and is paid for."""
        return self._contract.privacy.noise is Noise.DISTRIBUTED

    def _ready(self, number: int) -> tuple[str, ...]:
        """Returns the sites that take part in a sum and can pay for it."""
        live = self._enough([site for site in self._trainers if site not in self._departures])
        present = frozenset(self._present(self._contract, number, live))
        sites = tuple(site for site in live if site in present)
        if len(sites) < self._contract.cohort.minimum:
            raise UsageError(
                f"{len(sites)} of {len(live)} sites are present in sum {number + 1}, the plan needs "
                f"{self._contract.cohort.minimum}",
                where="cohort.minimum",
                remedy="Lower it, or have more sites present (simulation.engine).",
            )
        return self._enough(self._paying(sites))

    def _paying(self, sites: Sequence[str]) -> list[str]:
        """Returns those that can pay for one more sum; the others leave."""
        releases = self._contract.training.local_steps
        refused = self._accounts.refusals(sites, self._step.event, releases)
        self._departures |= refused
        return [site for site in sites if site not in refused]

    def _enough(self, sites: Sequence[str]) -> tuple[str, ...]:
        """Returns the sites, if they are enough for a sum."""
        if len(sites) < self._contract.cohort.minimum:
            raise CohortTooSmall(
                f"{len(sites)} of at least {self._contract.cohort.minimum} sites are left: "
                + _reasons(self._departures)
            )
        return tuple(sites)

    def _vectors(
        self, sites: tuple[str, ...], start: NDArray[np.float32], number: int, attempt: int
    ) -> tuple[NDArray[np.uint32], tuple[str, ...]]:
        """Returns the ring sum, uint32[words], and the sites that are in it: those whose step did not fail."""
        training, event = self._contract.training, self._step.event
        round_ = number // training.steps_per_round
        self._accounts.charge(sites, event, training.local_steps, round_)
        failed: list[str] = []

        def computed() -> Iterator[NDArray[np.int64]]:
            for site in sites:
                try:
                    vector = self._trainers[site].vector(start, number, attempt)
                except HortusError as error:
                    logger.warning("%s left the session: %s", site, error)
                    self._departures[site] = in_one_line(str(error))
                    failed.append(site)
                else:
                    yield vector

        total = ring_sum(computed(), self._step.words)
        if failed:
            self._accounts.take_back(failed)
        return total, tuple(site for site in sites if site not in failed)


def _reasons(refused: Mapping[str, str]) -> str:
    """Says why sites are away, of some of them."""
    shown = [f"{site}: {why}." for site, why in itertools.islice(sorted(refused.items()), _SHOWN)]
    more = len(refused) - len(shown)
    return " ".join([*shown, *([f"And {more} more."] if more else [])])
