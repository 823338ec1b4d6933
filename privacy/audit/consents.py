"""Whether a site took part only in plans that its operator, or its policy, had allowed by then."""

import json
import math
from collections.abc import Iterator, Mapping

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.costs import claimable
from hortus.privacy.audit.findings import Finding, broken
from hortus.privacy.ledger.charges import Charge, Charged
from hortus.privacy.ledger.decisions import Admitted, Approved, Withdrawn
from hortus.privacy.ledger.entries import Entry
from hortus.protocol.plan import Contract


def stored_contract(contracts: Mapping[str, str], plan: str) -> Contract | None:
    """Returns the plan of a hash, if it is among the evidence and has that hash."""
    try:
        contract = Contract.model_validate(json.loads(contracts[plan]))
    except (KeyError, ValueError, RecursionError):
        return None
    return contract if contract.digest() == plan else None


class Consents:
    """Follows approvals, admissions and withdrawals over a ledger's entries."""

    def __init__(self, contracts: Mapping[str, str]) -> None:
        self._contracts = contracts
        self._last: dict[str, Entry] = {}
        self._told: set[tuple[str, int]] = set()

    def check(self, entry: Entry) -> list[Finding]:
        """Returns what an entry does that the ones before it do not allow."""
        found: list[Finding] = []
        match entry.body:
            case Charged(charge):
                found = list(self._check_charge(entry.seq, charge))
            case Approved() | Admitted() as body:
                found = list(self._check_consent(entry.seq, body))
                self._last[body.plan] = entry
            case Withdrawn() as body:
                self._last[body.plan] = entry
        return found

    def _check_charge(self, seq: int, charge: Charge) -> Iterator[Finding]:
        """Yields it once for each plan and withdrawal: all charges after it are alike."""
        last = self._last.get(charge.plan)
        since = last.seq if last else 0
        if (charge.plan, since) in self._told:
            return
        self._told.add((charge.plan, since))
        if last is None:
            yield broken(
                seq,
                f"nobody had approved its plan {charge.plan[:16]}…, nor did auto_approve allow it",
                "The program took part without its operator's knowledge, or an entry is missing.",
            )
        elif isinstance(last.body, Withdrawn):
            yield broken(
                seq,
                f"its plan was withdrawn by entry {since}",
                "The program ignored its operator.",
            )

    def _check_consent(self, seq: int, body: Approved | Admitted) -> Iterator[Finding]:
        last = self._last.get(body.plan)
        if isinstance(body, Admitted) and last is not None and isinstance(last.body, Withdrawn):
            yield broken(
                seq,
                f"auto_approve allowed a plan that was withdrawn by entry {last.seq}",
                "The program ignored its operator.",
            )
        contract = stored_contract(self._contracts, body.plan)
        if contract is None:
            return
        if (body.name, body.unit) != (contract.name, contract.privacy.unit):
            yield broken(
                seq,
                f"it names the plan {body.name!r} for one {body.unit}, but the plan is {contract.name!r} for "
                f"one {contract.privacy.unit}",
                "The person who approved it was shown another plan.",
            )
        least, cost, most = _cost(contract, body.delta)
        if not least <= body.epsilon <= most:
            yield broken(
                seq,
                f"it says that the plan costs ε = {body.epsilon:.6g} at δ = {body.delta:g}, but it costs {cost:.6g}",
                "The person who approved it was shown another cost.",
            )


def _cost(contract: Contract, delta: float) -> tuple[float, float, float]:
    noise, rate = contract.privacy.noise_multiplier, contract.training.sampling_rate
    if noise is None:
        return math.inf, math.inf, math.inf
    return claimable({GaussianEvent(rate, noise): contract.releases}, delta)
