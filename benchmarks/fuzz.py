"""Fuzzes every parser of what a person or another party gives, guided by the lines that are reached.

    pip install atheris
    python benchmarks/fuzz.py [--inputs 30000] [--seconds 120] [NAME …]

The parsers, what each must refuse, and how inputs are made of honest ones are those of
tests/fuzzing, of which every run of the tests tries a few inputs. Atheris keeps what reaches new lines of
hortus, changes it further, and mixes it. A parser gets `--inputs` inputs, or a share of them if it is slow,
or as many as fit into `--seconds`. An input counts as a crash when anything but an error of ours comes of it,
when it takes more than a second of processor time or 256 MiB of memory, or ends the process; as accepted when it
is taken and its parser's rule says that it must not be. Those are kept in `--crashes`. A row of results/fuzz.csv
for each parser; one that is tried again replaces it.
"""

import argparse
import csv
import fcntl
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import atheris
from provenance import measured_commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.csv"
HEADER = [
    "parser", "inputs", "taken", "refused in ways", "coverage", "crashes", "accepted", "seconds", "machine", "commit",
]  # fmt: skip
MOST_SECONDS = 1.0
MOST_KIB = 256 * 1024
LONGEST = 2**17
sys.path[0] = str(ROOT / "tests")
sys.path.append(str(ROOT))

with atheris.instrument_imports(include=["hortus"]):
    from fuzzing.all import PARSERS
    from fuzzing.mutation import of_bytes
    from fuzzing.parser import TAKEN, Accepted, Parser, place
    from fuzzing.setting import Setting


class Trial:
    """What has come of one parser's inputs."""

    def __init__(self, parser: Parser, inputs: int, seconds: float, crashes: Path) -> None:
        self._parser, self._crashes = parser, crashes
        self._inputs, self._end = inputs, time.monotonic() + seconds
        self._started = time.monotonic()
        self._outcomes: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._kept: set[str] = set()
        self._count = 0

    def one(self, data: bytes) -> None:
        """Tries an input; ends the process after the last."""
        started, memory = time.process_time(), _peak()
        try:
            self._outcomes[self._parser.outcome(data)] += 1
        except Accepted as error:
            self._fault("accepted", str(error), data)
        except Exception as error:  # noqa: BLE001 - which is what is looked for
            self._fault("crashes", f"{type(error).__name__} {place(error)} {error}", data)
        if time.process_time() - started > MOST_SECONDS:
            self._fault("crashes", "more than a second", data)
        if _peak() - memory > MOST_KIB:
            self._fault("crashes", "more than 256 MiB", data)
        self._count += 1
        if self._count >= self._inputs or time.monotonic() > self._end:
            self._finish()

    def _fault(self, kind: str, what: str, data: bytes) -> None:
        self._faults[kind] += 1
        what = what[:200]
        if what not in self._kept and len(self._kept) < 20:
            self._kept.add(what)
            name = f"{self._parser.name.replace('/', '-')}-{len(self._kept)}"
            (self._crashes / name).write_bytes(data)
            print(f"{self._parser.name}: {kind}: {what} ({name})", file=sys.stderr, flush=True)

    def _finish(self) -> None:
        told = {
            "inputs": self._count,
            "taken": self._outcomes.pop(TAKEN, 0),
            "refused in ways": len(self._outcomes),
            "crashes": self._faults["crashes"],
            "accepted": self._faults["accepted"],
            "seconds": round(time.monotonic() - self._started),
        }
        print("RESULT " + json.dumps(told), file=sys.stderr, flush=True)
        os._exit(0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    options = _options()
    options.crashes.mkdir(parents=True, exist_ok=True)
    logging.getLogger("hortus").setLevel(logging.CRITICAL)
    logging.getLogger("hortus.client.agent").setLevel(logging.WARNING)
    logging.getLogger("hortus.client.agent").propagate = False
    warnings.simplefilter("ignore")
    found, commit = False, measured_commit()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hortus-fuzz-") as folder:
        chosen = [make for make in PARSERS if _is_chosen(make.__name__, options.names)]
        for number, make in enumerate(chosen):
            setting = Setting(_made(Path(folder) / str(number)))
            child = os.fork()
            if child == 0:
                try:
                    _in_child(make(setting), setting, options)
                except BaseException:  # noqa: BLE001 - the parent's folder must stay
                    traceback.print_exc()
                os._exit(1)
            os.waitpid(child, 0)
            log = setting.folder / "log"
            found |= _note(
                setting.folder, log.read_text(errors="replace") if log.exists() else "", commit
            )
            subprocess.run(["rm", "-rf", str(setting.folder)], check=True)
    sys.exit(found)


def _is_chosen(name: str, names: list[str]) -> bool:
    return not names or any(part in name for part in names)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _in_child(parser: Parser, setting: Setting, options: argparse.Namespace) -> None:
    """Fuzzes one parser; ends the process."""
    (setting.folder / "name").write_text(parser.name)
    log = os.open(setting.folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    corpus = _made(setting.folder / "corpus")
    for number, seed in enumerate(parser.seeds):
        (corpus / str(number)).write_bytes(seed)
    trial = Trial(
        parser, int(options.inputs * parser.share), options.seconds, options.crashes.resolve()
    )

    longest = min(LONGEST, 2000 + 2 * max(map(len, parser.seeds)))

    def change(data: bytes, _: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < 0.2:
            return bytes(atheris.Mutate(data, longest))
        try:
            return parser.change(data, chance)[:longest]
        except Exception:  # noqa: BLE001 - of the change, not of what it is for
            return of_bytes(data, chance)[:longest]

    arguments = [
        sys.argv[0], str(corpus), f"-max_len={longest}", "-timeout=60", "-rss_limit_mb=8192", "-len_control=0",
        f"-artifact_prefix={options.crashes.resolve()}/{parser.name.replace('/', '-')}-", f"-seed={options.seed}",
    ]  # fmt: skip
    atheris.Setup(arguments, trial.one, custom_mutator=change)
    atheris.Fuzz()


def _note(folder: Path, log: str, commit: str) -> bool:
    """Writes a parser's row; returns whether a fault was found."""
    name = folder / "name"
    if not name.exists():
        return False
    results = [line for line in log.splitlines() if line.startswith("RESULT ")]
    covered = [line.split("cov: ")[1].split()[0] for line in log.splitlines() if "cov: " in line]
    for line in log.splitlines():
        if ": crashes: " in line or ": accepted: " in line:
            print(line)
    if not results:
        print(f"{name.read_text()} ended its process:\n{log[-2000:]}")
        return True
    told: dict[str, Any] = json.loads(results[-1].removeprefix("RESULT "))
    row = {
        "parser": name.read_text(),
        "coverage": covered[-1] if covered else 0,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit,
        **told,
    }
    _replace_row(row)
    print(*(f"{key}={row[key]}" for key in HEADER[:8]), flush=True)
    return bool(told["crashes"] or told["accepted"])


def _replace_row(row: dict[str, Any]) -> None:
    """Puts a parser's row in place of an earlier one; two of these programs may run side by side."""
    RESULTS.touch()
    with RESULTS.open("r+", encoding="utf-8", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        known = {one["parser"]: one for one in csv.DictReader(file)} | {row["parser"]: row}
        file.seek(0)
        file.truncate()
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(known.values())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"))
    parser.add_argument("names", nargs="*")
    return parser.parse_args()


if __name__ == "__main__":
    main()
