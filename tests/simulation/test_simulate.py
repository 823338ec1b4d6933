"""The whole path, with a tiny model and everything else real."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel

from hortus.client.trainer import Trainer
from hortus.learning.tasks.kinds import TASKS
from hortus.parties.folders import SiteFiles
from hortus.planning.plan_file import load_plan
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.audit.auditor import Audit, audit
from hortus.privacy.audit.evidence import collect
from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.privacy.ledger.spending import read_spending
from hortus.privacy.ledger.store import Ledger
from hortus.privacy.step import PrivateStep
from hortus.protocol.identity import Identity
from hortus.runtime.errors import CohortTooSmall, HortusError, UsageError
from hortus.runtime.metric import values
from hortus.server.run.records import RoundRecord
from hortus.server.run.store import RunStore
from hortus.simulation.rehearsed_sites import _policies
from hortus.simulation.simulate import SimulatedRun, simulate
from tests.conftest import write_records

pytestmark = pytest.mark.minutes

LOCAL = {"noise": "local", "epsilon": 50.0, "delta": 1e-3}
ADAPTIVE = {"clipping": {"kind": "adaptive", "rate": 0.5}, "clipping_norm": 0.5}
PATIENT = {"unit": "patient", "max_records_per_unit": 2}
AVERAGED = {
    "training": {"steps_per_round": 1, "local_steps": 3},
    "strategy": {"kind": "fedavg", "local_optimizer": {"kind": "SGD", "learning_rate": 0.5}},
}


def over(transport: str) -> dict[str, Any]:
    return {"engine": {"kind": "rehearsal", "transport": transport}}


def run(path: Path, out: Path, stop_after: int | None = None) -> SimulatedRun:
    def observe(record: RoundRecord, _: Mapping[str, float]) -> None:
        if record.round == stop_after:
            raise KeyboardInterrupt

    return simulate(load_plan(path), path, out, observe)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"privacy": LOCAL},
        {"privacy": LOCAL} | AVERAGED,
        {"privacy": {"noise": "unsafe_none", "epsilon": None}},
        {"adapter": {"kind": "head"}},
        {"privacy": PATIENT},
        {"training": {"precision": "bfloat16"}},
        {"privacy": ADAPTIVE},
        {"privacy": {"clipping": {"kind": "per-layer"}}},
        {"privacy": {"ring_bits": 24}},
        {"privacy": {"clipping": {"kind": "automatic"}} | LOCAL} | AVERAGED,
    ],
    ids=[
        "distributed",
        "local",
        "fedavg",
        "no privacy",
        "head",
        "patients",
        "bfloat16",
        "adaptive",
        "per layer",
        "24 bits",
        "automatic",
    ],
)
def test_memory_and_grpc_give_the_same_bits(
    write_plan: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    adapters = []
    for transport in ("memory", "grpc"):
        path = write_plan(**changes, simulation=over(transport))
        adapters.append(run(path, tmp_path / transport).adapter)
    assert adapters[0].tobytes() == adapters[1].tobytes()
    assert np.isfinite(adapters[0]).all()
    assert adapters[0].any()


def test_another_seed_gives_other_noise(write_plan: Any, tmp_path: Path) -> None:
    first = run(write_plan(seed=3), tmp_path / "one").adapter
    second = run(write_plan(seed=4), tmp_path / "two").adapter
    assert not np.array_equal(first, second)


def _audited(files: SiteFiles, site: str) -> Audit:
    evidence = collect(files, site)
    return audit(evidence, evidence.roster)


def test_a_norm_that_adapts_is_the_same_for_all_and_in_their_ledgers(
    write_plan: Any, tmp_path: Path
) -> None:
    result = run(write_plan(privacy=ADAPTIVE), tmp_path / "run")
    norms = []
    for site in result.consortium.sites:
        files = result.consortium.site(site)
        audited = _audited(files, site)
        assert audited.first_broken is None
        norms.append([row.clipping_norm for row in audited.rounds])
    assert norms[0] == norms[1] == norms[2]
    assert norms[0][0] == 0.5
    assert len(set(norms[0])) == len(norms[0]) == 4


@pytest.mark.parametrize("privacy", [{}, ADAPTIVE], ids=["flat", "adaptive"])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    write_plan: Any, tmp_path: Path, privacy: dict[str, Any]
) -> None:
    path = write_plan(privacy=privacy)
    whole = run(path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "cut", stop_after=0)
    resumed = run(path, tmp_path / "cut")
    assert resumed.adapter.tobytes() == whole.adapter.tobytes()
    assert [r.round for r in resumed.store.rounds] == [0, 1]


def test_a_finished_run_is_not_run_again(write_plan: Any, tmp_path: Path) -> None:
    path = write_plan()
    first = run(path, tmp_path / "run")
    again = run(path, tmp_path / "run", stop_after=0)
    assert again.adapter.tobytes() == first.adapter.tobytes()


def test_a_folder_of_another_plan_is_refused(write_plan: Any, tmp_path: Path) -> None:
    run(write_plan(), tmp_path / "run")
    with pytest.raises(UsageError, match=r"another run:\nseed: was 3, is 9"):
        run(write_plan(seed=9), tmp_path / "run")


def test_a_folder_of_other_sites_is_refused_but_another_transport_goes_on(
    write_plan: Any, tmp_path: Path
) -> None:
    run(write_plan(), tmp_path / "run")
    with pytest.raises(UsageError, match=r"simulation.budgets.ash: was not set, is 9.0"):
        run(write_plan(simulation={"budgets": {"ash": 9.0}}), tmp_path / "run")
    run(write_plan(simulation=over("grpc")), tmp_path / "run")


def test_every_release_is_in_the_ledger_and_the_audit_agrees(
    write_plan: Any, tmp_path: Path
) -> None:
    result = run(write_plan(), tmp_path / "run")
    for site in result.consortium.sites:
        files = result.consortium.site(site)
        audited = _audited(files, site)
        assert audited.first_broken is None
        assert audited.entries == 5  # the approval, and four releases
        assert audited.rounds[-1].epsilon_so_far == pytest.approx(
            result.store.rounds[-1].epsilon, abs=1e-9
        )
        assert audited.rounds[-1].epsilon_so_far <= 50


def test_a_run_for_patients_is_recorded_as_one(write_plan: Any, tmp_path: Path) -> None:
    result = run(write_plan(privacy=PATIENT), tmp_path / "run")
    assert "max_records_per_unit" in (tmp_path / "run" / "plan.yaml").read_text()
    files = result.consortium.site("ash")
    identity = Identity.load(files.identity, "ash")
    with closing(Ledger.open(files.ledger, identity, lambda: 0.0)) as ledger:
        assert {account.unit for account in ledger.accounts().values()} == {"patient"}


def test_patients_of_one_record_each_are_records(write_plan: Any, tmp_path: Path) -> None:
    """Record by record: the same coins, noise and adapter."""
    adapters = []
    for name, privacy in (("records", {}), ("patients", PATIENT)):
        path = write_plan(privacy=privacy)
        for site in ("ash", "birch", "cedar"):
            rows = (tmp_path / f"{site}.csv").read_text().splitlines()
            own = [f"{row.rpartition(',')[0]},{i:03}" for i, row in enumerate(rows[1:])]
            (tmp_path / f"{site}.csv").write_text("\n".join([rows[0], *own]))
        adapters.append(run(path, tmp_path / name).adapter)
    assert adapters[0].tobytes() == adapters[1].tobytes()


def test_a_site_whose_budget_is_spent_refuses_and_the_others_go_on(
    write_plan: Any, tmp_path: Path
) -> None:
    path = write_plan(privacy={"spare_attempts": 0}, simulation={"budgets": {"birch": 45.0}})
    result = run(path, tmp_path / "run")
    assert [r.sites for r in result.store.rounds][-1] == ("ash", "cedar")
    (departure,) = result.store.departures
    assert departure.site == "birch"
    assert "budget is spent" in departure.reason
    files = result.consortium.site("birch")
    assert _audited(files, "birch").rounds[-1].epsilon_so_far <= 45


def test_virtual_sites_can_pay_for_the_whole_plan_in_whatever_cohort(write_plan: Any) -> None:
    """Fewer sites in a sum have a finer ring, and so a little less noise by rounding."""
    plan = load_plan(write_plan(privacy={"epsilon": None, "noise_multiplier": 1.0}))
    contract = plan.contract(model_digest="a" * 64, noise_multiplier=1.0)
    sites = [f"site-{number}" for number in range(8)]
    allowed = _policies(plan, contract, sites)["site-0"].budget.epsilon
    events = [PrivateStep.of(contract, 1000, count).event for count in range(2, 9)]
    assert len(set(events)) > 1
    for event in events:
        assert event is not None
        assert epsilon({event: plan.steps}, plan.privacy.delta) <= allowed


def test_a_budget_too_small_for_one_step_is_refused_before_the_session(
    write_plan: Any, tmp_path: Path
) -> None:
    path = write_plan(simulation={"budgets": {"birch": 0.001}})
    result = run(path, tmp_path / "run")
    assert all(record.sites == ("ash", "cedar") for record in result.store.rounds)
    assert "one more step would bring" in result.store.departures[0].reason


@pytest.mark.parametrize("noise", ["distributed", "local"])
def test_the_claim_counts_every_attempt_that_a_ledger_charges(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
) -> None:
    budgets = dict.fromkeys(("ash", "birch", "cedar"), 100.0)
    path = write_plan(privacy={"noise": noise}, simulation={"budgets": budgets})
    write_records(tmp_path / "cedar.csv", 61)
    vector = Trainer.vector

    def failing(self: Trainer, *arguments: Any) -> Any:
        if len(self._records) == 61:
            raise HortusError("the disk is full")
        return vector(self, *arguments)

    monkeypatch.setattr(Trainer, "vector", failing)
    result = run(path, tmp_path / "run")
    first, last = result.store.rounds
    assert (first.attempts, last.attempts, last.sites) == (3, 2, ("ash", "birch"))
    spent = read_spending(result.consortium.site("ash").ledger, result.store.run)
    assert spent.charges == (5 if noise == "distributed" else 4)
    claims = {record.round: record.epsilon for record in (first, last)}
    assert claims == pytest.approx(spent.after_round, rel=1e-3)


def test_the_claim_counts_what_a_round_cost_that_was_begun_anew(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = dict.fromkeys(("ash", "birch", "cedar"), 100.0)
    path = write_plan(simulation={"budgets": budgets})
    note_attempt = RunStore.note_attempt

    def cut_short(self: RunStore, record: AttemptRecord) -> None:
        note_attempt(self, record)
        if record.complete:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "note_attempt", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "run")
    result = run(path, tmp_path / "run")
    spent = read_spending(result.consortium.site("ash").ledger, result.store.run)
    assert spent.charges == 5
    claims = {record.round: record.epsilon for record in result.store.rounds}
    assert claims == pytest.approx(spent.after_round, abs=1e-9)


def test_too_few_willing_sites_end_the_run_with_their_reasons(
    write_plan: Any, tmp_path: Path
) -> None:
    budgets = {"birch": 0.001, "cedar": 0.001}
    with pytest.raises(CohortTooSmall, match=r"1 of 3 .*birch: .*cedar: "):
        run(write_plan(simulation={"budgets": budgets}), tmp_path / "run")


def test_the_adapter_loads_with_peft_alone(
    write_plan: Any, tmp_path: Path, tiny_model: Path
) -> None:
    path = write_plan()
    result = run(path, tmp_path / "run")
    base = TASKS.parse(load_plan(path).task).load(tiny_model).module
    loaded = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    state = {k: v for k, v in loaded.state_dict().items() if "lora_" in k or "modules_to_save" in k}
    flat = np.concatenate([state[name].numpy().ravel() for name in sorted(state)])
    assert flat.tobytes() == result.adapter.tobytes()


def test_federation_learns_with_a_real_encoder(
    write_plan: Any, tmp_path: Path, minilm: Path
) -> None:
    training = {
        "rounds": 10,
        "steps_per_round": 3,
        "sampling_rate": 0.5,
        "nominal_units": 60,
    }
    strategy = {"server_optimizer": {"kind": "Adam", "learning_rate": 0.1}}
    path = write_plan(
        model=str(minilm), adapter={"kind": "head"}, training=training, strategy=strategy
    )
    result = run(path, tmp_path / "run")
    assert values(result.store.rounds[-1].metrics)["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"simulation": {"budgets": {"oak": 1.0}}}, "no site 'oak'"),
        ({"task": {"labels": ["warm", "fresh", "cool", "odd"]}}, "no site has a record of 'odd'"),
        ({"cohort": {"minimum": 4}}, "there are 3 sites"),
        ({"adapter": {"kind": "lora", "targets": ["qkv"]}}, "no linear layer 'qkv'"),
        ({"adapter": {"kind": "lora", "layers": [7]}}, "no layer 7"),
        ({"model": "no/such/model"}, "no config.json"),
        ({"privacy": {"unit": "patients", "max_records_per_unit": 2}}, "no column 'patients'"),
        ({"simulation": None}, "whose records"),
    ],
)
def test_a_plan_that_cannot_work_is_explained(
    write_plan: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(write_plan(**changes), tmp_path / "run")
