"""What a site's releases go by, and are charged to."""

from dataclasses import dataclass, replace
from typing import Protocol

from hortus.privacy.ledger.charges import Added, Charge
from hortus.privacy.ledger.lineages import Placement
from hortus.privacy.ledger.store import Ledger
from hortus.privacy.secure_sum.masks import StepView
from hortus.privacy.step import PrivateStep
from hortus.protocol.answer import BUDGET_SPENT
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import Refused

# Stands for a step that is only asked about.
NO_VIEW, NO_RUN = StepView(0, 0, (), b""), "0" * 32


@dataclass(frozen=True, slots=True)
class ChargeAccount:
    """What a site's releases are charged to, and what noise they have.

    Attributes:
        ledger: The site's.
        dataset: Fingerprint of the records.
        budget: What the site allows for the plan.
        noise: What its vectors have for noise.
        place: Where it would be charged; None for where the ledger has the records now.
    """

    ledger: Ledger
    dataset: str
    budget: Budget
    noise: Added = Added.GAUSSIAN
    place: Placement | None = None

    def limit(self, encoding: PrivateStep) -> Budget | None:
        """The budget that a step needs; a release without privacy has none that could cover it."""
        return self.budget if encoding.event and self.noise is not Added.SEEDED else None

    def charge(
        self,
        encoding: PrivateStep,
        descriptor: Descriptor | None,
        round_: int,
        view: StepView,
        clipping_norm: float,
    ) -> Charge:
        """Returns the charge of one step; without a descriptor, one to ask about only."""
        contract, event = encoding.contract, encoding.event
        return Charge(
            run=descriptor.run if descriptor else NO_RUN,
            session=descriptor.session if descriptor else NO_RUN,
            round=round_,
            step=view.step,
            attempt=view.attempt,
            dataset=self.dataset,
            unit=contract.privacy.unit,
            mode=contract.privacy.noise.value,
            mechanism=(self.noise if event else Added.NOTHING).value,
            sampling_rate=contract.training.sampling_rate,
            noise_multiplier=event.noise_multiplier if event else 0.0,
            clipping_norm=clipping_norm,
            releases=contract.training.local_steps,
            delta=self.budget.delta,
            plan=contract.digest(),
        )

    def reason_to_refuse(self, encoding: PrivateStep) -> str:
        """Says, in words that the server may read, why one more step cannot be paid; or nothing."""
        norm = encoding.contract.privacy.clipping_norm
        return self._shortfall(
            encoding, self.charge(encoding, None, 0, NO_VIEW, norm), "one more step"
        )

    def reason_to_refuse_rest(self, encoding: PrivateStep, steps: int) -> str:
        """The same of all steps that are left, or of one sum if none is, at the plan's own noise.

        Raises:
            Refused: The account is frozen or protects another unit, or a ledger cannot charge one of the plan's
            numbers.
        """
        contract = encoding.contract
        rest = max(steps, contract.training.local_steps)
        noise = contract.privacy.noise_multiplier or 0.0
        try:
            one = self.charge(encoding, None, 0, NO_VIEW, contract.privacy.clipping_norm)
            charge = replace(one, releases=rest, noise_multiplier=noise)
        except ValueError as error:
            raise Refused(f"no ledger can charge for it: {error}", where=contract.name) from error
        return self._shortfall(encoding, charge, "the plan")

    def _shortfall(self, encoding: PrivateStep, charge: Charge, what: str) -> str:
        level = self.ledger.shortfall(charge, self.limit(encoding), self.place)
        if level is None:
            return ""
        return (
            f"{BUDGET_SPENT}: {what} would bring {level.name} to ε = "
            f"{level.epsilon:.3f} of {level.limit:g} (δ = {self.budget.delta:g})"
        )


def noise_of(policy: Policy, *, observed: bool) -> Added:
    """Returns the noise that a site adds; noise that others could subtract does not protect.

    Args:
        policy: The site's.
        observed: Whether another party sees what the site sends; False in a rehearsal.
    """
    if not policy.unsafe_seeded_noise:
        return Added.GAUSSIAN
    return Added.SEEDED if observed else Added.REHEARSED


class Terms(Protocol):
    """What the next step of a session goes by."""

    def now(self) -> ChargeAccount:
        """Applies the policy as it is now to the records that were seen last.

        Raises:
            Refused: The policy does not allow the plan any more.
        """

    def renewed(self) -> ChargeAccount:
        """Looks at the records again, too: a step computes on those that are on disk when it begins.

        Raises:
            Refused: The policy does not allow the plan any more.
            DataError: The records do not fit the plan any more.
        """
