"""An approval is refused exactly where the site itself would refuse later, by the same functions."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers.charges import make_charge

from hortus.client.consent.approval import (
    admitted,
    check_whole,
    consented,
    plan_epsilon,
    record,
    withdraw,
)
from hortus.client.consent.refusals import budget_of, check_contract, check_model
from hortus.client.consent.terms import ChargeAccount, noise_of
from hortus.client.site.folder import Site
from hortus.learning.models.folder import model_digest
from hortus.parties.folders import ServerConfig, SiteFiles
from hortus.parties.founding import create_consortium
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.decisions import Frozen, Granted, Withdrawn
from hortus.privacy.secure_sum.masks import StepView
from hortus.privacy.step import PrivateStep
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import Budget, PeriodBudget, Policy
from hortus.runtime.errors import Refused, UsageError
from hortus.simulation.prospect import budgets_at

DELTA = 1e-5
ROWS = "text,label,patient\nAda is ill,a,p1\nBen is ill,b,p2\n"


@pytest.fixture
def files(tmp_path: Path) -> SiteFiles:
    data = tmp_path / "records.csv"
    data.write_text(ROWS)
    server = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    policy = Policy(budget=Budget(epsilon=8, delta=DELTA))
    made = create_consortium(
        tmp_path / "c", {"ash": data}, {"ash": policy}, server, datetime.now(UTC)
    )
    return made.site("ash")


@pytest.fixture
def site(files: SiteFiles) -> Iterator[Site]:
    with Site(files.directory, lambda: 1.8e9) as opened:
        yield opened


def make_contract(plan: Plan, model: Path, **changes: Any) -> Contract:
    fields = plan.model_dump()
    fields["task"] |= {"labels": ("a", "b")}
    noise = changes.pop("noise_multiplier", 5.0)
    digest = changes.pop("model_digest", model_digest(model))
    for section, value in changes.items():
        fields[section] = fields[section] | value if isinstance(value, dict) else value
    return Plan(**fields).contract(model_digest=digest, noise_multiplier=noise)


def encoding_of(contract: Contract) -> PrivateStep:
    return PrivateStep.of(contract, 100, contract.cohort.minimum)


def refusal_of_approval(site: Site, contract: Contract) -> str:
    """What `hortus approve` would say, its exit code 3 included; empty where it approves."""
    try:
        check_whole(site, contract, encoding_of(contract))
    except Refused as refused:
        return str(refused)
    return ""


def refusal_of_agent(site: Site, contract: Contract, steps: int | None = None) -> str:
    """What an agent says, step after step to the end of the plan, of a contract that was approved."""
    encoding, steps = encoding_of(contract), steps or contract.sums
    run, numbers = f"{random.getrandbits(128):032x}", count()
    descriptor = Descriptor(
        run=run,
        session=run,
        contract=contract.digest(),
        cohort=("ash", "birch", "cedar", "elm"),
        first_round=0,
        dimension=100,
        scale=encoding.codec.scale,
    )
    try:
        for _ in range(steps):
            check_contract(site.mandate, contract)
            check_model(contract, site.model_digest(contract))
            dataset = site.follow(contract).fingerprint
            budget, noise = budget_of(site.mandate, contract), noise_of(site.policy, observed=True)
            account = ChargeAccount(site.ledger, dataset, budget, noise)
            if reason := account.reason_to_refuse(encoding):
                return reason
            number = next(numbers)
            round_ = number // contract.training.steps_per_round
            norm = contract.privacy.clipping_norm
            charge = account.charge(
                encoding, descriptor, round_, StepView(number, 0, (), b""), norm
            )
            site.ledger.charge(charge, account.limit(encoding))
    except Refused as refused:
        return str(refused)
    return ""


def draw_case(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A plan and a policy, both within what a real one of either may be; half of them get along."""
    draw = random.Random(number)
    noise = draw.choice(["distributed", "distributed", "local", "unsafe_none"])
    bare = noise == "unsafe_none"
    training = {"rounds": draw.choice([1, 2]), "sampling_rate": 1.0}
    plan: dict[str, Any] = {
        "training": training | {"steps_per_round": draw.choice([1, 2])},
        "privacy": {"noise": noise, "epsilon": None if bare else 50.0},
        "cohort": {"minimum": draw.choice([3, 4]), "max_colluding": 1},
        "noise_multiplier": None if bare else draw.choice([4.0, 12.0]),
    }
    patients = {"unit": "patient", "max_records_per_unit": 2}
    odd = draw.randrange(14)
    if odd == 0:
        plan["privacy"] |= patients
    if odd == 1:
        plan["model_digest"] = "b" * 64
    policy = {
        "budget": Budget(
            epsilon=draw.choice([0.5, 1.0, 30.0]),
            delta=DELTA,
            per_plan=draw.choice([None, None, 0.7]),
            per_period=draw.choice([None, None, PeriodBudget(epsilon=0.8)]),
            unit="patient" if odd in (0, 2) and draw.randrange(2) else "record",
        ),
        "min_cohort": 4 if odd == 4 else 3,
        "min_honest": 3 if odd == 5 else 1,
        "max_honest_share": 0.5 if odd in (6, 7) else 1.0,
        "unsafe_no_privacy": bool(draw.randrange(3)),
        "unsafe_seeded_noise": odd == 8,
    }
    return plan, policy


CASES = 60


