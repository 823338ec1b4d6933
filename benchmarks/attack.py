"""The attack on the demo plan: without noise, at ε = 8 and 1, and with the noise switched off.

    python benchmarks/attack.py [TRAININGS] [VARIANT ...]

Finished trainings are kept in runs/attack, so an interrupted benchmark goes on; each variant
measured adds a row to benchmarks/results/attack.csv.
"""

import csv
import os
import platform
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
from provenance import measured_commit

from hortus.planning.plan_file import load_plan
from hortus.privacy.noise import discrete_gaussian
from hortus.protocol.plan import Plan
from hortus.simulation.attack.pipeline import Setting, attack
from hortus.simulation.attack.verdict import judge, write_page
from hortus.simulation.demo import write_demo_folder

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "attack"
RESULTS = HERE / "results" / "attack.csv"
VARIANTS = {
    "no noise": {"noise": "unsafe_none", "epsilon": None},
    "epsilon 8": {"epsilon": 8.0},
    "epsilon 1": {"epsilon": 1.0},
    "epsilon 1, bug: noise off": {"epsilon": 1.0},
}


def silent(_sigma: int, size: int, _stream: object) -> np.ndarray:
    return np.zeros(size, np.int64)


def measure(variant: str, trainings: int) -> dict[str, object]:
    path = write_demo_folder(RUNS)
    plan = load_plan(path)
    fields = plan.model_dump()
    fields["privacy"] |= VARIANTS[variant]
    bug = (
        mock.patch.object(discrete_gaussian, "sample", silent)
        if "bug" in variant
        else nullcontext()
    )
    out, started = RUNS / variant.replace(" ", "-"), time.monotonic()

    def tell(done: int, steps: int) -> None:
        print(f"\r{variant}: {done} of {steps}", end="", flush=True)

    with bug:
        seen = attack(Plan(**fields), RUNS, out, Setting(trainings, None, None), tell)
    verdict = judge(seen, 0.95)
    write_page(verdict, out / "attack.html")
    commit = measured_commit()
    one, tenth = verdict.detections
    return {
        "variant": variant,
        "trainings": trainings,
        "canaries": seen.present.shape[1],
        "claim": round(verdict.claim, 4),
        "lower_bound": round(verdict.bound.epsilon, 4),
        "correct": verdict.bound.correct,
        "guesses": verdict.bound.guesses,
        "observer_area": round(verdict.observer.area, 4),
        "shadow_area": round(verdict.shadow.area, 4),
        "observer_tpr_1": round(one.observer, 4),
        "shadow_tpr_1": round(one.shadow, 4),
        "allowed_tpr_1": round(one.bound, 4),
        "observer_tpr_0.1": round(tenth.observer, 4),
        "shadow_tpr_0.1": round(tenth.shadow, 4),
        "allowed_tpr_0.1": round(tenth.bound, 4),
        "exposed": verdict.exposed,
        "seconds": round(time.monotonic() - started),
        "commit": commit,
        "machine": f"{os.cpu_count()} x {platform.machine()}",
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    trainings = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for variant in sys.argv[2:] or VARIANTS:
        row = measure(variant, trainings)
        print(f"\n{row}", flush=True)
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
