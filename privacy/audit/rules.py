"""Limits, grants, freezes, periods, attempts and contracts, replayed over a ledger's entries."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from hortus.privacy.audit.consents import stored_contract
from hortus.privacy.audit.evidence import Evidence
from hortus.privacy.audit.findings import Finding, broken, warning
from hortus.privacy.audit.lineages import Accounts
from hortus.privacy.audit.noise import noise_range
from hortus.privacy.ledger.charges import Charge, Charged, Level, Scope
from hortus.privacy.ledger.decisions import EVERY_DATASET, Frozen, Granted, Unfrozen
from hortus.privacy.ledger.entries import Entry
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Every, period_of
from hortus.protocol.privacy import Noise, Privacy


class Rules:
    """Replays limits, grants, freezes, periods, attempts and contracts."""

    def __init__(self, contracts: Mapping[str, str], accounts: Accounts) -> None:
        self._contracts = contracts
        self._accounts = accounts
        self._granted: defaultdict[str, float] = defaultdict(float)
        self._frozen: set[str] = set()
        self._seen: set[tuple[str, int, int]] = set()
        self._base: dict[tuple[object, ...], float] = {}
        self._units: dict[str, str] = {}
        self._deltas: dict[str, float] = {}
        self._sessions: dict[str, tuple[str, str]] = {}
        self._charged_to: dict[str, str] = {}  # of each session
        self._runs: dict[str, str] = {}
        self._first_rounds: dict[str, int] = {}
        self._plans: dict[str, Contract | None] = {}
        self._time = -math.inf

    def check(self, entry: Entry) -> list[Finding]:
        """Returns what an entry does that the ones before it do not allow."""
        self._time = max(self._time, entry.time)
        root = self._accounts.root
        match entry.body:
            case Charged() as charged:
                self._join(root(charged.account), charged.joins)
                return list(self._check_charge(entry.seq, charged, root(charged.account)))
            case Granted(dataset, more):
                self._granted[root(dataset)] += more
            case Frozen(dataset):
                self._frozen.add(root(dataset))
            case Unfrozen(dataset):
                self._frozen.discard(root(dataset))
        return []

    def _join(self, account: str, joins: Iterable[str]) -> None:
        """Accounts that are one from here on: the least that was granted, and any freeze."""
        for name in joins:
            self._granted[account] = min(self._granted[account], self._granted.pop(name, 0.0))
            if name in self._frozen:
                self._frozen.add(account)
            self._units.setdefault(account, self._units.pop(name, ""))

    def _check_charge(self, seq: int, charged: Charged, account: str) -> Iterator[Finding]:
        charge = charged.charge
        if self._frozen & {account, EVERY_DATASET}:
            yield broken(seq, "its dataset was frozen", "The program ignored its operator.")
        if charge.key in self._seen:
            yield broken(seq, "its attempt was charged before", "One mask may cover two vectors.")
        self._seen.add(charge.key)
        yield from self._check_session(seq, charge, account)
        delta = self._deltas.get(account, charge.delta)
        self._deltas[account] = charge.delta
        if charge.delta != delta:
            yield warning(
                seq,
                f"its ε is at δ = {charge.delta:g}, but earlier ones are at {delta:g}",
                "The operator changed the budget's δ: a larger one makes every ε smaller.",
            )
        unit = self._units.setdefault(account, charge.unit)
        if unit != charge.unit:
            yield warning(
                seq,
                f"it protects a {charge.unit}, but earlier entries protect a {unit}",
                "Their losses cannot be added up, so ε holds for neither.",
            )
        for level in charged.levels:
            if level.epsilon > level.limit:
                yield broken(
                    seq,
                    f"it brought {level.name} to ε = {level.epsilon:.6g}, over {level.limit:.6g}",
                    "The program released what its policy forbade.",
                )
            if level.scope is Scope.PERIOD and level.period not in {
                period_of(self._time, every) for every in Every
            }:
                yield broken(
                    seq,
                    f"it was charged to {level.period}, but its time is in another period",
                    "A clock, or the entry, was changed to spend another period's budget.",
                )
            yield from self._check_limit(seq, account, charge, level)
        yield from self._check_contract(seq, charge)

    def _check_session(self, seq: int, charge: Charge, account: str) -> Iterator[Finding]:
        """Holds a charge against those of its session and run; a ledger refuses two plans of one."""
        of_session = (charge.run, charge.plan)
        of_run = self._runs.setdefault(charge.run, charge.plan)
        if self._sessions.setdefault(charge.session, of_session) != of_session or (
            of_run != charge.plan
        ):
            yield broken(
                seq,
                "its session or its run belonged to another plan before",
                "It was charged with another plan's numbers, or to another run.",
            )
        before = self._accounts.root(self._charged_to.setdefault(charge.session, account))
        if before != account:
            yield warning(
                seq,
                f"its session was charged to account {before[:16]} earlier",
                "The records changed during the session, or part of it was charged elsewhere.",
            )

    def _check_limit(
        self, seq: int, account: str, charge: Charge, level: Level
    ) -> Iterator[Finding]:
        if math.isinf(level.limit):
            return
        granted = 0.0
        if level.scope is Scope.LIFETIME:
            granted = self._granted[account] + self._granted[EVERY_DATASET]
        # A period's limit is the same for every period of its length.
        plan = charge.plan if level.scope is Scope.PLAN else ""
        key = (account, level.scope, plan, len(level.period))
        base = level.limit - granted
        before = self._base.get(key, base)
        self._base[key] = base
        if not math.isclose(base, before, rel_tol=1e-9):
            yield warning(
                seq,
                f"policy.yaml allowed {level.name} ε = {base:.6g}, but {before:.6g} before that",
                "The operator changed the budget without a signed grant.",
            )

    def _check_contract(self, seq: int, charge: Charge) -> Iterator[Finding]:
        if charge.plan not in self._plans:
            contract = self._plans[charge.plan] = stored_contract(self._contracts, charge.plan)
            if charge.plan not in self._contracts:
                yield warning(
                    seq,
                    f"its plan {charge.plan[:16]}… is missing from the evidence",
                    "What was charged cannot be compared with what was approved.",
                )
            elif contract is None:
                yield broken(
                    seq,
                    f"the plan stored as {charge.plan[:16]}… has another hash",
                    "The plan was changed after it was approved.",
                )
        contract = self._plans[charge.plan]
        if contract is None:
            return
        yield from self._check_place(seq, charge, contract)
        privacy = contract.privacy
        if charge.delta > privacy.delta:
            yield warning(
                seq,
                f"its ε is at δ = {charge.delta:g}, but its plan's is at {privacy.delta:g}",
                "A larger δ makes ε smaller: compare the plan's promise at the plan's δ.",
            )
        norm = _agreed_norm(privacy, charge.clipping_norm)
        rate, releases = contract.training.sampling_rate, contract.training.local_steps
        agreed = (privacy.noise.value, rate, norm, privacy.unit, releases)
        told = (charge.mode, charge.sampling_rate, charge.clipping_norm, charge.unit)
        if (*told, charge.releases) != agreed:
            yield broken(
                seq,
                "noise mode, q, C, unit or number of releases differ from its plan",
                "The site did something other than it had approved, or charged for something else.",
            )
        least, most = noise_range(contract)
        if not least <= charge.noise_multiplier <= most:
            yield broken(
                seq,
                f"its noise multiplier is {charge.noise_multiplier:.6g}, but its plan's is {least:.6g}",
                "The site added less noise than it had approved, or charged for more than it added.",
            )

    def _check_place(self, seq: int, charge: Charge, contract: Contract) -> Iterator[Finding]:
        """Holds round and step against the plan's, and against those of the session before."""
        training = contract.training
        first_round = charge.round - charge.step // training.steps_per_round
        if not (first_round >= 0 and charge.round < training.rounds):
            yield broken(
                seq,
                f"its plan has no round {charge.round + 1} with the session's step {charge.step}",
                "It was charged to a place in the run other than the one in which it was released.",
            )
        if self._first_rounds.setdefault(charge.session, first_round) != first_round:
            yield warning(
                seq,
                f"it is of round {charge.round + 1}, which does not contain its session's step {charge.step}",
                "The server started one session twice, or the round was changed.",
            )