def test_approve_and_agent_never_disagree(files: SiteFiles, plan: Plan, tiny_model: Path) -> None:
    """Plans, policies and what was before by lot; the agent is asked to the end of the plan."""
    digest, reasons = model_digest(tiny_model), Counter[str]()
    first = make_contract(plan, tiny_model, noise_multiplier=12.0, training={"sampling_rate": 1.0})
    lenient = Policy(
        budget=Budget(epsilon=9, delta=DELTA), min_cohort=2, min_honest=1, max_honest_share=1.0
    )
    for number in range(CASES):
        changes, fields = draw_case(number)
        for path in files.directory.glob("ledger.sqlite*"):
            path.unlink()
        lenient.save(files.policy)
        with Site(files.directory, lambda: 1.8e9) as site:
            if number % 3 == 0:
                record(site, first, "Ada")
                assert refusal_of_agent(site, first) == ""
            if number % 7 == 0:
                site.ledger.record(Granted("*", 2.0, "the board"))
            if number % 11 == 0:
                site.ledger.record(Frozen("*", "an incident"))
            Policy(**fields).save(files.policy)
            contract = make_contract(
                plan, tiny_model, **{"name": f"plan-{number}", "model_digest": digest} | changes
            )
            head = site.ledger.head()
            told = refusal_of_approval(site, contract)
            assert site.ledger.head() == head, "asking writes nothing"
            record(site, contract, "Ada")
            later = refusal_of_agent(site, contract)
            assert bool(told) == bool(later), (told, later, changes, fields)
            reasons[told.split(" — ")[0][:40]] += 1
    assert reasons[""] > CASES // 6
    assert (
        sum(
            n
            for told, n in reasons.items()
            if told.startswith("policy.yaml: budget: its budget is spent")
        )
        > CASES // 10
    ), reasons
    assert len(reasons) >= 7, reasons


def test_a_forecast_counts_the_accounts_that_the_records_belong_to(
    site: Site, plan: Plan, tiny_model: Path
) -> None:
    """Two wards' accounts: a new file of the second inherits nothing of the first, before it is used."""
    contract = make_contract(plan, tiny_model)
    Policy(budget=Budget(epsilon=8, delta=DELTA)).save(site.files.policy)

    def release(step: int) -> str:
        dataset = site.follow(contract).fingerprint
        site.ledger.charge(make_charge(dataset=dataset, mode="local", step=step), None)
        return dataset

    first, *_ = (release(step) for step in range(3))
    site.data.write_text("text,label,patient\nEve is well,a,p8\n")
    site.ledger.state_disjoint(site.content(site.data), [first], "Ada", "another ward")
    release(3)
    site.data.write_text("text,label,patient\nEve is well,a,p8\nGus is well,b,p9\n")
    (budget,) = budgets_at(site, contract)
    assert budget.history == {GaussianEvent(1.0, 4.0): 1}
    assert len(site.ledger.contents()) == 2, "nothing was noted"
    site.data.write_text("text,label,patient\nZoe is well,a,p3\n")
    (budget,) = budgets_at(site, contract)
    assert budget.history == {GaussianEvent(1.0, 4.0): 4}, "a stranger's file may be anybody's"


def test_a_plan_under_way_is_asked_for_what_is_left(
    files: SiteFiles, plan: Plan, tiny_model: Path
) -> None:
    """Withdrawn and approved again in its second half, where the first has spent its half."""
    sampled = {"rounds": 4, "steps_per_round": 1, "sampling_rate": 1.0}
    contract = make_contract(
        plan, tiny_model, noise_multiplier=6.0, training=sampled, privacy={"spare_attempts": 0}
    )
    cost = plan_epsilon(contract, DELTA)
    Policy(
        budget=Budget(epsilon=cost, delta=DELTA), min_cohort=2, min_honest=1, max_honest_share=1.0
    ).save(files.policy)
    with Site(files.directory, lambda: 1.8e9) as site:
        record(site, contract, "Ada")
        assert refusal_of_agent(site, contract, steps=2) == ""
        withdraw(site.ledger, contract.digest()[:8], "Bob", "a doubt")
        assert "has withdrawn" in refusal_of_agent(site, contract, steps=1)
        assert refusal_of_approval(site, contract) == ""
        record(site, contract, "Ada")
        assert [type(one.said).__name__ for one in consented(site.ledger)] == ["Approved"]
        assert refusal_of_agent(site, contract, steps=2) == ""
        assert "its budget is spent" in refusal_of_agent(site, contract, steps=1)


@pytest.mark.parametrize("named", ["", "nothing", "0" * 64, "tin"])
def test_only_what_is_taken_part_in_can_be_withdrawn(
    site: Site, plan: Plan, tiny_model: Path, named: str
) -> None:
    contract = make_contract(plan, tiny_model)
    site.ledger.admit(admitted(contract, DELTA))
    with pytest.raises(UsageError, match="none of the plans"):
        withdraw(site.ledger, named, "Ada", "a doubt")
    withdraw(site.ledger, contract.name, "Ada", "a doubt")
    with pytest.raises(UsageError, match="none of the plans"):
        withdraw(site.ledger, contract.name, "Ada", "a doubt")
    assert isinstance(consented(site.ledger)[0].said, Withdrawn)


def test_an_approval_is_refused_in_words_where_no_ledger_could_charge_the_plan(
    site: Site, plan: Plan, tiny_model: Path
) -> None:
    Policy(
        budget=Budget(epsilon=8, delta=DELTA), min_cohort=2, min_honest=1, max_honest_share=1.0
    ).save(site.files.policy)
    contract = make_contract(plan, tiny_model, training={"sampling_rate": 1e-13})
    assert "no ledger can charge for it" in refusal_of_approval(site, contract)
