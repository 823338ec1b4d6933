"""Whether a site takes part: its own policy against a contract, before any data is touched."""

from hortus.privacy.encoding import StepEncoding
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.errors import Refused
from hortus.protocol.plan import Contract, Noise
from hortus.protocol.policy import Policy


def check_contract(policy: Policy, contract: Contract) -> None:
    """Checks a contract against the site's policy; comes before anything that it names is touched.

    Raises:
        Refused: With the policy's field, its value, and what the contract asks.
    """
    fingerprint = contract.digest()
    if not policy.approve_any_plan_within_limits and fingerprint not in policy.approved_plans:
        raise Refused(
            f"the plan {contract.name!r} with hash {fingerprint} is not approved here",
            where="policy.yaml: approved_plans",
            remedy="Read it with its operator, then: hortus approve SITE_DIR PLAN.yaml",
        )
    if contract.privacy.noise is Noise.UNSAFE_NONE and not policy.unsafe_no_privacy:
        raise Refused("the plan has no privacy", where="policy.yaml: unsafe_no_privacy")
    if contract.privacy.unit != policy.budget.unit:
        raise Refused(
            f"the plan protects a {contract.privacy.unit}, this site's budget a "
            f"{policy.budget.unit}: losses by different units cannot be added up",
            where="policy.yaml: budget.unit",
        )
    if contract.cohort.minimum < policy.min_cohort:
        raise Refused(
            f"the plan sums over {contract.cohort.minimum} sites or more, this site asks for "
            f"{policy.min_cohort}",
            where="policy.yaml: min_cohort",
        )
    if contract.cohort.min_honest < policy.min_honest:
        raise Refused(
            f"the plan counts on {contract.cohort.min_honest} honest sites, this site asks for "
            f"{policy.min_honest}",
            where="policy.yaml: min_honest",
        )


def check_model(contract: Contract, model_digest: str) -> None:
    """Checks this site's own copy of the base model, by its hash.

    Raises:
        Refused: It is another model.
    """
    if model_digest != contract.model_digest:
        # The server is not told the hash of a file that it may have named itself.
        raise Refused(
            f"this site's copy of the base model is not the plan's, {contract.model_digest[:16]}…",
            where=contract.model,
            remedy="Compare the files, or name another folder in site.yaml: model.",
        )


def check_descriptor(
    contract: Contract, descriptor: Descriptor, encoding: StepEncoding, dimension: int, site: str
) -> None:
    """Checks that a session is one of the contract's.

    Raises:
        Refused: With the field that differs.
    """
    expected = {
        "contract": (descriptor.contract, contract.digest()),
        "dimension": (descriptor.dimension, dimension),
        "scale": (descriptor.scale, encoding.scale),
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
        raise Refused(f"the plan has no round {descriptor.first_round}", where="first_round")
