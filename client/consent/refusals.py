"""Whether a site takes part: its own policy against a contract, before any data is touched."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hortus.client.consent.unread import check_dimension, check_unread
from hortus.client.site.mandate import Mandate
from hortus.planning import sections
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.step import PrivateStep
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import HortusError, Refused
from hortus.strategies.kinds import strategy_of

Read = TypeVar("Read", bound=BaseModel)


def parse_contract(encoded: bytes) -> Contract:
    """Reads a contract as the server sends it.

    Raises:
        Refused: It is malformed.
    """
    return _read(Contract, encoded, "contract")


def read_descriptor(encoded: bytes) -> Descriptor:
    """Reads a session's descriptor as the server sends it.

    Raises:
        Refused: It is malformed.
    """
    return _read(Descriptor, encoded, "session descriptor")


def _read(schema: type[Read], encoded: bytes, what: str) -> Read:
    try:
        return schema.model_validate_json(encoded)
    except ValidationError as error:
        raise Refused(f"the {what} is malformed: {error.errors()[0]['msg']}") from error


def check_contract(mandate: Mandate, contract: Contract) -> None:
    """Checks a contract against what the site allows; comes before anything that it names is touched.

    Args:
        mandate: The site's policy and approvals.
        contract: What the server asks for.

    Raises:
        Refused: With the policy's field, its value, and what the contract asks.
    """
    policy = mandate.policy
    _check_kinds(contract)
    if contract.digest() in mandate.withdrawn:
        raise Refused(
            f"this site has withdrawn from the plan {contract.name!r} ({contract.digest()})",
            remedy="Its operator can approve it again: hortus approve SITE_DIR PLAN.yaml",
        )
    if mandate.is_unread(contract):
        check_unread(mandate, contract)
    if contract.privacy.noise is Noise.UNSAFE_NONE and not policy.unsafe_no_privacy:
        raise Refused("the plan has no privacy", where="policy.yaml: unsafe_no_privacy")
    if contract.privacy.unit != policy.budget.unit:
        raise Refused(
            f"the plan protects a {contract.privacy.unit}, but this site's budget protects a "
            f"{policy.budget.unit}: losses of different units cannot be added up",
            where="policy.yaml: budget.unit",
        )
    if contract.cohort.minimum < policy.min_cohort:
        raise Refused(
            f"the plan sums over at least {contract.cohort.minimum} sites, but this site requires {policy.min_cohort}",
            where="policy.yaml: min_cohort",
        )
    if contract.cohort.min_honest < policy.min_honest:
        raise Refused(
            f"the plan counts on {contract.cohort.min_honest} honest sites, but this site requires {policy.min_honest}",
            where="policy.yaml: min_honest",
        )
    _check_honest(policy, contract)


def _check_kinds(contract: Contract) -> None:
    """Refuses a section of a kind that this site lacks, or that its own kind would complete differently."""
    try:
        sections.check(contract)
    except HortusError as error:
        raise Refused(error.problem, where=error.where, remedy=error.remedy) from error


def _check_honest(policy: Policy, contract: Contract) -> None:
    """Refuses a plan whose promise needs the noise of more sites than this site takes to be honest."""
    cohort, most = contract.cohort, policy.most_honest(contract.cohort.minimum)
    if contract.privacy.noise is Noise.DISTRIBUTED and cohort.min_honest > most:
        raise Refused(
            f"the plan counts on the noise of {cohort.min_honest} of {cohort.minimum} sites, but this site "
            f"assumes at most {most} of them to be honest",
            where="policy.yaml: max_honest_share, max_honest",
            remedy=f"Ask for a plan with cohort.max_colluding: {cohort.minimum - most}, or with "
            "privacy.noise: local.",
        )


def check_ceiling(mandate: Mandate, contract: Contract, encoding: PrivateStep) -> None:
    """Holds a plan that nobody here has read to the ceilings that take its model to be known.

    Raises:
        Refused: It costs more, or trains more parameters.
    """
    policy = mandate.policy
    if policy.auto_approve is None or not mandate.is_unread(contract):
        return
    check_dimension(policy.auto_approve, contract, encoding.words)
    assert encoding.event is not None  # noqa: S101 - without privacy nothing is approved unread
    cost = epsilon({encoding.event: contract.releases}, policy.budget.delta)
    if cost > policy.auto_approve.max_epsilon:
        raise Refused(
            f"the plan costs ε = {cost:.3f} at δ = {policy.budget.delta:g}, but a plan that nobody here has "
            f"read may cost at most {policy.auto_approve.max_epsilon:g}",
            where="policy.yaml: auto_approve.max_epsilon",
        )


def budget_of(mandate: Mandate, contract: Contract) -> Budget:
    """Returns the budget of a plan: the ceiling caps all attempts of one that nobody has read."""
    auto, budget = mandate.policy.auto_approve, mandate.policy.budget
    if auto is None or not mandate.is_unread(contract):
        return budget
    ceiling = min(auto.max_epsilon, budget.per_plan or auto.max_epsilon)
    return budget.model_copy(update={"per_plan": ceiling})


def check_model(contract: Contract, model_digest: str) -> None:
    """Checks this site's own copy of the base model, by its hash.

    Raises:
        Refused: It is another model.
    """
    if model_digest != contract.model_digest:
        # The server does not learn the hash of a file that it may have named itself.
        raise Refused(
            f"this site's copy of the base model differs from the plan's ({contract.model_digest[:16]}…)",
            where=contract.model,
            remedy="Compare the files, or name another folder in site.yaml: model.",
        )


def check_descriptor(
    contract: Contract, descriptor: Descriptor, encoding: PrivateStep, site: str
) -> None:
    """Checks that a session is one of the contract's.

    Raises:
        Refused: With the field that differs.
    """
    expected = {
        "contract": (descriptor.contract, contract.digest()),
        "dimension": (descriptor.dimension, encoding.words),
        "ring_bits": (descriptor.ring_bits, contract.privacy.ring_bits),
        "scale": (descriptor.scale, strategy_of(contract).codec(encoding).scale),
    }
    for name, (told, own) in expected.items():
        if told != own:
            raise Refused(f"the session's {name} is {told}, this site's is {own}", where=name)
    if site not in descriptor.cohort:
        raise Refused("this site is not in the session's cohort", where="cohort")
    if len(descriptor.cohort) < contract.cohort.minimum:
        raise Refused(
            f"{len(descriptor.cohort)} sites are fewer than the plan's {contract.cohort.minimum}",
            where="cohort",
        )
    if descriptor.first_round >= contract.training.rounds:
        raise Refused(f"the plan has no round {descriptor.first_round + 1}", where="first_round")
