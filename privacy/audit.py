"""An audit of a ledger from its entries alone, by other means than those that wrote it.

The chain and signatures are recomputed, and so is every ε: it must lie between a lower bound from
Opacus's PRV accountant (Gopi et al. 2021: numerical, with proven error) and an upper bound from its
RDP accountant (Mironov et al. 2019). The ledger's own ε is dp_accounting's, or the RDP bound where
that is smaller. The lower bound is computed anew whenever the RDP bound has grown by 2 % and at the
end of each run; more releases never lower ε, so in between the last one holds.
"""

import functools
import math
import re
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from hortus.privacy.accounting import GaussianEvent
from hortus.privacy.entries import GENESIS, Charge, Charged, Entry, content_hash
from hortus.privacy.ledger import SELECT_ENTRIES, explained
from hortus.protocol.errors import UsageError

# A claim may be outside of its bounds by this share, for rounding in either accountant …
_TOLERANCE = 0.01
# … and above the upper one by this much, since a discretised accountant rounds a tiny ε up.
_UPPER_SLACK = 0.01
_CHECKPOINT_GROWTH = 1.02
# Less noise than this is none (ε > 10⁵), and divides by zero.
_LEAST_NOISE = 1e-3
# Beyond this ε nothing is promised to anybody, and the PRV accountant's grid outgrows memory.
_PRV_LIMIT = 100.0

_ORDERS = np.array(
    [1 + tenth / 10 for tenth in range(1, 100)]
    + [*range(11, 64), 80, 96, 128, 192, 256, 384, 512, 768, 1000],
    dtype=np.float64,
)

Rdp = NDArray[np.float64]  # (orders,)
History = Mapping[GaussianEvent, int]


class Severity(StrEnum):
    """What a finding does to the trust in a ledger."""

    BROKEN = "broken"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """An entry that does not fit.

    Attributes:
        entry: Its number.
        severity: `broken`: the ledger does not prove what it says.
        problem: What does not fit.
        meaning: What may have happened.
    """

    entry: int
    severity: Severity
    problem: str
    meaning: str


