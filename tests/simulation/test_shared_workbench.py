"""What differs in anything that a workbench follows from has another; everything else shares one."""

from pathlib import Path
from typing import Any

import pytest

from hortus.protocol.plan import Contract, Plan
from hortus.simulation import shared_workbench
from hortus.simulation.alone import without_privacy
from hortus.simulation.shared_workbench import SharedWorkbench


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> SharedWorkbench:
    monkeypatch.setattr(shared_workbench, "Workbench", lambda *_: object())
    return SharedWorkbench()


def contract(plan: Plan, **changes: Any) -> Contract:
    fields = plan.model_dump()
    for name, value in changes.items():
        fields[name] = fields[name] | value if isinstance(value, dict) else value
    return Plan(**fields).contract(model_digest="a" * 64, noise_multiplier=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 99},
        {"task": {"max_length": 17}},
        {"adapter": {"rank": 3}},
        {"training": {"precision": "bfloat16"}},
        {"training": {"micro_batch": 5}},
        {"privacy": {"unit": "patient", "max_records_per_unit": 2}},
        {"privacy": {"engine": {"kind": "opacus"}}},
    ],
    ids=str,
)
def test_another_model_adapter_or_engine_is_loaded(
    shared: SharedWorkbench, plan: Plan, changes: dict[str, Any]
) -> None:
    first = shared.of(contract(plan), Path())
    assert shared.of(contract(plan, **changes), Path()) is not first


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"training": {"rounds": 9}},
        {"training": {"sampling_rate": 0.9}},
        {"privacy": {"clipping_norm": 9.0}},
        {"privacy": {"noise": "local"}},
    ],
    ids=str,
)
def test_what_changes_no_workbench_shares_one(
    shared: SharedWorkbench, plan: Plan, changes: dict[str, Any]
) -> None:
    first = shared.of(contract(plan), Path())
    assert shared.of(contract(plan, **changes), Path()) is first


def test_a_plan_and_its_baselines_share_one(shared: SharedWorkbench, plan: Plan) -> None:
    bare = without_privacy(plan).contract(model_digest="a" * 64, noise_multiplier=None)
    assert shared.of(contract(plan), Path()) is shared.of(bare, Path())


def test_another_base_model_under_the_same_path_is_loaded(
    shared: SharedWorkbench, plan: Plan
) -> None:
    first = shared.of(contract(plan), Path())
    replaced = plan.contract(model_digest="b" * 64, noise_multiplier=1.0)
    assert shared.of(replaced, Path()) is not first
