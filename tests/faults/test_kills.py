"""kill -9 at named points: nothing is released unpaid, masked twice or counted twice, and it goes on.

By default a few points are tried; `python benchmarks/faults.py` tries every one.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.world import World
from faults.harness import Blast, Deployment, run
from helpers.approvals import approve_everywhere
from helpers.ports import free_port
from safetensors.numpy import load_file

from hortus.learning.models.folder import model_digest
from hortus.parties.folders import ServerConfig
from hortus.parties.founding import create_consortium
from hortus.planning.plan_file import load_plan
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.identity import Roster
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.faults import Fault

SITES = ("ash", "birch", "cedar")
ROUNDS = 2
SECONDS = 300.0

# What benchmarks/faults.py sets: every point is tried that has no row in this file yet, and adds one.
SWEEP = os.environ.get("HORTUS_FAULT_SWEEP")
pytestmark = pytest.mark.processes
QUICK = [
    (Fault.LEDGER_DURABLE, "middle", Blast.MACHINE),
    (Fault.SITE_WITHIN_UPLOAD, "first", Blast.PROCESS),
    (Fault.ROUND_BEFORE_COMMIT, "first", Blast.PROCESS),
]
EVERY = [(f, n, b) for f in Fault for n in ("first", "middle", "last") for b in Blast]

Make = Callable[..., Deployment]


@dataclass(slots=True)
class Undisturbed:
    """A run in which nothing dies, once there was one."""

    adapter: np.ndarray | None = None
    reached: list[str] = field(default_factory=list)

    def learn(self, deployment: Deployment) -> None:
        assert run(deployment, "trace", Blast.PROCESS, SECONDS) == 0
        check(deployment)
        self.adapter, self.reached = final_adapter(deployment), deployment.reached()

    def number(self, fault: Fault, when: str) -> int:
        """Which time a point is reached is the first, the middle or the last one."""
        count = self.reached.count(fault)
        return {"first": 1, "middle": (count + 1) // 2, "last": count}[when]


@pytest.fixture(scope="module")
def undisturbed() -> Undisturbed:
    return Undisturbed()


@pytest.fixture
def make(write_plan: Any, tiny_model: Path, tmp_path: Path) -> Make:
    """Lays out a consortium whose sites' noise is seeded, and sums of `minimum` sites or more."""

    def lay_out(minimum: int = 3, name: str = "run") -> Deployment:
        plan = load_plan(
            write_plan(
                training={"rounds": ROUNDS, "steps_per_round": 1},
                cohort={"minimum": minimum, "join_deadline": 6, "step_deadline": 6},
            )
        )
        contract = plan.contract(model_digest=model_digest(tiny_model), noise_multiplier=5.0)
        policy = Policy(
            budget=Budget(epsilon=1000, delta=1e-5),
            min_cohort=2,
            min_honest=2,
            max_honest_share=1.0,
            unsafe_seeded_noise=True,
        )
        addresses = ServerConfig(
            aggregation=f"127.0.0.1:{free_port()}", superlink=f"127.0.0.1:{free_port()}"
        )
        data = {site: tmp_path / f"{site}.csv" for site in SITES}
        directory = tmp_path / name
        consortium = create_consortium(
            directory / "consortium",
            data,
            dict.fromkeys(SITES, policy),
            addresses,
            datetime.now(UTC),
        )
        approve_everywhere(consortium, contract)
        return Deployment(consortium, contract, directory / "out")

    return lay_out


def final_adapter(deployment: Deployment) -> np.ndarray:
    path = deployment.out / "run" / "checkpoints" / f"round-{ROUNDS:05d}.safetensors"
    return load_file(path)["adapter"]


def check(deployment: Deployment) -> None:
    """What must hold whatever has died."""
    contract = deployment.contract
    world = World(
        deployment.consortium,
        contract,
        Workbench(contract, Path(contract.model)),
        datetime.now(UTC),
    )
    roster = Roster.load(deployment.consortium.server.roster)
    assert (deployment.out / "run" / "metrics.jsonl").read_text().count("\n") == ROUNDS
    assert len(list((deployment.out / "run" / "checkpoints").iterdir())) == 2
    chunks = Counter()
    for line in deployment.uploads.read_text().splitlines():
        site, session, step, attempt, sequence, digest = line.split()
        chunks[site, session, int(step), int(attempt), sequence, digest] += 1
    try:
        for site in SITES:
            charged = Counter(world.charges(site))
            assert set(charged.values()) <= {1}, "a release is charged once"
            sent = {key[1:4] for key in chunks if key[0] == site}
            assert sent <= set(charged), "nothing is sent that is not charged"
            places = Counter(key[:5] for key in chunks if key[0] == site)
            assert set(places.values()) <= {1}, "two vectors went under one mask"
            files = deployment.consortium.site(site)
            assert audit(collect(files, site), roster).first_broken is None
        for path in sorted(deployment.sums.iterdir()):
            done = np.load(path)
            expected = world.true_sum(
                done["sites"].tolist(),
                int(done["step"]),
                int(done["attempt"]),
                done["adapter"],
                int(done["cohort"]),
            )
            assert np.array_equal(done["total"], expected), "a sum is not that of its sites"
    finally:
        for site in world.opened:
            site.__exit__()


def test_every_point_is_reached_in_an_undisturbed_run(make: Make, undisturbed: Undisturbed) -> None:
    undisturbed.learn(make())
    assert set(undisturbed.reached) == set(Fault)


@pytest.mark.parametrize(("fault", "when", "blast"), EVERY if SWEEP else QUICK)
def test_a_run_survives_a_kill(
    make: Make, undisturbed: Undisturbed, fault: Fault, when: str, blast: Blast
) -> None:
    """With all three sites needed for a sum, the result is the undisturbed one to the last bit."""
    if SWEEP and f"{fault},{when},{blast.value}," in Path(SWEEP).read_text():
        pytest.skip("it was tried before")
    if undisturbed.adapter is None:
        undisturbed.learn(make(name="undisturbed"))
    number = undisturbed.number(fault, when)
    if when != "first" and number == 1:
        pytest.skip("it is reached once")
    deployment = make()
    killed = run(deployment, f"{fault} {number}", blast, SECONDS)
    check(deployment)
    is_same = np.array_equal(final_adapter(deployment), undisturbed.adapter)
    if SWEEP:
        with Path(SWEEP).open("a", newline="") as file:
            csv.writer(file).writerow([fault, when, blast.value, number, killed, is_same])
    assert killed == 1
    assert is_same


def test_the_others_go_on_when_one_site_dies(make: Make) -> None:
    """Two of three are enough: the sum is re-formed without the site, and is right."""
    deployment = make(minimum=2)
    assert run(deployment, f"{Fault.SITE_BEFORE_UPLOAD} 2", Blast.PROCESS, SECONDS) == 1
    check(deployment)
    sums = [np.load(path) for path in sorted(deployment.sums.iterdir())]
    assert len(sums) == ROUNDS
    assert sums[0]["attempt"] == 1
    assert len(sums[0]["sites"]) == 2
