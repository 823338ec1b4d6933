"""A site decides by its own policy, whatever the server sends."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from hortus.client.consent.refusals import (
    budget_of,
    check_ceiling,
    check_contract,
    check_descriptor,
    check_model,
)
from hortus.client.consent.unread import FREE, LIMITS, check_room, check_unread
from hortus.client.site.mandate import Mandate
from hortus.learning.methods.kinds import METHODS
from hortus.learning.methods.lora import LoRA
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.accountants.kinds import ACCOUNTANTS
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.gradients.engines.kinds import ENGINES
from hortus.privacy.gradients.samplers.kinds import SAMPLERS
from hortus.privacy.step import PrivateStep
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import AutoApprove, Budget, Policy
from hortus.protocol.section import Section
from hortus.runtime.errors import Refused
from hortus.runtime.registry import Registry
from hortus.strategies.fedavg import FedAvg
from hortus.strategies.kinds import STRATEGIES
from hortus.strategies.optimizers.kinds import OPTIMIZERS
from hortus.strategies.optimizers.torch_optim import Adam

MODEL = "a" * 64
SITES = ("ash", "birch", "cedar")


@pytest.fixture
def contract(plan: Plan) -> Contract:
    return plan.contract(model_digest=MODEL, noise_multiplier=1.0)


def policy(contract: Contract, **changes: Any) -> Mandate:
    """A policy, and the plans that were approved: the contract, unless `approved` says otherwise."""
    approved = frozenset(changes.pop("approved", (contract.digest(),)))
    withdrawn = frozenset(changes.pop("withdrawn", ()))
    fields = {
        "budget": Budget(epsilon=1, delta=1e-5),
        "min_cohort": 2,
        "min_honest": 2,
        "max_honest_share": 1.0,
    }
    return Mandate(Policy(**fields | changes), approved, withdrawn)


def changed_policy(mandate: Mandate, **changes: Any) -> Mandate:
    return replace(mandate, policy=mandate.policy.model_copy(update=changes))


def with_model(mandate: Mandate) -> Mandate:
    return replace(mandate, names_model=True)


def test_an_approved_contract_is_accepted(contract: Contract) -> None:
    check_contract(policy(contract), contract)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"approved": ()}, "not approved"),
        ({"approved": ("0" * 64,)}, "not approved"),
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


@pytest.mark.parametrize("auto", [True, False])
def test_a_withdrawn_plan_is_refused_also_where_it_would_need_no_reading(
    contract: Contract, auto: bool
) -> None:
    chosen = unread(contract) if auto else policy(contract, approved=())
    chosen = replace(chosen, withdrawn=frozenset({contract.digest()}))
    with pytest.raises(Refused, match="has withdrawn from the plan"):
        check_contract(with_model(chosen), contract)
    check_contract(chosen.with_approved(contract), contract)


AUTO = {
    "max_epsilon": 1000.0,
    "models": (MODEL,),
    "max_rounds": 2,
    "min_cohort": 2,
}


def unread(contract: Contract, **changes: Any) -> Mandate:
    """A policy that approves a class of plans, this one among them unless `changes` say otherwise."""
    fields = AUTO | {"tasks": (contract.task.digest(),)} | changes
    return policy(contract, approved=(), auto_approve=AutoApprove(**fields))


def check_whole(chosen: Mandate, contract: Contract) -> None:
    check_contract(with_model(chosen), contract)
    check_ceiling(chosen, contract, PrivateStep.of(contract, 10, contract.cohort.minimum))


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
        ({"max_steps_per_round": 1}, "max_steps_per_round"),
        ({"max_sampling_rate": 0.4}, "max_sampling_rate"),
        ({"noise": ("local",)}, "noise"),
        ({"strategies": ("fedavg",)}, "strategies"),
        ({"max_micro_batch": 127}, "max_micro_batch"),
        ({"precisions": ("bfloat16",)}, "precisions"),
        ({"adapters": ("head",)}, "adapters"),
        ({"ceilings": {"adapter.rank": 1}}, "ceilings"),
        ({"max_parameters": 9}, "max_parameters"),
        ({"max_deadline": 149.0}, "max_deadline"),
    ],
)
def test_a_plan_outside_of_one_limit_is_refused_by_its_name(
    contract: Contract, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refused, match=rf"^policy.yaml: auto_approve.{field}: "):
        check_whole(unread(contract, **changes), contract)
    # Who has read it and approved its hash may still take part.
    read = unread(contract, **changes).with_approved(contract)
    check_whole(read, contract)


def test_the_ceiling_is_what_this_site_computes_itself(contract: Contract) -> None:
    event = PrivateStep.of(contract, 10, 2).event
    assert event is not None
    cost = epsilon({event: contract.releases}, 1e-5)
    check_whole(unread(contract, max_epsilon=cost * 1.0001), contract)
    with pytest.raises(Refused, match=f"costs ε = {cost:.3f}"):
        check_whole(unread(contract, max_epsilon=cost * 0.9999), contract)


def test_the_ceiling_also_caps_repeated_attempts(contract: Contract) -> None:
    assert budget_of(unread(contract, max_epsilon=2.0), contract).per_plan == 2.0
    tighter = unread(contract, max_epsilon=2.0)
    tighter = changed_policy(tighter, budget=Budget(epsilon=9, delta=1e-5, per_plan=1.5))
    assert budget_of(tighter, contract).per_plan == 1.5
    assert budget_of(policy(contract), contract).per_plan is None


def test_a_plan_without_privacy_is_never_approved_unread(plan: Plan) -> None:
    fields = plan.model_dump()
    fields["privacy"] |= {"noise": "unsafe_none", "epsilon": None}
    bare = Plan(**fields).contract(model_digest=MODEL, noise_multiplier=None)
    with pytest.raises(Refused, match="it has no privacy"):
        check_whole(changed_policy(unread(bare), unsafe_no_privacy=True), bare)


def test_the_steps_of_a_site_alone_have_limits_of_their_own(plan: Plan) -> None:
    fields = plan.model_dump()
    fields["privacy"] |= {"noise": "local"}
    fields["training"] |= {"local_steps": 3}
    fields["strategy"] = FedAvg(local_optimizer=Adam(options={"betas": (0.9, 0.99)}))
    delta = Plan(**fields).contract(model_digest=MODEL, noise_multiplier=1.0)
    allowed = {"strategies": ("fedavg",)}
    check_whole(unread(delta, **allowed), delta)
    for changes, field in (
        ({}, "strategies"),
        (allowed | {"max_steps_per_round": 5}, "max_steps_per_round"),
        (allowed | {"local_optimizers": ("SGD",)}, "local_optimizers"),
        (allowed | {"local_options": ("eps",)}, "local_options"),
    ):
        with pytest.raises(Refused, match=rf"^policy.yaml: auto_approve.{field}: "):
            check_whole(unread(delta, **changes), delta)


def test_a_unit_may_not_have_more_records_than_go_through_a_model_together(plan: Plan) -> None:
    fields = plan.model_dump()
    fields["privacy"] |= {"unit": "patient", "max_records_per_unit": 8}
    capped = Plan(**fields).contract(model_digest=MODEL, noise_multiplier=1.0)
    with pytest.raises(Refused, match=r"^policy.yaml: auto_approve.max_micro_batch: "):
        check_whole(unread(capped, max_micro_batch=7), capped)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yields the path of each field of a schema that is no section itself."""
    for name, field in model.model_fields.items():
        inner = [field.annotation, *get_args(field.annotation)]
        section = next((m for m in inner if isinstance(m, type) and issubclass(m, BaseModel)), None)
        if section is None:
            yield prefix + name
        elif section is Section:
            yield f"{prefix}{name}.kind"
        else:
            yield from leaves(section, f"{prefix}{name}.")


