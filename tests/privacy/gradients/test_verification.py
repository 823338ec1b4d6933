"""Our engine and Opacus' agree on a plan's own model, and a fault in either is found and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PlanWriter
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients import rules
from hortus.privacy.gradients.recording import Recorder
from hortus.privacy.gradients.units import Units
from hortus.privacy.gradients.verification import TOLERANCE, Verification, verify
from hortus.privacy.gradients.workbench import Workbench
from hortus.runtime.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
CHEAP = {"epsilon": None, "noise_multiplier": 2.0}
PATIENTS = {"unit": "patient", "max_records_per_unit": 3}
HEAD = {"adapter": {"kind": "head"}}


def verified(write_plan: PlanWriter, **parts: Any) -> Verification:
    plan = load_plan(write_plan(privacy=CHEAP | parts.pop("privacy", {}), **parts))
    return verify(Workbench(plan, Path(plan.model)), plan)


PLANS: dict[str, dict[str, Any]] = {
    "records": {},
    "patients": {"privacy": PATIENTS},
    "opacus": {"privacy": {"engine": {"kind": "opacus"}} | PATIENTS},
    "head": HEAD,
    "half precision": {"training": {"precision": "bfloat16"}},
    "per layer": {"privacy": {"clipping": {"kind": "per-layer"}, "clipping_norm": 0.01}},
}


@pytest.mark.parametrize("plan", PLANS)
def test_the_engines_agree(write_plan: PlanWriter, plan: str) -> None:
    found = verified(write_plan, **PLANS[plan])
    assert set(found.engines) == {"hortus", "opacus"}
    assert found.agree
    assert found.worst.difference < TOLERANCE / 10
    assert min(min(unit.norms) for unit in found.units) > 0
    lengths = {length for unit in found.units for length in unit.tokens}
    assert {1, 16} <= lengths  # the shortest, and the plan's longest
    assert len(lengths) > 5
    most = max(len(unit.tokens) for unit in found.units)
    assert most == (3 if "patient" in str(PLANS[plan]) else 1)


def halved(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(patch: pytest.MonkeyPatch) -> None:
        real = Recorder.add

        def add(self: Recorder, parameter: str, gradients: torch.Tensor) -> None:
            real(self, parameter, gradients / 2 if name in parameter else gradients)

        patch.setattr(Recorder, "add", add)

    return plant


def transposed(patch: pytest.MonkeyPatch) -> None:
    real = rules.matrix

    def matrix(gradient: torch.Tensor, x: torch.Tensor, form: rules.Form) -> torch.Tensor:
        found = real(gradient, x, form)
        return found.view(-1, *form.shape).mT.flatten(1) if form.shape[0] == 3 else found

    patch.setattr(rules, "matrix", matrix)


def first_token_only(patch: pytest.MonkeyPatch) -> None:
    real = rules.matrix

    def matrix(gradient: torch.Tensor, x: torch.Tensor, form: rules.Form) -> torch.Tensor:
        cut = (slice(None), slice(1)) if x.dim() == 3 else ()
        return real(gradient[cut], x[cut], form)

    patch.setattr(rules, "matrix", matrix)


def records_not_added(patch: pytest.MonkeyPatch) -> None:
    """A unit's last record stands for all: seen with units of several records."""

    def summed(self: Units, rows: torch.Tensor) -> torch.Tensor:
        return rows.new_zeros(self.count, rows.shape[1]).index_copy_(0, self.index, rows)

    patch.setattr(
        Recorder,
        "add",
        lambda self, name, rows: self.gradients.update({name: summed(self.units, rows)}),
    )


BUGS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "one layer's gradient halved": (
        halved("layer.1.attention.self.value.lora_B"),
        "layer.1.attention.self.value.lora_B",
    ),
    "the head's gradient halved": (halved("head"), "head"),
    "a bias halved": (halved("head.modules_to_save.default.bias"), "bias"),
    "a transposed gradient": (transposed, "head"),
    "padding and later tokens forgotten": (first_token_only, "lora"),
    "records of a unit not added": (records_not_added, ""),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_fault_is_found_and_named(
    write_plan: PlanWriter, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    plan = load_plan(write_plan(privacy=CHEAP | PATIENTS))
    bench = Workbench(plan, Path(plan.model))
    plant, parameter = BUGS[bug]
    with monkeypatch.context() as patch:
        plant(patch)
        found = verify(bench, plan)
    assert not found.agree
    assert found.worst.difference > 10 * TOLERANCE
    assert parameter in found.worst.parameter
    assert verify(bench, plan).agree


def command(path: Path) -> Any:
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    return CliRunner(env=environment).invoke(app, ["plan", str(path), "--verify"])


def test_the_command_shows_both_and_fails_where_they_differ(
    write_plan: PlanWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plan(privacy=CHEAP | PATIENTS)
    fine = command(path)
    assert fine.exit_code == 0, fine.output
    assert "One step of made-up records, by hortus and by opacus" in fine.output
    assert "hortus and opacus agree" in fine.output
    halved("head")(monkeypatch)
    wrong = command(path)
    assert wrong.exit_code == 1, wrong.output
    assert "head.modules_to_save.default" in wrong.output
    assert "please report this" in wrong.output
    assert "agree" not in wrong.output


def test_a_method_that_opacus_cannot_follow_is_refused_by_name(write_plan: PlanWriter) -> None:
    """DoRA's layer takes more than activations."""
    plan = load_plan(write_plan(privacy=CHEAP, adapter={"kind": "dora", "rank": 2}))
    bench = Workbench(plan, Path(plan.model))
    with pytest.raises(UsageError, match="privacy.engine: Opacus cannot follow a layer"):
        verify(bench, plan)
