"""How long a start takes: an import, a help text, a typo in a plan, an audit.

    python benchmarks/start_up.py

Each is a process of its own, 15 times in turns; results/start_up.csv has the medians of the clock and of the
processor's time, and which heavy libraries were loaded. The evidence is that of a site with 100 charges.
"""

import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from provenance import measured_commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "start_up.csv"
TIMES = 15
HEAVY = (
    "torch",
    "flwr",
    "transformers",
    "matplotlib",
    "dp_accounting",
    "scipy",
    "numpy",
    "pydantic",
)
HORTUS = "from hortus.cli.main import app; app()"
LOADED = (
    "import atexit, json, sys; atexit.register(lambda: print(json.dumps("
    f"[n for n in {HEAVY} if n in sys.modules]), file=sys.stderr)); "
)


def make_bundle(path: Path) -> None:
    """Writes the evidence of a site."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.charges import approve, make_charge  # noqa: PLC0415

    from hortus.privacy.audit.evidence import export, read_evidence  # noqa: PLC0415
    from hortus.privacy.ledger.store import Ledger  # noqa: PLC0415
    from hortus.protocol.identity import Identity, Roster  # noqa: PLC0415
    from hortus.protocol.policy import Budget  # noqa: PLC0415

    site = Identity.generate("ash")
    ledger = approve(Ledger.open(path.with_suffix(".sqlite"), site, time.time))
    for step in range(100):
        ledger.charge(make_charge(step=step), Budget(epsilon=1000, delta=1e-5))
    ledger.close()
    server = Identity.generate("server").public_key_bytes
    roster = Roster({"ash": site.public_key_bytes}, server)
    export(read_evidence("ash", path.with_suffix(".sqlite"), roster, {}), path)


def measured(command: list[str]) -> tuple[float, float, str]:
    """Returns seconds by the clock and of the processor, and the heavy libraries."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", *command], capture_output=True, text=True, check=False
    )
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return clock, spent, " ".join(json.loads(done.stderr.splitlines()[-1]))


def main() -> None:
    with TemporaryDirectory() as folder:
        plan, bundle = Path(folder) / "plan.yaml", Path(folder) / "ash.evidence"
        plan.write_text("name: slip\ntraning: {rounds: 1}\n", encoding="utf-8")
        make_bundle(bundle)
        programs = {
            "python alone": [LOADED],
            "import hortus": [LOADED + "import hortus"],
            "hortus --help": [LOADED + HORTUS, "--help"],
            "hortus simulate, a typo in the plan": [LOADED + HORTUS, "simulate", str(plan)],
            "hortus audit, 101 entries": [LOADED + HORTUS, "audit", str(bundle)],
        }
        found = {name: list[tuple[float, float, str]]() for name in programs}
        for _ in range(TIMES):
            for name, command in programs.items():
                found[name].append(measured(command))
    machine, commit = f"{os.cpu_count()} cores, {platform.machine()}", measured_commit()
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "seconds", "processor's seconds", "loads", "machine", "commit"])
        for name, runs in found.items():
            clock, spent = (
                statistics.median(column) for column in list(zip(*runs, strict=True))[:2]
            )
            row = [name, f"{clock:.3f}", f"{spent:.3f}", runs[0][2] or "none", machine, commit]
            writer.writerow(row)
            print(*row, sep="; ")


if __name__ == "__main__":
    main()
