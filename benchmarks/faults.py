"""Kills real processes at every named point, alone and with the whole machine, and writes what came of it.

    python benchmarks/faults.py

Each at the first, the middle and the last time that it is reached in an undisturbed run. A row of
results/faults.csv: the point, which of the three, what died (the process, or all), the how-manieth time that
was, how often something was killed, whether the run then ended with the bits of the undisturbed one, and
the commit. Arguments go to pytest: `-k "first and machine"` tries, and replaces, these rows alone, `-n 4` tries
four at a time. What this commit has a row for is not tried again: an interrupted sweep is completed so.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provenance import measured_commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.csv"
HEADER = ["point", "when", "dies", "number", "killed", "same bits", "commit"]
KEY = 3
SAVE_SECONDS = 10.0


def main() -> int:
    """Runs the sweep; returns pytest's exit code."""
    commit = measured_commit()
    with tempfile.NamedTemporaryFile("r", suffix=".csv", encoding="utf-8") as found:
        done = [row[:-1] for row in _known() if row[-1] == commit]
        Path(found.name).write_text("".join(",".join(row) + "\n" for row in done), "utf-8")
        sweep = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "tests/faults/test_kills.py", *sys.argv[1:]],
            cwd=ROOT,
            env=os.environ | {"HORTUS_FAULT_SWEEP": found.name},
        )
        while sweep.poll() is None:
            time.sleep(SAVE_SECONDS)
            _save(Path(found.name), commit)
        _save(Path(found.name), commit)
    return sweep.returncode


def _known() -> list[list[str]]:
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def _save(found: Path, commit: str) -> None:
    """Puts the rows found so far in place of earlier ones."""
    with found.open(encoding="utf-8", newline="") as file:
        tried = [[*row, commit] for row in csv.reader(file)]
    rows = {tuple(row[:KEY]): row for row in (*_known(), *tried)}
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows.values()])


if __name__ == "__main__":
    sys.exit(main())