class Payments:
    """Which vectors are paid for.

    One with noise of its own may leave again under new masks; one that counts on the noise of others is
    charged again with each attempt.
    """

    def __init__(self, charges: Iterable[Charge]) -> None:
        self._exact: set[tuple[str, int, int]] = set()
        self._first: dict[tuple[str, int], int] = {}
        for charge in charges:
            self._exact.add(charge.key)
            if charge.mode != Noise.DISTRIBUTED:
                step = (charge.session, charge.step)
                self._first[step] = min(charge.attempt, self._first.get(step, charge.attempt))

    def cover(self, session: str, step: int, attempt: int) -> bool:
        """Returns whether a vector that left in an attempt was charged."""
        return (session, step, attempt) in self._exact or (
            self._first.get((session, step), math.inf) <= attempt
        )


def check_sent(evidence: Evidence, charges: Iterable[Charge]) -> Iterator[Finding]:
    """Yields vectors that the server took and that no entry charged."""
    payments = Payments(charges)
    for session, step, attempt in sorted(evidence.sent):
        if not payments.cover(session, step, attempt):
            yield broken(
                0,
                f"session {session[:8]}, step {step}, attempt {attempt} was sent but not charged",
                "The entry that charged it was deleted, or never written.",
            )


def _agreed_norm(privacy: Privacy, charged: float) -> float:
    """Returns the plan's clipping norm; where it adapts, the one charged, if the plan allows it."""
    smallest, largest = privacy.norm_bounds
    # A float32 of a bound may lie beside it by its rounding.
    within = smallest * (1 - 1e-6) <= charged <= largest * (1 + 1e-6)
    return charged if within else privacy.clipping_norm
