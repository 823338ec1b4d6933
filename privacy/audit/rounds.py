"""A ledger's charges, summed up by round."""

import math
from dataclasses import dataclass

from hortus.privacy.audit.costs import epsilon_alone
from hortus.privacy.audit.evidence import Evidence
from hortus.privacy.ledger.charges import Charge, Charged
from hortus.privacy.ledger.decisions import Declined


@dataclass(frozen=True, slots=True)
class RoundRow:
    """What one round charged to one account; nothing, if it was only refused.

    Attributes:
        run: The run.
        plan: Hash of its plan.
        round: The round, from 0.
        began: Time of its first entry, seconds since the epoch.
        ended: Time of its last.
        site: The site.
        dataset: The account: a dataset with all that it was before.
        unit: The privacy unit.
        mode: A value of `protocol.privacy.Noise`.
        mechanism: What was added.
        sampling_rate: q.
        noise_multiplier: σ, over sensitivity.
        clipping_norm: C.
        releases: Compositions, those of repeated attempts included.
        unsent: Charges whose vector the server is not known to have taken: they stay charged.
        delta: δ of both ε.
        epsilon_alone: ε of this row alone, recomputed.
        epsilon_so_far: ε of the dataset after this round, as the ledger has it.
        limit: The lifetime limit then; infinite if none is recorded.
        refusals: How often the site refused during the round.
    """

    run: str
    plan: str
    round: int
    began: float
    ended: float
    site: str
    dataset: str
    unit: str
    mode: str
    mechanism: str
    sampling_rate: float
    noise_multiplier: float
    clipping_norm: float
    releases: int
    unsent: int
    delta: float
    epsilon_alone: float
    epsilon_so_far: float
    limit: float
    refusals: int

    @property
    def left(self) -> float:
        """What the limit still allowed."""
        return max(0.0, self.limit - self.epsilon_so_far)


@dataclass(slots=True)
class _Open:
    """A row that still grows."""

    round: int
    last: Charged
    began: float
    ended: float
    releases: int = 0
    unsent: int = 0
    refusals: int = 0


class Rounds:
    """Sums entries up by round."""

    def __init__(self, evidence: Evidence) -> None:
        self._site = evidence.site
        self._sent = evidence.sent
        self._open: dict[tuple[object, ...], _Open] = {}
        self._latest: dict[str, _Open] = {}  # by run

    def add(self, time: float, charged: Charged) -> None:
        """Adds a charge, and the time of its entry, to its row."""
        c = charged.charge
        key = (c.run, c.round, charged.account, c.mode, c.mechanism, c.sampling_rate)
        row = self._open.setdefault(
            (*key, c.noise_multiplier, c.clipping_norm, c.delta),
            _Open(c.round, charged, time, time),
        )
        self._latest[c.run] = row
        row.last, row.ended = charged, time
        row.releases += c.releases
        row.unsent += c.key not in self._sent

    def refuse(self, time: float, declined: Declined) -> None:
        """Adds a refusal, and the time of its entry, to its round; one of a run from which nothing was released is in none."""
        latest = self._latest.get(declined.run)
        if latest is None:
            return
        if latest.round != declined.round:
            # What was refused would have been released as what was released last.
            refused = _Open(declined.round, latest.last, time, time)
            latest = self._open.setdefault((declined.run, declined.round), refused)
        latest.refusals, latest.ended = latest.refusals + 1, time

    def rows(self) -> tuple[RoundRow, ...]:
        """Returns the rows in the order in which they were begun."""
        return tuple(map(self._close, self._open.values()))

    def _close(self, row: _Open) -> RoundRow:
        charge, level = row.last.charge, row.last.levels[0]
        return RoundRow(
            run=charge.run,
            plan=charge.plan,
            round=row.round,
            began=row.began,
            ended=row.ended,
            site=self._site,
            dataset=row.last.account,
            unit=charge.unit,
            mode=charge.mode,
            mechanism=charge.mechanism,
            sampling_rate=charge.sampling_rate,
            noise_multiplier=charge.noise_multiplier,
            clipping_norm=charge.clipping_norm,
            releases=row.releases,
            unsent=row.unsent,
            delta=charge.delta,
            epsilon_alone=self._epsilon(charge, row.releases),
            epsilon_so_far=level.epsilon,
            limit=level.limit,
            refusals=row.refusals,
        )

    @staticmethod
    def _epsilon(charge: Charge, releases: int) -> float:
        if not releases:
            return 0.0
        return (
            epsilon_alone(charge.event, releases, charge.delta) if charge.is_private else math.inf
        )