@dataclass(frozen=True, slots=True)
class RoundRow:
    """What one round released from one dataset.

    Attributes:
        run: The run.
        round: The round.
        site: The site.
        dataset: Fingerprint of the records.
        mode: A value of `protocol.plan.Noise`.
        mechanism: What was added.
        sampling_rate: q.
        noise_multiplier: σ, over sensitivity.
        clipping_norm: C.
        releases: Compositions, those of repeated attempts included.
        delta: δ of both ε.
        epsilon_alone: ε of this row by itself, by the PRV accountant.
        epsilon_so_far: ε of the dataset after this round: the ledger's claim, or recomputed by the
            PRV accountant where the audit was asked for another δ.
    """

    run: str
    round: int
    site: str
    dataset: str
    mode: str
    mechanism: str
    sampling_rate: float
    noise_multiplier: float
    clipping_norm: float
    releases: int
    delta: float
    epsilon_alone: float
    epsilon_so_far: float


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        site: The site.
        entries: How many entries were read.
        head: Number and hash of the last; compare with what others have seen of this site, since
            an older copy of a ledger is whole in itself.
        findings: By entry; empty for a ledger in order.
        rounds: What was released, in order.
    """

    site: str
    entries: int
    head: tuple[int, str]
    findings: tuple[Finding, ...]
    rounds: tuple[RoundRow, ...]

    @property
    def first_broken(self) -> Finding | None:
        """The first entry that does not fit; None for a ledger that proves what it says."""
        return next((f for f in self.findings if f.severity is Severity.BROKEN), None)


def audit_ledger(path: Path, public_key: bytes, site: str, delta: float | None = None) -> Audit:
    """Audits a ledger without changing it.

    Args:
        path: The SQLite file (with its -wal file, if the site's agent is running or was killed).
        public_key: The site's raw Ed25519 key, from a roster that the auditor trusts.
        site: The site's name.
        delta: Report rounds at this δ; None: at the one of each entry.

    Raises:
        UsageError: There is no such file.
        HortusError: It is not a ledger that SQLite can read.
    """
    if not path.is_file():
        raise UsageError("there is no ledger", where=str(path))
    rows = _read(path)
    ends = {_run(content): number for number, content, *_ in rows}
    chain, costs, rounds = _Chain(public_key, site), _Costs(), _Rounds(site, delta)
    findings: list[Finding] = []
    for number, content, hash_, signature in rows:
        try:
            entry = Entry.parse(content, hash_, signature)
        except ValueError as error:
            findings.append(chain.skip(hash_, error))
            continue
        broken = chain.check(number, entry)
        late = chain.late(entry)
        unfit = None
        if isinstance(entry.body, Charged):
            unfit = costs.check(entry.seq, entry.body, thorough=ends[_run(content)] == number)
            rounds.add(entry.body, costs.history(entry.body.charge.dataset))
        findings += [finding for finding in (broken or unfit, late) if finding]
    findings.sort(key=lambda finding: finding.entry)
    return Audit(site, len(rows), chain.head, tuple(findings), rounds.rows())


def _read(path: Path) -> list[tuple[Any, ...]]:
    with explained(path):
        uri = f"file:{quote(str(path.absolute()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(SELECT_ENTRIES).fetchall()


def _run(content: str) -> str:
    """Returns what an entry says is its run, whether or not the rest of it can be read."""
    found = re.search(r'"run":"([^"]*)"', content)
    return found[1] if found else ""


class _Chain:
    """Numbers, hashes, signatures and times, entry after entry."""

    def __init__(self, public_key: bytes, site: str) -> None:
        self.head: tuple[int, str] = (0, GENESIS)
        self._public_key = public_key
        self._site = site
        self._time = -math.inf

    def check(self, number: int, entry: Entry) -> Finding | None:
        """Returns the first thing that does not fit, and goes on from this entry."""
        (before, previous), self.head = self.head, (number, entry.hash)
        if number != before + 1:
            return _broken(before + 1, "it is missing", "An entry was deleted or renumbered.")
        if entry.seq != number:
            return _broken(
                number, f"it says that it is number {entry.seq}", "Entries were renumbered."
            )
        if entry.previous_hash != previous:
            return _broken(
                entry.seq,
                "it does not continue the entry before it",
                "An entry was replaced, inserted, deleted or put in another place.",
            )
        if entry.hash != content_hash(entry.content):
            return _broken(
                entry.seq,
                "its hash is not that of its content",
                "A value in it was changed after it was written.",
            )
        if not entry.is_signed_by(self._public_key):
            return _broken(
                entry.seq,
                f"its signature is not by the key of {self._site}",
                "Somebody without the site's key wrote it, or the roster has another key.",
            )
        return None

    def late(self, entry: Entry) -> Finding | None:
        """Returns a warning if the entry is older than the one before it."""
        before, self._time = self._time, entry.time
        if entry.time >= before:
            return None
        return Finding(
            entry.seq,
            Severity.WARNING,
            f"it is {before - entry.time:.0f} s older than the entry before it",
            "The site's clock was set back; the order of entries is still certain.",
        )

    def skip(self, hash_: str, error: Exception) -> Finding:
        """Goes on after an entry that cannot be read at all."""
        number = self.head[0] + 1
        self.head = (number, hash_)
        return _broken(number, f"it cannot be read: {error}", "A value in it was changed.")


@dataclass(slots=True)
class _Account:
    """What has been released from one dataset."""

    rdp: Rdp = field(default_factory=lambda: np.zeros(len(_ORDERS)))
    history: dict[GaussianEvent, int] = field(default_factory=dict)
    is_bare: bool = False
    # Last checkpoint at each δ: the RDP bound there, and the lower bound.
    checkpoints: dict[float, tuple[float, float]] = field(default_factory=dict)


class _Costs:
    """ε of every dataset, recomputed entry after entry."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def check(self, seq: int, entry: Charged, *, thorough: bool) -> Finding | None:
        """Adds the entry and compares its ε with the bounds of everything so far.

        Args:
            seq: Number of the entry.
            entry: What it charged.
            thorough: Compute the lower bound anew, however little has been added.
        """
        charge = entry.charge
        account = self._accounts.setdefault(charge.dataset, _Account())
        if charge.is_private:
            event = charge.event
            account.history[event] = account.history.get(event, 0) + charge.releases
            account.rdp += charge.releases * _rdp_of(event)
        else:
            account.is_bare = True
        if account.is_bare:
            lower = upper = math.inf
        else:
            upper = _epsilon_rdp(account.rdp, charge.delta)
            lower = _lower_bound(account, charge.delta, upper, thorough=thorough)
        claim = f"it says ε = {entry.epsilon_after:.6g} at δ = {charge.delta:g}"
        if entry.epsilon_after < lower * (1 - _TOLERANCE):
            return _broken(
                seq,
                f"{claim}; its entries up to here cost at least {lower:.6g}",
                "More was spent than the site admits, by a faulty program or on purpose.",
            )
        if not entry.epsilon_after <= upper * (1 + _TOLERANCE) + _UPPER_SLACK:
            return _broken(
                seq,
                f"{claim}; its entries up to here cost at most {upper:.6g}",
                "Entries of this dataset are not in this ledger, or the program counts wrongly.",
            )
        return None

    def history(self, dataset: str) -> History | None:
        """Returns what was released from a dataset so far; None if once without privacy."""
        account = self._accounts[dataset]
        return None if account.is_bare else account.history


def _lower_bound(account: _Account, delta: float, upper: float, *, thorough: bool) -> float:
    reached, lower = account.checkpoints.get(delta, (0.0, 0.0))
    if thorough or upper > reached * _CHECKPOINT_GROWTH:
        lower = _prv_lower(account.history, delta, upper)
        account.checkpoints[delta] = (upper, lower)
    return lower


@functools.lru_cache(maxsize=1024)
def _rdp_of(event: GaussianEvent) -> Rdp:
    """Returns the Rényi divergences of one release, at `_ORDERS`."""
    orders = [float(order) for order in _ORDERS]
    noise = max(event.noise_multiplier, _LEAST_NOISE)
    with np.errstate(all="ignore"):
        values = compute_rdp(q=event.sampling_rate, noise_multiplier=noise, steps=1, orders=orders)
    return np.asarray(values, dtype=np.float64)


def _total_rdp(history: History) -> Rdp:
    return sum((n * _rdp_of(e) for e, n in history.items()), np.zeros(len(_ORDERS)))


def _epsilon_rdp(rdp: Rdp, delta: float) -> float:
    """Converts Rényi divergences to ε at δ (Balle et al. 2020, theorem 21)."""
    terms = rdp - (np.log(delta) + np.log(_ORDERS)) / (_ORDERS - 1) + np.log1p(-1 / _ORDERS)
    return max(0.0, float(np.nanmin(terms)))


def _prv(history: History, delta: float, delta_error: float, error: float) -> float:
    """Returns ε(δ - delta_error) + error, by Opacus's PRV accountant."""
    accountant = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, n) for e, n in history.items()]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta_error))