def unstated(registry: Registry[Any], place: str) -> Iterator[str]:
    """Yields the fields of a registry's kinds of which the kinds themselves do not say what they may do."""
    for name in registry.names():
        kind = registry.kind(name)
        for field in kind.model_fields.keys() - kind.unread.keys() - {"kind"}:
            yield f"{place}.{field}"


def test_everything_that_a_plan_can_choose_has_a_limit_or_a_reason_to_need_none() -> None:
    """A new field of a plan fails here until somebody has decided on it, in client/consent/unread.py."""
    covered = [path for limit in LIMITS for path in limit.covers]
    of_kinds = {
        *unstated(METHODS, "adapter"),
        *unstated(STRATEGIES, "strategy"),
        *unstated(CLIPPINGS, "privacy.clipping"),
        *unstated(ACCOUNTANTS, "privacy.accountant"),
        *unstated(ENGINES, "privacy.engine"),
        *unstated(SAMPLERS, "training.sampler"),
        *unstated(OPTIMIZERS, "strategy.local_optimizer"),
    }
    assert sorted([*covered, *FREE]) == sorted([*leaves(Contract), *of_kinds])
    own = {limit.name for limit in LIMITS} | {"ceilings", "max_parameters", "max_plans"}
    assert own == set(AutoApprove.model_fields)


