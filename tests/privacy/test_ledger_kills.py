"""A small sample of what benchmarks/ledger.py does a thousand times: kill -9 while charging."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_or_torn_when_charging_processes_are_killed() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "ledger.py"), "kills", "--kills", "25"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    figures = {line[:64].strip(): float(line[64:]) for line in done.stdout.splitlines()}
    assert figures.pop("kill -9, 25 times: charges told") > 0
    assert figures == {"lost or out of order": 0, "torn ledgers": 0}
