"""The loss of answers on MedQuAD, nine sites, all 10,914 records: zero-shot, without privacy, and for two ε.

    python examples/medquad/prepare.py
    python benchmarks/medquad.py [FOLDER]

Runs examples/medquad/plan.yaml with another ε each, by the simulator as it is, in FOLDER (default:
runs/medquad). An interrupted run is resumed, and finished ones, in benchmarks/results/medquad.csv, are not
repeated. What the frozen layers make of the records is kept in memory or in TMPDIR.
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
RESULTS = HERE / "results" / "medquad.csv"
ZERO_SHOT, OPEN = "zero-shot", "inf"
SETTINGS = (ZERO_SHOT, OPEN, "8", "3")
COLUMNS = (
    "epsilon",
    "seed",
    "round",
    "loss",
    "perplexity",
    "token_accuracy",
    "kept",
    "seconds",
    "commit",
)


def variant(epsilon: str) -> Plan:
    """Returns the plan with another ε."""
    plan = load_plan(PLAN)
    if epsilon in (ZERO_SHOT, OPEN):
        return without_privacy(plan)
    fields = plan.model_dump()
    fields["privacy"]["epsilon"] = float(epsilon)
    return Plan(**fields)


def train(epsilon: str, folder: Path, shared: SharedWorkbench) -> list[tuple[int, Metrics]]:
    """Returns the metrics after each round; of a model that is not trained, of round 0."""
    plan = variant(epsilon)
    if epsilon == ZERO_SHOT:
        contract, path = pin(plan, PLAN.parent)
        warm: WarmModel = shared.of(contract, path)
        return [(0, Evaluator(warm, plan.evaluation).measure(warm.initial_adapter))]
    run = simulate(
        plan,
        PLAN,
        folder / f"epsilon-{epsilon}",
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


def kept(loss: float, rows: list[dict[str, str]]) -> float | None:
    """Returns the share of the fall without privacy that a loss has kept."""
    start = [float(row["loss"]) for row in rows if row["epsilon"] == ZERO_SHOT]
    end = [float(row["loss"]) for row in rows if row["epsilon"] == OPEN]
    return (start[-1] - loss) / (start[-1] - end[-1]) if start and end else None


def main() -> None:
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "runs" / "medquad"
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout
    shared = SharedWorkbench()
    for epsilon in SETTINGS:
        if any(row["epsilon"] == epsilon for row in read()):
            continue
        began = time.perf_counter()
        found = train(epsilon, folder, shared)
        seconds = time.perf_counter() - began
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if file.tell() == 0:
                writer.writeheader()
            for number, metrics in found:
                reached = values(metrics)
                share = kept(reached["loss"], read()) if epsilon not in (ZERO_SHOT, OPEN) else None
                row = {
                    "epsilon": epsilon,
                    "seed": variant(epsilon).seed,
                    "round": number,
                    **{name: round(reached[name], 4) for name in COLUMNS[3:6]},
                    "kept": "" if share is None else round(share, 4),
                    "seconds": round(seconds),
                    "commit": commit.strip(),
                }
                print(row, flush=True)
                writer.writerow(row)


if __name__ == "__main__":
    main()
