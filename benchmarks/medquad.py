"""The loss of answers on MedQuAD, nine sites, all 10,914 records: zero-shot, without privacy, and for two ε.

    python examples/medquad/prepare.py
    python benchmarks/medquad.py [zero-shot|inf|EPSILON ...]

Runs examples/medquad/plan.yaml with another ε each, by the simulator as it is, in runs/medquad/. An interrupted run is
resumed, and finished ones, in benchmarks/results/medquad.csv, are not repeated. At the end it says which share of
the fall without privacy each ε has kept.
"""

import csv
import subprocess
import sys
import time
import warnings
from pathlib import Path

from hortus.learning.warm_model import WarmModel
from hortus.planning.plan_file import load_plan
from hortus.planning.prepare import pin
from hortus.protocol.plan import Plan
from hortus.runtime.metric import Metrics, values
from hortus.server.evaluation import Evaluator
from hortus.simulation.alone import without_privacy
from hortus.simulation.shared_workbench import SharedWorkbench
from hortus.simulation.simulate import simulate

HERE = Path(__file__).resolve().parent
PLAN = HERE.parent / "examples" / "medquad" / "plan.yaml"
RUNS = HERE.parent / "runs" / "medquad"
RESULTS = HERE / "results" / "medquad.csv"
ZERO_SHOT, OPEN = "zero-shot", "inf"
SETTINGS = (ZERO_SHOT, OPEN, "8", "3")
COLUMNS = ("epsilon", "seed", "round", "loss", "perplexity", "token_accuracy", "seconds", "commit")


def variant(epsilon: str) -> Plan:
    """Returns the plan with another ε."""
    plan = load_plan(PLAN)
    if epsilon in (ZERO_SHOT, OPEN):
        return without_privacy(plan)
    fields = plan.model_dump()
    fields["privacy"]["epsilon"] = float(epsilon)
    return Plan(**fields)


def train(epsilon: str, shared: SharedWorkbench) -> list[tuple[int, Metrics]]:
    """Returns the metrics after each round; of a model that is not trained, of round 0."""
    plan = variant(epsilon)
    if epsilon == ZERO_SHOT:
        contract, path = pin(plan, PLAN.parent)
        warm: WarmModel = shared.of(contract, path)
        return [(0, Evaluator(warm, plan.evaluation).measure(warm.initial_adapter))]
    run = simulate(
        plan,
        PLAN,
        RUNS / f"epsilon-{epsilon}",
        lambda record, _: print(
            f"  round {record.round + 1}: {values(record.metrics)}", flush=True
        ),
        lambda stage: print(f"  {stage}", flush=True),
        shared=shared,
    )
    print({phase: round(spent, 1) for phase, spent in run.timings.items()}, flush=True)
    return [(record.round + 1, record.metrics) for record in run.store.rounds]


def read() -> list[dict[str, str]]:
    return list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []


def write(epsilon: str, found: list[tuple[int, Metrics]], seconds: float) -> None:
    """Adds the rounds of a setting to the results."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        for number, metrics in found:
            reached = values(metrics)
            row = {"epsilon": epsilon, "seed": variant(epsilon).seed, "round": number}
            row |= {name: round(reached[name], 4) for name in COLUMNS[3:6]}
            row |= {"seconds": round(seconds), "commit": commit.strip()}
            print(row, flush=True)
            writer.writerow(row)


def tell() -> None:
    """Prints the last loss of each setting, and the share of the fall without privacy that it has kept."""
    last = {row["epsilon"]: float(row["loss"]) for row in read()}
    for epsilon, loss in last.items():
        share = ""
        if {ZERO_SHOT, OPEN} <= last.keys() and epsilon not in (ZERO_SHOT, OPEN):
            fall = last[ZERO_SHOT] - last[OPEN]
            share = f", {(last[ZERO_SHOT] - loss) / fall:.1%} of the fall"
        print(f"{epsilon:>9}: {loss:.4f}{share}")


def main() -> None:
    warnings.filterwarnings("ignore")
    shared = SharedWorkbench()
    for epsilon in sys.argv[1:] or SETTINGS:
        if all(row["epsilon"] != epsilon for row in read()):
            began = time.perf_counter()
            found = train(epsilon, shared)
            write(epsilon, found, time.perf_counter() - began)
    tell()


if __name__ == "__main__":
    main()
