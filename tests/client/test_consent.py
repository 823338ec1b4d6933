"""A site decides by its own policy, whatever the server sends."""

from pathlib import Path
from typing import Any

import pytest

from hortus.client.consent import (
    budget_of,
    check_ceiling,
    check_contract,
    check_descriptor,
    check_model,
)
from hortus.privacy.accounting import epsilon
from hortus.privacy.encoding import StepEncoding
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.errors import Refused
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import AutoApprove, Budget, Policy

MODEL = "a" * 64
SITES = ("ash", "birch", "cedar")


@pytest.fixture
def contract(plan: Plan) -> Contract:
    return plan.contract(model_digest=MODEL, noise_multiplier=1.0)


def policy(contract: Contract, **changes: Any) -> Policy:
    fields = {
        "budget": Budget(epsilon=1, delta=1e-5),
        "min_cohort": 2,
        "min_honest": 2,
        "approved_plans": (contract.digest(),),
    }
    return Policy(**fields | changes)


def test_an_approved_contract_is_accepted(contract: Contract) -> None:
    check_contract(policy(contract), contract)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"approved_plans": ()}, "not approved"),
        ({"approved_plans": ("0" * 64,)}, "not approved"),
        ({"min_cohort": 3, "min_honest": 2}, "min_cohort"),
        ({"budget": Budget(epsilon=1, delta=1e-5, unit="patient")}, "budget.unit"),
        ({"min_cohort": 3, "min_honest": 3}, "min_"),
    ],
)
def test_a_stricter_policy_refuses(
    contract: Contract, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        check_contract(policy(contract, **changes), contract)


AUTO = {
    "max_epsilon": 1000.0,
    "models": (MODEL,),
    "max_rounds": 2,
    "min_cohort": 2,
}


def unread(contract: Contract, **changes: Any) -> Policy:
    """A policy that approves a class of plans, this one among them unless `changes` say otherwise."""
    fields = AUTO | {"tasks": (contract.task.digest(),)} | changes
    return policy(contract, approved_plans=(), auto_approve=AutoApprove(**fields))


def check_whole(chosen: Policy, contract: Contract) -> None:
    check_contract(chosen, contract)
    check_ceiling(chosen, contract, StepEncoding.of(contract, 10, contract.cohort.minimum))


def test_a_plan_within_every_limit_needs_no_reading(contract: Contract) -> None:
    check_whole(unread(contract), contract)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_epsilon": 0.5}, "max_epsilon"),
        ({"models": ("b" * 64,)}, "models"),
        ({"tasks": ("b" * 64,)}, "tasks"),
        ({"max_rounds": 1}, "max_rounds"),
        ({"min_cohort": 3}, "min_cohort"),
    ],
)
def test_a_plan_outside_of_one_limit_is_refused_by_its_name(
    contract: Contract, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refused, match=rf"^policy.yaml: auto_approve.{field}: "):
        check_whole(unread(contract, **changes), contract)
    # Who has read it and approved its hash may still take part.
    read = unread(contract, **changes).model_copy(update={"approved_plans": (contract.digest(),)})
    check_whole(read, contract)


def test_the_ceiling_is_what_this_site_computes_itself(contract: Contract) -> None:
    event = StepEncoding.of(contract, 10, 2).event
    assert event is not None
    cost = epsilon({event: contract.steps}, 1e-5)
    check_whole(unread(contract, max_epsilon=cost * 1.0001), contract)
    with pytest.raises(Refused, match=f"costs ε = {cost:.3f}"):
        check_whole(unread(contract, max_epsilon=cost * 0.9999), contract)


def test_the_ceiling_also_caps_repeated_attempts(contract: Contract) -> None:
    assert budget_of(unread(contract, max_epsilon=2.0), contract).per_plan == 2.0
    tighter = unread(contract, max_epsilon=2.0)
    tighter = tighter.model_copy(update={"budget": Budget(epsilon=9, delta=1e-5, per_plan=1.5)})
    assert budget_of(tighter, contract).per_plan == 1.5
    assert budget_of(policy(contract), contract).per_plan is None


def test_a_plan_without_privacy_is_never_approved_unread(plan: Plan) -> None:
    fields = plan.model_dump()
    fields["privacy"] |= {"noise": "unsafe_none", "epsilon": None}
    bare = Plan(**fields).contract(model_digest=MODEL, noise_multiplier=None)
    with pytest.raises(Refused, match="it has no privacy"):
        check_contract(unread(bare).model_copy(update={"unsafe_no_privacy": True}), bare)


@pytest.mark.parametrize("field", ["seed", "name", "model"])
def test_any_change_of_an_approved_plan_is_another_plan(contract: Contract, field: str) -> None:
    value = 99 if field == "seed" else "other"
    changed = contract.model_copy(update={field: value})
    with pytest.raises(Refused, match="not approved"):
        check_contract(policy(contract), changed)


def test_another_base_model_is_refused(contract: Contract) -> None:
    with pytest.raises(Refused, match="copy of the base model"):
        check_model(contract, "b" * 64)


def test_no_noise_needs_a_policy_that_says_unsafe(plan: Plan) -> None:
    fields = plan.model_dump()
    fields["privacy"] |= {"noise": "unsafe_none", "epsilon": None}
    open_contract = Plan(**fields).contract(model_digest=MODEL, noise_multiplier=None)
    with pytest.raises(Refused, match="unsafe_no_privacy|no privacy"):
        check_contract(policy(open_contract), open_contract)
    check_contract(policy(open_contract, unsafe_no_privacy=True), open_contract)


def descriptor(agreed: Contract, /, **changes: Any) -> Descriptor:
    fields = {
        "run": "1" * 32,
        "session": "2" * 32,
        "contract": agreed.digest(),
        "cohort": SITES,
        "first_round": 0,
        "dimension": 10,
        "scale": StepEncoding.of(agreed, 10, 3).scale,
    }
    return Descriptor(**fields | changes)


def check(contract: Contract, session: Descriptor, site: str = "ash") -> None:
    encoding = StepEncoding.of(contract, 10, len(session.cohort))
    check_descriptor(contract, session, encoding, site)


def test_a_session_of_the_contract_is_accepted(contract: Contract) -> None:
    check(contract, descriptor(contract))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contract": "0" * 64}, "contract"),
        ({"dimension": 11}, "dimension"),
        ({"scale": 7}, "scale"),
        ({"ring_bits": 24}, "ring_bits"),
        ({"cohort": ("birch", "cedar", "oak")}, "not in the session"),
        ({"first_round": 2}, "no round 2"),
    ],
)
def test_a_session_that_lies_is_refused(
    contract: Contract, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        check(contract, descriptor(contract, **changes))


def test_a_plan_file_and_its_contract_name_the_same_noise(plan: Plan, tmp_path: Path) -> None:
    del tmp_path
    contract = plan.contract(model_digest=MODEL, noise_multiplier=1.25)
    assert contract.privacy.noise_multiplier == 1.25
    assert contract.privacy.epsilon is None
    assert Contract.model_validate_json(contract.model_dump_json()).digest() == contract.digest()
