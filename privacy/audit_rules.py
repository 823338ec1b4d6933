"""Limits, grants, freezes, periods, attempts and contracts, followed anew over a ledger's entries."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from hortus.privacy.audit_lineages import Accounts
from hortus.privacy.entries import (
    EVERY_DATASET,
    Charge,
    Charged,
    Entry,
    Frozen,
    Granted,
    Level,
    Scope,
    Unfrozen,
)
from hortus.privacy.evidence import Evidence
from hortus.privacy.findings import Finding, broken, warning
from hortus.protocol.plan import ClippingRule, Contract
from hortus.protocol.policy import Every, period_of

# Noise is rounded up to whole ring units. Where σ is a few of them, in the coarsest rings for the largest
# cohorts, that is a tenth of it, or 0.1 of the sensitivity.
_MORE_NOISE, _MORE_SENSITIVITY = 1.1, 0.1


class Rules:
    """Limits, grants, freezes, periods, attempts and contracts, followed anew."""

    def __init__(self, contracts: Mapping[str, str], accounts: Accounts) -> None:
        self._contracts = contracts
        self._accounts = accounts
        self._granted: defaultdict[str, float] = defaultdict(float)
        self._frozen: set[str] = set()
        self._seen: set[tuple[str, int, int]] = set()
        self._base: dict[str, float] = {}
        self._units: dict[str, str] = {}
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
        unit = self._units.setdefault(account, charge.unit)
        if unit != charge.unit:
            yield warning(
                seq,
                f"it protects a {charge.unit}, entries before it a {unit}",
                "Their losses cannot be added up: ε is of neither.",
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
                    f"it was charged to {level.period}, which is not the period of its time",
                    "A clock, or the entry, was changed to spend another period's budget.",
                )
        yield from self._check_limit(seq, account, charged.levels[0])
        yield from self._check_contract(seq, charge)

    def _check_limit(self, seq: int, account: str, level: Level) -> Iterator[Finding]:
        if math.isinf(level.limit):
            return
        granted = self._granted[account] + self._granted[EVERY_DATASET]
        base = level.limit - granted
        before = self._base.get(account, base)
        self._base[account] = base
        if not math.isclose(base, before, rel_tol=1e-9):
            yield warning(
                seq,
                f"policy.yaml allowed ε = {base:.6g}, before it {before:.6g}",
                "The operator changed the budget without a signed grant.",
            )

    def _check_contract(self, seq: int, charge: Charge) -> Iterator[Finding]:
        if charge.plan not in self._plans:
            contract = self._plans[charge.plan] = _contract(self._contracts.get(charge.plan))
            if charge.plan not in self._contracts:
                yield warning(
                    seq,
                    f"its plan {charge.plan[:16]}… is not among the evidence",
                    "What was charged cannot be compared with what was approved.",
                )
            elif contract is None or contract.digest() != charge.plan:
                self._plans[charge.plan] = None
                yield broken(
                    seq,
                    f"the plan stored as {charge.plan[:16]}… has another hash",
                    "The plan was changed after it was approved.",
                )
        contract = self._plans[charge.plan]
        if contract is None:
            return
        privacy = contract.privacy
        # A norm that adapts goes from step to step; ε does not depend on it.
        adapts = privacy.clipping.rule is ClippingRule.ADAPTIVE
        norm = charge.clipping_norm if adapts else privacy.clipping_norm
        rate, releases = contract.training.sampling_rate, contract.training.releases_per_sum
        agreed = (privacy.noise.value, rate, norm, privacy.unit, releases)
        told = (charge.mode, charge.sampling_rate, charge.clipping_norm, charge.unit)
        if (*told, charge.releases) != agreed:
            yield broken(
                seq,
                "noise mode, q, C, unit or number of releases are not its plan's",
                "The site did another thing than it had approved, or charged another.",
            )
        sigma = privacy.noise_multiplier or 0.0
        if not sigma <= charge.noise_multiplier <= _MORE_NOISE * sigma + _MORE_SENSITIVITY:
            yield broken(
                seq,
                f"its noise multiplier is {charge.noise_multiplier:.6g}, its plan's {sigma:.6g}",
                "Less noise was added than was approved, or more was charged for than was added.",
            )


def check_sent(evidence: Evidence, charges: Iterable[Charge]) -> Iterator[Finding]:
    """Yields vectors that the server took and that no entry charged."""
    # A vector with noise of its own is sent again under new masks without a new charge.
    charged = {(charge.session, charge.step) for charge in charges}
    for session, step, attempt in sorted(evidence.sent):
        if (session, step) not in charged:
            yield broken(
                0,
                f"session {session[:8]}, step {step}, attempt {attempt} was sent and not charged",
                "The entry that charged it was deleted.",
            )


def _contract(text: str | None) -> Contract | None:
    try:
        return None if text is None else Contract.model_validate(json.loads(text))
    except (ValueError, RecursionError):
        return None
