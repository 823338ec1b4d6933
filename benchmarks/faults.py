"""Kills real processes at every named point, alone and with the whole machine, and writes what came of it.

    python benchmarks/faults.py

Each at the first, the middle and the last time that it is reached in an undisturbed run. A row of
results/faults.csv: the point, which of the three, what died (the process, or all), the how-manieth time that
was, how often something was killed, whether the run then ended with the bits of the undisturbed one, and
the commit. Arguments go to pytest: `-k "first and machine"` tries, and replaces, these rows alone.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.csv"
HEADER = ["point", "when", "dies", "number", "killed", "same bits", "commit"]
KEY = 3


def main() -> int:
    """Runs the sweep; returns pytest's exit code."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with tempfile.NamedTemporaryFile("r", suffix=".csv", encoding="utf-8") as found:
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests/faults/test_kills.py", *sys.argv[1:]],
            cwd=ROOT,
            env=os.environ | {"HORTUS_FAULT_SWEEP": found.name},
            check=False,
        ).returncode
        tried = [[*row, commit] for row in csv.reader(found)]
    with RESULTS.open(encoding="utf-8", newline="") as file:
        known = list(csv.reader(file))[1:]
    rows = {tuple(row[:KEY]): row for row in (*known, *tried)}
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows.values()])
    return code


if __name__ == "__main__":
    sys.exit(main())
