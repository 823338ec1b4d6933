"""Kills `hortus demo` once, at a random moment, as `kill -9` does, starts it again, and writes what came of it.

    python benchmarks/demo_kills.py -n 20

Each run has a folder of its own, and is killed after a uniformly random share of the seconds that an undisturbed
run took here. A row of results/demo_kills.csv: the run's number, after how many seconds it was killed, in which
phase, how many secure sums were done by then, whether the same command ended with 0, and in how many seconds, the
charges of a site's ledger (of the plan's sums and its spare attempts), the largest ε of any ledger as `hortus audit`
computes it again, the accuracy of the private adapter, the machine and the commit. The random moments follow from
the run's number, so that an interrupted sweep is completed by the same command, at a later commit too: what has a row
is not tried again. Remove the file to begin again. Two may run at once, from opposite ends (`--backwards`).
"""

import argparse
import csv
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provenance import measured_commit

from hortus.parties.folders import Consortium
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.server.run.records import read_record

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo_kills.csv"
HORTUS = Path(sys.executable).with_name("hortus")
HEADER = (
    *("run", "killed after, s", "while", "sums done", "exit code", "resumed for, s", "charges"),
    *("of", "largest epsilon", "target", "accuracy", "adapter", "machine", "commit"),
)


def start(out: Path) -> subprocess.Popen[bytes]:
    """Starts the demo in a process group of its own."""
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [str(HORTUS), "demo", "--out", str(out)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def phase(out: Path) -> str:
    """Returns what the demo was doing, by what it has written."""
    if not (out / "private" / "run.sqlite").exists():
        return "starting"
    if not (out / "private" / "adapter").exists():
        return "private, round 1"
    if not (out / "without-privacy").exists():
        return "private, later rounds"
    return "without privacy" if not (out / "alone.json").exists() else "each site alone"


def sums_done(out: Path) -> int:
    """Returns the complete sums that the server's record has."""
    if not (out / "private" / "run.sqlite").exists():
        return 0
    return sum(attempt.complete for attempt in read_record(out / "private").attempts)


def audited(out: Path) -> tuple[int, float]:
    """Returns the most charges of any ledger, and the largest ε, as an audit finds them."""
    consortium = Consortium(out / "private" / "consortium")
    audits = []
    for site in consortium.sites:
        evidence = collect(consortium.site(site), site)
        audits.append(audit(evidence, evidence.roster))
    assert all(one.first_broken is None for one in audits)
    return max(len(one.charges) for one in audits), max(
        one.rounds[-1].epsilon_so_far for one in audits
    )


def one(number: int, whole: float, about: tuple[str, str]) -> list[Any]:
    """Kills one run and resumes it; returns its row."""
    with tempfile.TemporaryDirectory(prefix="hortus-demo-") as folder:
        out = Path(folder) / "demo"
        seconds = random.Random(number).uniform(0, whole)
        process = start(out)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        was, done = phase(out), sums_done(out)
        begun = time.monotonic()
        code = start(out).wait()
        taken = time.monotonic() - begun
        plan = json.loads((out / "private" / "contract.json").read_text())
        training, spare = plan["training"], plan["privacy"]["spare_attempts"]
        charges, epsilon = audited(out)
        adapter = json.loads((out / "private" / "adapter" / "hortus.json").read_text())
        (reached,) = [one["value"] for one in adapter["metrics"] if one["name"] == "accuracy"]
        whole_run = adapter["round"] == training["rounds"]
        return [
            *(number, f"{seconds:.1f}", was, done, code, f"{taken:.1f}", charges),
            training["rounds"] * training["steps_per_round"] + spare,
            *(f"{epsilon:.4f}", 8, f"{reached:.4f}"),
            "of the last round" if whole_run else f"of round {adapter['round']}",
            *about,
        ]


def undisturbed() -> float:
    """Returns the seconds of a run that nobody kills."""
    with tempfile.TemporaryDirectory(prefix="hortus-demo-") as folder:
        begun = time.monotonic()
        if start(Path(folder) / "demo").wait() != 0:
            raise SystemExit((Path(folder) / "log").read_text())
        return time.monotonic() - begun


def known() -> dict[int, list[str]]:
    """Returns the rows that there are, by the run's number."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return {int(row[0]): row for row in list(csv.reader(file))[1:]}


def main() -> int:
    """Runs what is missing; returns 1 if a run did not end with its adapter within its ε."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="Runs.")
    parser.add_argument("--seconds", type=float, help="Of an undisturbed run, if known.")
    parser.add_argument("--backwards", action="store_true", help="Begin with the last run.")
    options = parser.parse_args()
    commit = measured_commit()
    about = (f"{platform.machine()}, {os.cpu_count()} cores", commit)
    missing = [number for number in range(1, options.n + 1) if number not in known()]
    whole = (options.seconds or undisturbed()) if missing else 0.0
    for number in reversed(missing) if options.backwards else missing:
        if number in known():  # since the other one has come to it
            continue
        row = [str(cell) for cell in one(number, whole, about)]
        print(", ".join(row), flush=True)
        rows = known() | {number: row}
        with RESULTS.open("w", encoding="utf-8", newline="") as file:
            table = [HEADER, *(rows[number] for number in sorted(rows))]
            csv.writer(file, lineterminator="\n").writerows(table)
    return int(any(row[4] != "0" or float(row[8]) > float(row[9]) for row in known().values()))


if __name__ == "__main__":
    sys.exit(main())
