"""Accuracy against ε on Banking77, ten sites, both noise modes, three seeds.

    python benchmarks/banking77.py [SEED ...]

Runs examples/banking77/plan.yaml with other noise, ε and seeds, by the simulator as it is. Finished
runs are kept in benchmarks/results/banking77.csv and not repeated.
"""

import csv
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from provenance import measured_commit

from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan
from hortus.runtime.metric import values
from hortus.simulation.simulate import simulate

HERE = Path(__file__).parent
PLAN = HERE.parent / "examples" / "banking77" / "plan.yaml"
RESULTS = HERE / "results" / "banking77.csv"
COLUMNS = ("noise", "epsilon", "seed", "accuracy", "macro_f1", "seconds_per_round", "commit")
SETTINGS = [("unsafe_none", None)] + [
    (noise, epsilon) for epsilon in (8, 3, 1) for noise in ("distributed", "local")
]


def variant(noise: str, epsilon: int | None, seed: int) -> Plan:
    plan = load_plan(PLAN)
    fields = plan.model_dump() | {"seed": seed}
    fields["privacy"] |= {"noise": noise, "epsilon": epsilon}
    return Plan(**fields)


def measure(noise: str, epsilon: int | None, seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as out:
        plan = variant(noise, epsilon, seed)
        began = time.perf_counter()
        run = simulate(plan, PLAN, Path(out) / "run", lambda *_: None)
        seconds = time.perf_counter() - began
        rounds = run.store.rounds
        reached = values(rounds[-1].metrics)
        print({phase: round(spent, 2) for phase, spent in run.timings.items()})
    commit = measured_commit()
    return {
        "noise": noise,
        "epsilon": epsilon or "inf",
        "seed": seed,
        "accuracy": round(reached["accuracy"], 4),
        "macro_f1": round(reached["macro_f1"], 4),
        "seconds_per_round": round(seconds / len(rounds), 2),
        "commit": commit,
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    RESULTS.parent.mkdir(exist_ok=True)
    rows = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    done = {(row["noise"], row["epsilon"], row["seed"]) for row in rows}
    for seed in map(int, sys.argv[1:] or (1, 2, 3)):
        for noise, epsilon in SETTINGS:
            if (noise, str(epsilon or "inf"), str(seed)) in done:
                continue
            row = measure(noise, epsilon, seed)
            print(row, flush=True)
            with RESULTS.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
