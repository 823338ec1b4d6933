"""A trial with own files has a plan that loads, fits them, and that the sites' policy allows."""

from pathlib import Path

import pytest
import yaml

from hortus.client.consent.refusals import check_contract
from hortus.client.site.mandate import Mandate
from hortus.learning.data.records import read_records
from hortus.learning.tasks.kinds import TASKS
from hortus.planning.plan_file import load_plan
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError
from hortus.simulation.own_data import Asked, plan_for
from tests.conftest import LABELS, write_records

NAMES = ("ash", "birch", "cedar", "dogwood", "elm", "fir")


def policy(unit: str = "record") -> Policy:
    return Policy(budget=Budget(epsilon=3.5, delta=1e-4, unit=unit))


def files(directory: Path, *counts: int) -> dict[str, Path]:
    return {
        name: write_records(directory / f"{name}.csv", count, 5)
        for name, count in zip(NAMES, counts, strict=False)
    }


@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("counts", [(60, 60, 60), (9, 2000, 40), (30,) * 6])
def test_the_plan_loads_fits_the_files_and_is_allowed(
    tmp_path: Path, unit: str, counts: tuple[int, ...]
) -> None:
    data = files(tmp_path, *counts)
    test = write_records(tmp_path / "test.csv", 30, 400)
    made = plan_for(data, Asked(policy(unit), test=test))
    path = tmp_path / "plan.yaml"
    path.write_text(made.text, encoding="utf-8")
    plan = load_plan(path)
    assert set(plan.task.labels) == set(LABELS)
    assert (plan.privacy.epsilon, plan.privacy.delta, plan.privacy.unit) == (3.5, 1e-4, unit)
    assert plan.evaluation == test
    for own in data.values():
        read_records(own, TASKS.parse(plan.task), plan.privacy.unit_column)
    contract = plan.contract(model_digest="c" * 64, noise_multiplier=2.0)
    check_contract(Mandate(policy(unit)).with_approved(contract), contract)
    largest = max(made.units.values())
    assert largest / 4 < plan.training.nominal_units <= largest
    if unit == "record":
        assert tuple(made.units.values()) == counts
    else:
        assert largest < max(counts)
        assert 1 < (plan.privacy.max_records_per_unit or 0) <= 16


def test_more_records_are_sampled_less_often(tmp_path: Path) -> None:
    rates = []
    for count in (60, 1500, 6000):
        made = plan_for(files(tmp_path, count, count, count), Asked(policy()))
        rates.append(yaml.safe_load(made.text)["training"]["sampling_rate"])
    assert rates == [0.25, 0.1, 0.03]


@pytest.mark.parametrize(
    ("counts", "told"), [((60, 60), "needs 3 sites, and there are 2"), ((60,), "there is 1")]
)
def test_too_few_sites_are_refused_before_anything_is_made(
    tmp_path: Path, counts: tuple[int, ...], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        plan_for(files(tmp_path, *counts), Asked(policy()))


def test_a_row_that_does_not_fit_is_named_and_so_is_a_label_of_the_test_alone(
    tmp_path: Path,
) -> None:
    data = files(tmp_path, 60, 60, 60)
    test = tmp_path / "test.csv"
    test.write_text("text,label\nthe sky is blue,odd\n")
    with pytest.raises(UsageError, match=r"test.csv, line 2, column 'label': the label 'odd'"):
        plan_for(data, Asked(policy(), test=test))
    with data["birch"].open("a") as file:
        file.write("the sky is blue,,p1\n")
    with pytest.raises(UsageError, match=r"birch.csv, line 62, column 'label'"):
        plan_for(data, Asked(policy()))
