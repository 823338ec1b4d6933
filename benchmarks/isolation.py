"""Searches for adapters under which a neighbour changes a bit of what a unit adds to a sum.

    python benchmarks/isolation.py [CASES]

2,000 sums for each task with each method, a quarter for each unit and precision, eight for each adapter's numbers, by
tests/privacy/test_isolation.py. Results go to benchmarks/results/isolation.csv: a line a unit and precision with the
largest difference found, in clipping norms.
"""

import csv
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from provenance import measured_commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "isolation.csv"
HEADER = [
    "task",
    "method",
    "unit",
    "precision",
    "cases",
    "largest difference / C",
    "machine",
    "commit",
]


def main(cases: str = "2000") -> int:
    """Runs the search; returns pytest's exit code."""
    commit = measured_commit()
    machine = f"{os.cpu_count()} x {platform.machine()}"
    with tempfile.NamedTemporaryFile("r", suffix=".csv", encoding="utf-8") as found:
        code = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "--timeout", "0"),
                *("tests/privacy/test_isolation.py", "-k", "no_neighbour_changes"),
            ],
            cwd=ROOT,
            env=os.environ
            | {"HORTUS_ISOLATION_REPORT": found.name, "HORTUS_ISOLATION_CASES": cases},
            check=False,
        ).returncode
        rows = [[*row, machine, commit] for row in csv.reader(found)]
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