def test_a_field_of_a_kind_that_says_nowhere_what_it_may_do_is_refused(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a third party, whose kinds no test of ours has read."""
    with pytest.raises(Refused, match=r"^site.yaml: model: "):  # which is looked at last
        check_unread(unread(contract), contract)
    rest = {name: said for name, said in LoRA.unread.items() if name != "alpha"}
    monkeypatch.setattr(LoRA, "unread", rest)
    with pytest.raises(Refused, match=r"does not say what adapter\.alpha may do"):
        check_unread(unread(contract), contract)


def test_an_unread_plan_does_not_say_where_the_base_model_lies(contract: Contract) -> None:
    chosen = unread(contract)
    with pytest.raises(Refused, match=r"^site.yaml: model: ") as told:
        check_contract(chosen, contract)
    elsewhere = contract.model_copy(update={"model": "../../../etc"})
    with pytest.raises(Refused) as same:
        check_contract(chosen, elsewhere)
    assert str(told.value) == str(same.value)


def test_a_site_keeps_so_many_unread_plans_and_no_more(contract: Contract) -> None:
    auto = unread(contract, max_plans=2).policy.auto_approve
    assert auto is not None
    check_room(auto, contract, {"1" * 64})
    check_room(auto, contract, {"1" * 64, contract.digest()})
    with pytest.raises(
        Refused, match=r"^policy.yaml: auto_approve.max_plans: .*keeps 2 such plans"
    ):
        check_room(auto, contract, {"1" * 64, "2" * 64})


def of_cohort(contract: Contract, minimum: int, max_colluding: int, noise: str) -> Contract:
    fields = contract.model_dump()
    fields["cohort"] |= {"minimum": minimum, "max_colluding": max_colluding}
    fields["privacy"] |= {"noise": noise}
    return Contract(**fields)


@pytest.mark.parametrize(
    ("changes", "minimum", "most"),
    [
        ({"max_honest_share": 0.67}, 2, 1),
        ({"max_honest_share": 0.67}, 3, 2),
        ({"max_honest_share": 0.67}, 6, 4),
        ({"max_honest_share": 0.67}, 10, 6),
        ({"max_honest_share": 0.1}, 3, 1),
        ({"max_honest_share": 0.5, "max_honest": 2}, 10, 2),
        ({"max_honest_share": 1.0, "max_honest": 7}, 10, 7),
        ({"max_honest_share": 0.29}, 100, 29),
    ],
)
@pytest.mark.parametrize("is_read", [True, False])
def test_a_plan_counts_on_no_more_honest_sites_than_its_site_does(
    contract: Contract, changes: dict[str, Any], minimum: int, most: int, is_read: bool
) -> None:
    """Ten sites' noise may be counted on; two honest ones add a fifth of the variance that ε is for."""
    chosen = {"min_cohort": 2, "min_honest": 1} | changes
    for counted in range(1, minimum + 1):
        asked = of_cohort(contract, minimum, minimum - counted, "distributed")
        make = policy if is_read else unread
        site = with_model(changed_policy(make(asked), **chosen))
        if counted <= most:
            check_contract(site, asked)
            continue
        with pytest.raises(
            Refused, match=r"^policy.yaml: max_honest_share.*assumes at most"
        ) as told:
            check_contract(site, asked)
        assert f"cohort.max_colluding: {minimum - most}," in str(told.value)
        alone = of_cohort(contract, minimum, minimum - counted, "local")
        check_contract(with_model(changed_policy(make(alone), **chosen)), alone)


@pytest.mark.parametrize("field", ["seed", "name", "model"])
def test_any_change_of_an_approved_plan_is_another_plan(contract: Contract, field: str) -> None:
    value = 99 if field == "seed" else "other"
    changed = contract.model_copy(update={field: value})
    with pytest.raises(Refused, match="not approved"):
        check_contract(with_model(policy(contract)), changed)


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
        "scale": PrivateStep.of(agreed, 10, 3).codec.scale,
    }
    return Descriptor(**fields | changes)


def check(contract: Contract, session: Descriptor, site: str = "ash") -> None:
    encoding = PrivateStep.of(contract, 10, len(session.cohort))
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
        ({"first_round": 2}, "no round 3"),
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
