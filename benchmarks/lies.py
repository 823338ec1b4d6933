"""Shows the auditor honest ledgers and lying ones: `python benchmarks/lies.py` writes results/lies.csv.

Histories are hypothesis's, made by the real ledger (tests/helpers/histories.py); each is audited as it is, and
once more with one lie in it (tests/helpers/lies.py). Ledgers lie in memory, so their fsync costs nothing.
"""

import argparse
import csv
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from provenance import measured_commit

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from helpers.verdicts import HONEST, Verdict, examine  # noqa: E402

_BATCH = 500


def batch(number: int, folder: Path) -> tuple[Counter[str], list[Verdict]]:
    """One seed's share, in a process that keeps what its accountants have computed."""
    return examine(number, _BATCH, folder)


def write(right: Counter[str], wrong: Counter[str], seconds: float, commit: str) -> None:
    """Writes a row for each kind, and one each for what made them."""
    kinds = sorted((right | wrong).keys() - {HONEST})
    lies = (sum(right[kind] for kind in kinds), sum(wrong[kind] for kind in kinds))
    rows: list[tuple[object, ...]] = [
        (HONEST, right[HONEST], wrong[HONEST]),
        ("a lie, of whatever kind", *lies),
        *((kind, right[kind], wrong[kind]) for kind in kinds),
        ("seconds", round(seconds), ""),
        ("commit", commit, ""),
        ("machine", f"{os.cpu_count()} x {platform.machine()}, shared with other work", ""),
        ("command", f"python benchmarks/lies.py {' '.join(sys.argv[1:])}".strip(), ""),
    ]
    path = ROOT / "benchmarks" / "results" / "lies.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("what", "right", "wrong"), *rows])


def main() -> int:
    """Returns 1 if the auditor was wrong once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=int, default=24_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="starts no batch after these")
    options = parser.parse_args()
    commit = measured_commit()
    right: Counter[str] = Counter()
    wrong: list[Verdict] = []
    start = time.monotonic()
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool,
    ):
        seeds = range(options.histories // _BATCH)
        running = [pool.submit(batch, number, Path(folder)) for number in seeds]
        for done in as_completed(running):
            if done.cancelled():
                continue
            more, failed = done.result()
            right += more
            wrong += failed
            seconds = time.monotonic() - start
            print(f"{seconds:6.0f} s: {sum(right.values())} right, {len(wrong)} wrong", flush=True)
            write(right, Counter(kind for kind, _ in wrong), seconds, commit)
            if seconds > 60 * options.minutes:
                for one in running:
                    one.cancel()
    for kind, problem in wrong[:20]:
        print(f"{kind}: {problem}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
