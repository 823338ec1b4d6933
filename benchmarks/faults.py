"""Kills real processes at every named point, alone and with the whole machine, and writes what came of it.

    python benchmarks/faults.py

Each at the first, the middle and the last time that it is reached in an undisturbed run. A row of
results/faults.csv: the point, the how-manieth time, what died (the process, or all), how often something
was killed, and whether the run then ended with the bits of the undisturbed one. Arguments go to pytest:
`-k process` leaves out the machine.
"""

import csv
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.csv"


def main() -> int:
    """Runs the sweep; returns pytest's exit code."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# commit {commit}, {platform.platform()}, {os.cpu_count()} cores\n")
        csv.writer(file).writerow(["point", "number", "dies", "killed", "same bits"])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/faults", *sys.argv[1:]],
        cwd=ROOT,
        env=os.environ | {"HORTUS_FAULT_SWEEP": str(RESULTS)},
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