def _prv_lower(history: History, delta: float, scale: float) -> float:
    """Returns a proven lower bound of ε, `scale` being its Rényi bound."""
    while scale > _PRV_LIMIT:
        # More noise never costs more, so what a noisier history costs is a lower bound too.
        history = {
            GaussianEvent(e.sampling_rate, 2 * max(e.noise_multiplier, _LEAST_NOISE)): n
            for e, n in history.items()
        }
        scale = _epsilon_rdp(_total_rdp(history), delta)
    error, delta_error = _prv_error(scale), delta / 1000
    # What is the upper bound at a δ larger by both errors is, less both errors, a lower bound at δ.
    return max(0.0, _prv(history, delta + 2 * delta_error, delta_error, error) - 2 * error)


def _prv_error(scale: float) -> float:
    return min(0.01, max(0.001, scale / 200))


@dataclass(slots=True)
class _Open:
    """A row that still grows."""

    charge: Charge
    releases: int = 0
    claim: float = 0.0
    history: History | None = None


class _Rounds:
    """Sums entries up by round."""

    def __init__(self, site: str, delta: float | None) -> None:
        self._site = site
        self._delta = delta
        self._open: dict[tuple[object, ...], _Open] = {}
        self._known: dict[tuple[tuple[tuple[GaussianEvent, int], ...], float], float] = {}

    def add(self, entry: Charged, history: History | None) -> None:
        """Adds an entry; `history` is everything released from its dataset up to it."""
        charge = entry.charge
        key = (charge.run, charge.round, charge.dataset, charge.mode, charge.mechanism)
        numbers = (
            charge.sampling_rate,
            charge.noise_multiplier,
            charge.clipping_norm,
            charge.delta,
        )
        row = self._open.setdefault((*key, *numbers), _Open(charge))
        row.releases += charge.releases
        row.claim = entry.epsilon_after
        row.history = None if history is None else dict(history)

    def rows(self) -> tuple[RoundRow, ...]:
        """Returns the rows in the order in which they were begun."""
        return tuple(map(self._close, self._open.values()))

    def _close(self, row: _Open) -> RoundRow:
        charge = row.charge
        delta = self._delta or charge.delta
        alone = {charge.event: row.releases} if charge.is_private else None
        so_far = row.claim if delta == charge.delta else self._epsilon(row.history, delta)
        return RoundRow(
            run=charge.run,
            round=charge.round,
            site=self._site,
            dataset=charge.dataset,
            mode=charge.mode,
            mechanism=charge.mechanism,
            sampling_rate=charge.sampling_rate,
            noise_multiplier=charge.noise_multiplier,
            clipping_norm=charge.clipping_norm,
            releases=row.releases,
            delta=delta,
            epsilon_alone=self._epsilon(alone, delta),
            epsilon_so_far=so_far,
        )

    def _epsilon(self, history: History | None, delta: float) -> float:
        if history is None:
            return math.inf
        key = (tuple(sorted(history.items())), delta)
        if key not in self._known:
            bound = _epsilon_rdp(_total_rdp(history), delta)
            if bound <= _PRV_LIMIT:
                bound = min(bound, _prv(history, delta, delta / 1000, _prv_error(bound)))
            self._known[key] = bound
        return self._known[key]


def _broken(entry: int, problem: str, meaning: str) -> Finding:
    return Finding(entry, Severity.BROKEN, problem, meaning)
