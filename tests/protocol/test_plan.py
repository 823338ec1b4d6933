"""A contract is a plan with every number explicit; its hash is what sites approve."""

from typing import Any

import pytest

from hortus.protocol.plan import Contract, Plan
from hortus.runtime.errors import UsageError

FIELDS: dict[str, Any] = {
    "name": "study",
    "model": "model",
    "task": {"kind": "nobody-knows", "column": "text"},
    "adapter": {"kind": "some"},
    "training": {"rounds": 3, "steps_per_round": 4, "sampling_rate": 0.1, "nominal_units": 9},
    "strategy": {"kind": "other"},
    "privacy": {"epsilon": 8},
}
CONTRACT = Plan.parse(FIELDS, "plan").contract(model_digest="a" * 64, noise_multiplier=1.5)


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return FIELDS | {name: FIELDS.get(name, {}) | fields for name, fields in sections.items()}


def test_a_contract_states_the_noise_the_spares_and_the_model() -> None:
    assert CONTRACT.privacy.noise_multiplier == 1.5
    assert (CONTRACT.privacy.epsilon, CONTRACT.privacy.spare_attempts) == (None, 2)
    assert Contract.parse(CONTRACT.model_dump(mode="json"), "contract") == CONTRACT


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("seed",), 1),
        (("task", "column"), "note"),
        (("adapter", "kind"), "another"),
        (("training", "micro_batch"), 64),
        (("privacy", "delta"), 1e-6),
        (("privacy", "engine", "kind"), "other"),
        (("cohort", "step_deadline"), 60.0),
        (("model_digest",), "b" * 64),
    ],
    ids=str,
)
def test_every_value_is_in_the_hash_that_sites_approve(place: tuple[str, ...], value: Any) -> None:
    fields = CONTRACT.model_dump(mode="json")
    section = fields
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    assert Contract.parse(fields, "contract").digest() != CONTRACT.digest()


@pytest.mark.parametrize("without", ["noise_multiplier", "spare_attempts"])
def test_a_contract_that_leaves_a_number_open_is_refused(without: str) -> None:
    fields = CONTRACT.model_dump(mode="json")
    fields["privacy"][without] = None
    with pytest.raises(UsageError):
        Contract.parse(fields, "contract")


@pytest.mark.parametrize(
    ("rounds", "spare", "releases"), [(3, 2, 14), (100, 20, 420), (2000, 400, 8400)]
)
def test_spare_attempts_are_one_for_each_20_sums(rounds: int, spare: int, releases: int) -> None:
    plan = Plan.parse(changed(training={"rounds": rounds}), "plan")
    assert (plan.spare_attempts, plan.sums, plan.releases) == (spare, 4 * rounds, releases)


def test_without_a_budget_nothing_is_spared() -> None:
    privacy = {"privacy": {"noise": "unsafe_none"}}
    assert Plan.parse(FIELDS | privacy, "plan").spare_attempts == 0


def test_local_steps_are_charged_for_spare_attempts_too() -> None:
    plan = Plan.parse(changed(training={"local_steps": 5}), "plan")
    assert (plan.sums, plan.steps, plan.releases) == (12, 60, 70)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (changed(cohort={"minimum": 3, "max_colluding": 3}), "max_colluding must be smaller"),
        (changed(cohort={"pace": 900.0}), "pace: 900 is more than step_deadline"),
        (changed(privacy={"unit": "p", "max_records_per_unit": 200}), "max_records_per_unit"),
        (changed(simulation={}), "give either sites or train"),
        (changed(simulation={"train": "x"}), "partition belongs to train"),
        (
            changed(simulation={"train": "x", "partition": {"kind": "column", "sites": 2}}),
            "column belongs to kind: column",
        ),
        (
            changed(simulation={"train": "x", "partition": {"sites": 2, "alpha": 0.1}}),
            "alpha belongs to kind: dirichlet",
        ),
        (FIELDS | {"name": "Study"}, "name"),
        (FIELDS | {"nmae": "study"}, "nmae"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_together_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Plan.parse(fields, "plan")
