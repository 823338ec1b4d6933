"""Plans that nobody at a site has read: a limit on everything that such a plan can choose.

Each field of a contract is in `LIMITS`, by a limit of policy.yaml's `auto_approve`, or in `FREE`, with
the reason why a stranger may choose it; a kind says so of its own fields in its own file. A test
enumerates a contract's fields, and every kind's, and finds each.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hortus.client.site.mandate import Mandate
from hortus.planning import sections
from hortus.protocol.plan import Contract
from hortus.protocol.policy import AutoApprove
from hortus.protocol.privacy import Noise
from hortus.protocol.section import Kind
from hortus.runtime.errors import Refused

_REMEDY = "Read it with its operator, then: hortus approve SITE_DIR PLAN.yaml"


@dataclass(frozen=True, slots=True)
class Limit:
    """What one field of `auto_approve` limits.

    Attributes:
        name: The field.
        covers: The contract's fields that it decides on.
        holds: Whether a contract is within it.
        problem: Says what is outside, in words that the server may read.
    """

    name: str
    covers: tuple[str, ...]
    holds: Callable[[AutoApprove, Contract], bool]
    problem: Callable[[Contract], str]


def _longest_deadline(contract: Contract) -> float:
    return max(contract.cohort.join_deadline, contract.cohort.step_deadline)


def _local_optimizer(contract: Contract) -> Mapping[str, Any]:
    """Returns what a site would step with alone; empty where it takes no such steps."""
    section = contract.strategy.fields.get("local_optimizer")
    return section if isinstance(section, Mapping) else {}


LIMITS: tuple[Limit, ...] = (
    Limit(
        "max_epsilon",  # what it costs is computed when the model is known: `consent.check_ceiling`
        ("privacy.noise_multiplier",),
        lambda _, contract: contract.privacy.noise is not Noise.UNSAFE_NONE,
        lambda _: "it has no privacy",
    ),
    Limit(
        "noise",
        ("privacy.noise",),
        lambda auto, contract: contract.privacy.noise in auto.noise,
        lambda contract: f"its noise is {contract.privacy.noise.value}",
    ),
    Limit(
        "models",
        ("model_digest",),
        lambda auto, contract: contract.model_digest in auto.models,
        lambda contract: f"its base model {contract.model_digest} is not among those allowed",
    ),
    Limit(
        "tasks",
        ("task.kind",),  # and with it all its fields: the hash is of the whole section
        lambda auto, contract: contract.task.digest() in auto.tasks,
        lambda contract: f"its task {contract.task.digest()} is not among those allowed",
    ),
    Limit(
        "max_rounds",
        ("training.rounds",),
        lambda auto, contract: contract.training.rounds <= auto.max_rounds,
        lambda contract: f"it has {contract.training.rounds} rounds",
    ),
    Limit(
        "max_steps_per_round",
        ("training.steps_per_round", "training.local_steps"),
        lambda auto, contract: contract.training.releases_per_round <= auto.max_steps_per_round,
        lambda contract: f"a round has {contract.training.releases_per_round} private steps",
    ),
    Limit(
        "max_sampling_rate",
        ("training.sampling_rate",),
        lambda auto, contract: contract.training.sampling_rate <= auto.max_sampling_rate,
        lambda contract: (
            f"a record joins a step with probability {contract.training.sampling_rate:g}"
        ),
    ),
    Limit(
        "strategies",
        ("strategy.kind",),
        lambda auto, contract: contract.strategy.kind in auto.strategies,
        lambda contract: f"its strategy is {contract.strategy.kind}",
    ),
    Limit(
        "local_optimizers",
        ("strategy.local_optimizer",),
        lambda auto, contract: (
            not (local := _local_optimizer(contract)) or local.get("kind") in auto.local_optimizers
        ),
        lambda _: "its local optimizer is not among those allowed",
    ),
    Limit(
        "local_options",
        ("strategy.local_optimizer.options",),
        lambda auto, contract: (
            set(_local_optimizer(contract).get("options", ())) <= set(auto.local_options)
        ),
        lambda _: "its local optimizer has options that are not among those allowed",
    ),
    Limit(
        "max_micro_batch",
        ("training.micro_batch", "privacy.max_records_per_unit"),
        lambda auto, contract: (
            max(contract.training.micro_batch, contract.privacy.max_records_per_unit or 0)
            <= auto.max_micro_batch
        ),
        lambda contract: f"{contract.training.micro_batch} records go through the model together",
    ),
    Limit(
        "precisions",
        ("training.precision",),
        lambda auto, contract: contract.training.precision in auto.precisions,
        lambda contract: f"its model computes in {contract.training.precision.value}",
    ),
    Limit(
        "adapters",
        ("adapter.kind",),
        lambda auto, contract: contract.adapter.kind in auto.adapters,
        lambda contract: f"its adapter is a {contract.adapter.kind}",
    ),
    Limit(
        "min_cohort",
        ("cohort.minimum",),
        lambda auto, contract: contract.cohort.minimum >= auto.min_cohort,
        lambda contract: f"it sums over {contract.cohort.minimum} sites or more",
    ),
    Limit(
        "max_deadline",
        ("cohort.join_deadline", "cohort.step_deadline", "cohort.pace"),
        lambda auto, contract: _longest_deadline(contract) <= auto.max_deadline,
        lambda contract: f"it waits for {_longest_deadline(contract):g} seconds",
    ),
)

_IN_EPSILON = "part of the mechanism: its cost is in the ε that max_epsilon limits"
_NO_HARM = "it changes what is computed but not what that can cost, since everything is clipped"
FREE: Mapping[str, str] = MappingProxyType(
    {
        "name": "at most 63 plain characters, in logs and in the ledger",
        "seed": "public; this site draws noise and samples from its own generator",
        "model": "ignored: this site uses the folder that site.yaml names",
        "training.nominal_units": _IN_EPSILON,
        "privacy.unit": "the site accepts only budget.unit of policy.yaml",
        "privacy.epsilon": "a contract states its noise instead",
        "privacy.spare_attempts": _IN_EPSILON,
        "privacy.delta": "this site computes every ε at its own δ",
        "privacy.clipping_norm": _IN_EPSILON,
        "privacy.clipping.kind": _IN_EPSILON,
        "privacy.accountant.kind": "a contract states the noise that it chose, and this site computes every ε itself",
        "privacy.engine.kind": _NO_HARM,
        "training.sampler.kind": _IN_EPSILON,
        "privacy.ring_bits": _IN_EPSILON,
        "cohort.max_colluding": "min_honest and max_honest_share of policy.yaml bound it for every plan",
    }
)


_WHOLE = frozenset({"task"})  # allowed by the hash of all of it
_DECIDED = frozenset(path for limit in LIMITS for path in limit.covers) | FREE.keys()


def check_unread(mandate: Mandate, contract: Contract) -> None:
    """Checks a contract that nobody here has read, before anything that it names is touched.

    Args:
        mandate: What the site allows.
        contract: What the server asks for.

    Raises:
        Refused: With the limit that it is outside of. It is the same answer whatever lies on this
            machine's disk.
    """
    auto = mandate.policy.auto_approve
    if auto is None:
        raise Refused(
            f"the plan {contract.name!r} with hash {contract.digest()} is not approved here",
            remedy=_REMEDY,
        )
    for limit in LIMITS:
        if not limit.holds(auto, contract):
            raise _outside(contract, limit.name, limit.problem(contract))
    for place, kind in sections.kinds(contract):
        _check_kind(auto, contract, place, kind)
    if not mandate.names_model:
        raise Refused(
            "a plan that nobody here has read may not say where the base model lies",
            where="site.yaml: model",
            remedy="Name the base model's folder there.",
        )


def _check_kind(auto: AutoApprove, contract: Contract, place: str, kind: Kind) -> None:
    """Holds the fields of a kind to its ceilings; a field that nobody has decided on is refused."""
    for name in sorted(type(kind).model_fields.keys() - {"kind"}):
        field = f"{place}.{name}"
        if place in _WHOLE or field in _DECIDED:
            continue
        most = kind.unread.get(name)
        if most is None:
            raise _outside(
                contract, "ceilings", f"its kind does not say what {field} may do to a site"
            )
        if not isinstance(most, str) and getattr(kind, name) > auto.ceilings.get(field, most):
            raise _outside(contract, "ceilings", f"its {field} is {getattr(kind, name):g}")


def check_dimension(auto: AutoApprove, contract: Contract, dimension: int) -> None:
    """Checks how many parameters an unread plan trains.

    Raises:
        Refused: More than allowed.
    """
    if dimension > auto.max_parameters:
        raise _outside(contract, "max_parameters", f"it trains {dimension:,} parameters")


def check_room(auto: AutoApprove, contract: Contract, kept: Collection[str]) -> None:
    """Checks that there is room for the text of one more unread plan.

    Args:
        auto: The site's limits.
        contract: The plan.
        kept: Hashes of the unread plans that are kept.

    Raises:
        Refused: The site already keeps as many plans as it may.
    """
    if contract.digest() not in kept and len(kept) >= auto.max_plans:
        raise _outside(contract, "max_plans", f"this site already keeps {len(kept)} such plans")


def _outside(contract: Contract, limit: str, problem: str) -> Refused:
    return Refused(
        f"nobody here has approved the plan {contract.name!r} ({contract.digest()}), and auto_approve does "
        f"not cover it: {problem}",
        where=f"policy.yaml: auto_approve.{limit}",
        remedy=_REMEDY,
    )
