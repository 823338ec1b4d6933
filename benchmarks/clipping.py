"""What the clipping rules reach from a good and from bad first norms C, on the demo's data.

`python benchmarks/clipping.py` writes results/clipping.csv. A private head on the frozen encoder, six
sites, ε = 3: the noise multiplier is the same in all rows, so they cost the same.
"""

import csv
import subprocess
import tempfile
from pathlib import Path

from hortus.protocol.plan import Plan
from hortus.protocol.plan_file import load_plan
from hortus.simulation.demo import write_demo_folder
from hortus.simulation.simulate import simulate

RULES = ("flat", "per-layer", "automatic", "adaptive")
NORMS = (0.03, 1.0, 30.0)
EPSILON = 3.0
RATE = 0.5  # of the adaptive rule: 32 steps are few for the default


def main() -> None:
    """Measures and writes."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        demo = load_plan(write_demo_folder(Path(folder)))
        rows = [
            (rule, norm, _accuracy(_plan(demo, rule, norm), Path(folder) / f"{rule}-{norm}"))
            for norm in NORMS
            for rule in RULES
        ]
    with (Path(__file__).parent / "results" / "clipping.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rule", "first C", "accuracy", "commit"])
        writer.writerows((rule, norm, f"{accuracy:.4f}", commit) for rule, norm, accuracy in rows)


def _plan(demo: Plan, rule: str, norm: float) -> Plan:
    fields = demo.model_dump(mode="json")
    fields["adapter"] = {"kind": "head"}
    clipping = {"rule": rule} | ({"rate": RATE} if rule == "adaptive" else {})
    fields["privacy"] |= {"epsilon": EPSILON, "clipping_norm": norm, "clipping": clipping}
    return Plan(**fields)


def _accuracy(plan: Plan, out: Path) -> float:
    run = simulate(plan, out.parent, out, lambda *_: None)
    accuracy = run.store.rounds[-1].metrics["accuracy"]
    print(f"{plan.privacy.clipping.rule:10} C = {plan.privacy.clipping_norm:<5g} {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
