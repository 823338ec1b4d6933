"""What a site answers and what it does go through one gate, which trusts nothing that it saw before."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hortus.client.consent.admission import Gate
from hortus.client.consent.approval import approve_unasked, withdraw
from hortus.client.preparation import Materials, Prepared
from hortus.client.site.folder import Site
from hortus.learning.models.folder import model_digest
from hortus.parties.folders import ServerConfig
from hortus.parties.founding import create_consortium
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.ledger.decisions import Admitted
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.canonical import canonical_json
from hortus.runtime.errors import Refused

POLICY = Policy(
    budget=Budget(epsilon=8, delta=1e-5), min_cohort=2, min_honest=1, max_honest_share=1.0
)


@pytest.fixture
def contract(plan: Plan, tiny_model: Path) -> Contract:
    return plan.contract(model_digest=model_digest(tiny_model), noise_multiplier=5.0)


@pytest.fixture
def site(tmp_path: Path, contract: Contract, plan: Plan) -> Iterator[Site]:
    assert plan.simulation is not None
    assert plan.simulation.sites is not None
    server = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    data = {"ash": plan.simulation.sites["ash"]}
    made = create_consortium(tmp_path / "c", data, {"ash": POLICY}, server, datetime.now(UTC))
    with Site(made.site("ash").directory, lambda: 1.8e9) as opened:
        approve_unasked(opened, contract, "Ada")
        yield opened


class Doorway:
    """A gate with all that it leads to, and a count of what was computed for whoever asked."""

    def __init__(self, site: Site, model: Path) -> None:
        self.prepared: list[str] = []
        self._bench: Workbench | None = None
        self._model = model
        self._materials = Materials(site, self._workbench)
        self.gate = Gate(site, self._prepare, observed=True)

    def _prepare(self, contract: Contract) -> Prepared:
        self.prepared.append(contract.digest())
        return self._materials.prepare(contract)

    def _workbench(self, contract: Contract) -> Workbench:
        self._bench = self._bench or Workbench(contract, self._model, shares_passes=False)
        return self._bench


@pytest.fixture
def doorway(site: Site, tiny_model: Path) -> Doorway:
    return Doorway(site, tiny_model)


def encoded(contract: Contract) -> bytes:
    return canonical_json(contract.model_dump(mode="json"))


def save(site: Site, **changes: object) -> None:
    site.policy.model_copy(update=changes).save(site.files.policy)


CHANGES: dict[str, Callable[[Site, Contract], object]] = {
    "the operator withdraws": lambda site, plan: withdraw(site.ledger, plan.name, "Ada", "a doubt"),
    "more sites are asked for": lambda site, _: save(site, min_cohort=9),
    "more honest sites are asked for": lambda site, _: save(site, min_cohort=9, min_honest=9),
    "fewer are taken to be honest": lambda site, _: save(site, max_honest=1),
    "the budget protects another unit": lambda site, _: save(
        site, budget=POLICY.budget.model_copy(update={"unit": "patient"})
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_answered_does_not_count_when_the_session_comes(
    site: Site, doorway: Doorway, contract: Contract, change: str
) -> None:
    asked = doorway.gate.admit(encoded(contract))
    CHANGES[change](site, contract)
    with pytest.raises(Refused):
        doorway.gate.admit(encoded(contract), 4)
    with pytest.raises(Refused):
        asked.account()


def test_a_replaced_model_does_not_get_through(
    doorway: Doorway, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorway.gate.admit(encoded(contract))
    monkeypatch.setattr(Site, "model_digest", lambda *_: "b" * 64)
    doorway._prepare = lambda _: pytest.fail("prepared again")  # type: ignore[method-assign]
    with pytest.raises(Refused, match="differs from the plan's"):
        doorway.gate.admit(encoded(contract), 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"name": "another"},
        {"model": "elsewhere"},
        {"model_digest": "c" * 64},
        {"privacy": {"clipping_norm": 2.0}},
        {"training": {"rounds": 99}},
    ],
)
def test_nothing_is_read_or_computed_for_another_contract_than_the_approved_one(
    doorway: Doorway, contract: Contract, changes: dict[str, object]
) -> None:
    fields = contract.model_dump()
    for name, value in changes.items():
        fields[name] = fields[name] | value if isinstance(value, dict) else value
    with pytest.raises(Refused, match="is not approved here"):
        doorway.gate.admit(encoded(Contract(**fields)))
    assert doorway.prepared == []


def test_the_step_is_that_of_the_sites_in_the_session(doorway: Doorway, contract: Contract) -> None:
    asked, taken = (doorway.gate.admit(encoded(contract), sites) for sites in (None, 40))
    assert (
        asked.step.codec.scale
        == doorway.gate.admit(encoded(contract), contract.cohort.minimum).step.codec.scale
    )
    assert taken.step.codec.scale < asked.step.codec.scale
    assert taken.data == asked.data


def test_a_budget_that_is_spent_is_told_at_the_question(
    site: Site, doorway: Doorway, contract: Contract
) -> None:
    doorway.gate.admit(encoded(contract)).check_payable()
    save(site, budget=POLICY.budget.model_copy(update={"epsilon": 1e-6}))
    admission = doorway.gate.admit(encoded(contract))
    with pytest.raises(Refused, match="one more step would bring") as caught:
        admission.check_payable()
    assert caught.value.where == "policy.yaml: budget"


def test_a_plan_that_was_read_is_stored_and_not_noted_again(
    site: Site, doorway: Doorway, contract: Contract
) -> None:
    doorway.gate.keep(doorway.gate.admit(encoded(contract)))
    assert site.kept_contracts() == {contract.digest()}
    assert not [e for e in site.ledger.consents().values() if isinstance(e.body, Admitted)]
