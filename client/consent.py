"""Whether a site takes part: its own policy against a contract, before any data is touched."""

from hortus.privacy.accounting import epsilon
from hortus.privacy.encoding import StepEncoding
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.errors import Refused
from hortus.protocol.plan import Contract, Noise
from hortus.protocol.policy import AutoApprove, Budget, Policy


def check_contract(policy: Policy, contract: Contract) -> None:
    """Checks a contract against the site's policy; comes before anything that it names is touched.

    Raises:
        Refused: With the policy's field, its value, and what the contract asks.
    """
    fingerprint = contract.digest()
    if fingerprint not in policy.approved_plans:
        if policy.auto_approve is None:
            raise Refused(
                f"the plan {contract.name!r} with hash {fingerprint} is not approved here",
                where="policy.yaml: approved_plans",
                remedy="Read it with its operator, then: hortus approve SITE_DIR PLAN.yaml",
            )
        _check_auto_approval(policy.auto_approve, contract)
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


def check_ceiling(policy: Policy, contract: Contract, encoding: StepEncoding) -> None:
    """Computes what a plan that nobody here has read would cost, and holds it to its ceiling.

    Raises:
        Refused: It would cost more.
    """
    if policy.auto_approve is None or contract.digest() in policy.approved_plans:
        return
    assert encoding.event is not None  # noqa: S101 - without privacy nothing is approved by itself
    cost = epsilon({encoding.event: contract.steps}, policy.budget.delta)
    if cost > policy.auto_approve.max_epsilon:
        raise Refused(
            f"the plan costs ε = {cost:.3f} at δ = {policy.budget.delta:g}, and without having been "
            f"read it may cost {policy.auto_approve.max_epsilon:g}",
            where="policy.yaml: auto_approve.max_epsilon",
        )


def budget_of(policy: Policy, contract: Contract) -> Budget:
    """Returns the budget of a plan: the ceiling caps all attempts of one that nobody has read."""
    auto, budget = policy.auto_approve, policy.budget
    if auto is None or contract.digest() in policy.approved_plans:
        return budget
    ceiling = min(auto.max_epsilon, budget.per_plan or auto.max_epsilon)
    return budget.model_copy(update={"per_plan": ceiling})


def _check_auto_approval(auto: AutoApprove, contract: Contract) -> None:
    """Refuses what the contract alone shows to be outside of the limits; names the first of them."""
    cohort, rounds = contract.cohort.minimum, contract.training.rounds
    limits = (
        ("max_epsilon", contract.privacy.noise is not Noise.UNSAFE_NONE, "it has no privacy"),
        (
            "models",
            contract.model_digest in auto.models,
            f"its base model {contract.model_digest} is not among those allowed",
        ),
        (
            "tasks",
            contract.task.digest() in auto.tasks,
            f"its task {contract.task.digest()} is not among those allowed",
        ),
        ("max_rounds", rounds <= auto.max_rounds, f"{rounds} rounds are over {auto.max_rounds}"),
        (
            "min_cohort",
            cohort >= auto.min_cohort,
            f"it sums over {cohort} sites or more, not over {auto.min_cohort}",
        ),
    )
    for name, holds, problem in limits:
        if not holds:
            raise Refused(
                f"nobody here has approved the plan {contract.name!r} ({contract.digest()}), and it "
                f"is outside of what needs no reading: {problem}",
                where=f"policy.yaml: auto_approve.{name}",
                remedy="Read it with its operator, then: hortus approve SITE_DIR PLAN.yaml",
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
    contract: Contract, descriptor: Descriptor, encoding: StepEncoding, site: str
) -> None:
    """Checks that a session is one of the contract's.

    Raises:
        Refused: With the field that differs.
    """
    expected = {
        "contract": (descriptor.contract, contract.digest()),
        "dimension": (descriptor.dimension, encoding.words),
        "ring_bits": (descriptor.ring_bits, contract.privacy.ring_bits),
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
