"""What the clipping rules reach at ε = 3 on the demo's data, from a good and a bad C, over three seeds.

    python benchmarks/clipping.py [SEED ...]

The demo's plan with a private head on the frozen encoder. The noise multiplier is the same in all rows, so they
cost the same. A head is one layer, so that `per-layer` is `flat` and has no rows. Finished runs are kept in
benchmarks/results/clipping.csv and not repeated.
"""

import csv
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch
from provenance import measured_commit

from hortus.learning.data.records import Records
from hortus.learning.loader import Encoded
from hortus.learning.tasks.classification import TextClassification
from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan
from hortus.runtime.metric import values
from hortus.simulation.demo import write_demo_folder
from hortus.simulation.simulate import simulate

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "clipping.csv"
COLUMNS = ("rule", "first_norm", "seed", "accuracy", "macro_f1", "commit")
RULES = ("flat", "automatic", "adaptive")
NORMS = (1.0, 30.0)
EPSILON = 3.0
RATE = 0.5  # of the adaptive rule: 32 steps are few for the default


def variant(demo: Plan, rule: str, norm: float, seed: int) -> Plan:
    fields = demo.model_dump(mode="json") | {"seed": seed}
    fields["adapter"] = {"kind": "head"}
    # The same steps in one round, since each round is evaluated.
    fields["training"] |= {"rounds": 1, "steps_per_round": demo.steps}
    clipping = {"kind": rule} | ({"rate": RATE} if rule == "adaptive" else {})
    fields["privacy"] |= {"epsilon": EPSILON, "clipping_norm": norm, "clipping": clipping}
    return Plan(**fields)


def measure(rule: str, norm: float, seed: int) -> dict[str, object]:
    commit = measured_commit()
    with tempfile.TemporaryDirectory() as folder:
        demo = load_plan(write_demo_folder(Path(folder)))
        plan = variant(demo, rule, norm, seed)
        run = simulate(plan, Path(folder) / "plan.yaml", Path(folder) / "run", lambda *_: None)
        metrics = values(run.store.rounds[-1].metrics)
    return {
        "rule": rule,
        "first_norm": norm,
        "seed": seed,
        "accuracy": round(metrics["accuracy"], 4),
        "macro_f1": round(metrics["macro_f1"], 4),
        "commit": commit,
    }


@contextmanager
def embedding_once() -> Iterator[None]:
    """Every run has the same texts and the same frozen encoder: what it makes of them is kept."""
    known: dict[tuple[tuple[str, ...], bytes], Encoded] = {}
    encode = TextClassification.encode

    def kept(task: TextClassification, records: Records) -> Encoded:
        key = (tuple(records.texts), records.labels.tobytes())
        if key not in known:
            known[key] = encode(task, records)
        return known[key]

    with patch.object(TextClassification, "encode", kept):
        yield


def main() -> None:
    warnings.filterwarnings("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    rows = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    done = {(row["rule"], row["first_norm"], row["seed"]) for row in rows}
    seeds = map(int, sys.argv[1:] or (1, 2, 3))
    with embedding_once():
        for seed, rule, norm in product(seeds, RULES, NORMS):
            if (rule, str(norm), str(seed)) in done:
                continue
            row = measure(rule, norm, seed)
            print(row, flush=True)
            with RESULTS.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
