"""How a contract gets in at a site: what was checked of it is one value, for asking and for taking part."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from hortus.client.consent.approval import admitted
from hortus.client.consent.refusals import (
    budget_of,
    check_ceiling,
    check_contract,
    check_model,
    parse_contract,
)
from hortus.client.consent.terms import ChargeAccount, noise_of
from hortus.client.consent.unread import check_room
from hortus.client.preparation import EncodedDataset, Prepared
from hortus.client.site.folder import Site
from hortus.learning.loader import Encoded
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.ledger.charges import Added
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract
from hortus.runtime.errors import Refused


@dataclass(frozen=True, slots=True)
class Admission:
    """A contract that a site takes part in, with all that this takes; only a `Gate` makes one.

    Attributes:
        site: The site.
        contract: As read from the bytes that the server signed; the policy allowed it.
        workbench: The warm model, of the files that the contract pins.
        data: The records.
        step: The private step, for the sites of a session, or for the fewest that the contract allows.
        noise: What the site's vectors have for noise.
    """

    site: Site
    contract: Contract
    workbench: Workbench
    data: EncodedDataset
    step: PrivateStep
    noise: Added

    def account(self) -> ChargeAccount:
        """Returns what a step is charged to, by the policy as it is now.

        Raises:
            Refused: The policy does not allow the contract any more, or its ceilings do not allow the step.
        """
        mandate = self.site.mandate
        check_contract(mandate, self.contract)
        check_ceiling(mandate, self.contract, self.step)
        budget = budget_of(mandate, self.contract)
        return ChargeAccount(self.site.ledger, self.data.fingerprint, budget, self.noise)

    def check_payable(self) -> None:
        """Refuses a contract of which not even one step can be paid, before a session counts on the site."""
        if reason := self.account().reason_to_refuse(self.step):
            raise Refused(reason, where="policy.yaml: budget")


class LiveTerms:
    """The terms of an admitted contract, which follow the site's files.

    Args:
        admission: The contract, with the records that were seen last.
        renew: Returns the records of now, given those that were seen last.
        compute_on: Gives them to what computes vectors.
    """

    def __init__(
        self,
        admission: Admission,
        renew: Callable[[EncodedDataset], EncodedDataset],
        compute_on: Callable[[Encoded], None],
    ) -> None:
        self._admission = admission
        self._renew = renew
        self._compute_on = compute_on

    def now(self) -> ChargeAccount:
        """See `Terms`."""
        return self._admission.account()

    def renewed(self) -> ChargeAccount:
        """See `Terms`."""
        self.now()  # nothing is read for a plan that the policy has come to forbid
        data = self._renew(self._admission.data)
        self._compute_on(data.records)
        self._admission = replace(self._admission, data=data)
        return self.now()


class Gate:
    """Admits contracts at a site. Nothing that is known from an earlier question counts.

    Args:
        site: The site.
        prepared: Gives what a contract needs; nothing is computed from records between question and answer.
        observed: Whether another party sees what this site does.
    """

    def __init__(
        self, site: Site, prepared: Callable[[Contract], Prepared], *, observed: bool
    ) -> None:
        self._site = site
        self._prepared = prepared
        self._observed = observed
        self._keeping = threading.Lock()

    def admit(self, encoded: bytes, cohort: int | None = None) -> Admission:
        """Checks a contract; the policy decides first, since the contract names a folder to read.

        Args:
            encoded: The contract, as the server signed it.
            cohort: Sites in the session; None before it exists.

        Raises:
            Refused: The site does not take part in it.
            Preparing: What it needs is not there yet.
            HortusError: It cannot be prepared for.
        """
        site, contract = self._site, parse_contract(encoded)
        check_contract(site.mandate, contract)
        self._check_room(contract)
        prepared = self._prepared(contract)
        check_model(contract, site.model_digest(contract))
        bench, sites = prepared.workbench, cohort or contract.cohort.minimum
        step = PrivateStep.of(contract, bench.space.dimension, sites)
        noise = noise_of(site.policy, observed=self._observed)
        admission = Admission(site, contract, bench, prepared.data, step, noise)
        admission.account()
        return admission

    def keep(self, admission: Admission) -> None:
        """Stores an admitted contract for whoever audits it; one that nobody has read enters the ledger."""
        site, contract = self._site, admission.contract
        with self._keeping:
            self._check_room(contract)
            site.keep_contract(contract)
            if (mandate := site.mandate).is_unread(contract):
                site.ledger.admit(admitted(contract, mandate.policy.budget.delta))

    def _check_room(self, contract: Contract) -> None:
        """Refuses an unread plan that would be one too many to keep."""
        mandate = self._site.mandate
        if mandate.policy.auto_approve is not None and mandate.is_unread(contract):
            kept = self._site.kept_contracts() - mandate.approved
            check_room(mandate.policy.auto_approve, contract, kept)
