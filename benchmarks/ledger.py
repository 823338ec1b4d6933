"""The ledger's promises at size: `python benchmarks/ledger.py` writes results/ledger.csv.

    charges    the 10,000th charge, reserve and commit with their fsyncs: median and p99
    audit      100,000 entries, in a site's folder and in a bundle: seconds and peak memory
    agreement  200 random histories: the ledger's accountant, the auditor's, and Google's
    kills      1,000 processes killed with -9 while they charge: what is lost, what is torn

Parts can be named: `python benchmarks/ledger.py charges kills --kills 20`.
"""

import argparse
import csv
import math
import os
import platform
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from dp_accounting.pld import privacy_loss_distribution as pld
from provenance import measured_commit

from hortus.parties.folders import ServerConfig
from hortus.parties.founding import create_consortium
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.recount import recount
from hortus.privacy.ledger.charges import Charge, Charged, Level, Scope
from hortus.privacy.ledger.decisions import Approved
from hortus.privacy.ledger.entries import GENESIS, Entry
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget, Policy

DELTA = 1e-5
SITE = Identity.generate("ash")
BUDGET = Budget(epsilon=1e6, delta=DELTA)
CHARGE = Charge(
    run="0" * 32,
    session="1" * 32,
    round=0,
    step=0,
    attempt=0,
    dataset="d" * 64,
    unit="record",
    mode="distributed",
    mechanism="discrete-gaussian",
    sampling_rate=0.01,
    noise_multiplier=2.0,
    clipping_norm=1.0,
    releases=1,
    delta=DELTA,
    plan="e" * 64,
)
EVENT = CHARGE.event

Rows = Iterator[tuple[str, float, str]]


def charges(directory: Path, count: int = 300) -> Rows:
    """Charges after the 9,900th; the first also pays for putting losses on a grid."""
    path = directory / "charges.sqlite"
    write_ledger(path, 9_900)
    ledger = Ledger.open(path, SITE, time.time)
    seconds = []
    for step in range(count):
        start = time.perf_counter()
        ledger.commit(ledger.reserve(replace(CHARGE, session="2" * 32, step=step), BUDGET))
        seconds.append(time.perf_counter() - start)
    ledger.close()
    steady = sorted(seconds[1:])
    yield "first charge after opening", 1e3 * seconds[0], "ms"
    yield "charge, median", 1e3 * statistics.median(steady), "ms"
    yield "charge, p99", 1e3 * steady[int(0.99 * len(steady))], "ms"


def big_audit(directory: Path, entries: int = 100_000) -> Rows:
    """`hortus audit` of a site whose ledger holds a run of a thousand rounds, and of its bundle."""
    parts = create_consortium(
        directory / "big",
        {name: Path("records.csv") for name in ("ash", "birch")},
        {name: Policy(budget=BUDGET) for name in ("ash", "birch")},
        ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2"),
        datetime.now(UTC),
    )
    files, bundle = parts.site("ash"), directory / "ash.evidence"
    write_ledger(files.ledger, entries, Identity.load(files.identity, "ash"))
    hortus = str(Path(sys.executable).with_name("hortus"))
    yield from _audited(f"audit of {entries} entries", [hortus, "audit", str(files.directory)])
    export = [hortus, "audit", "export", str(files.directory), str(bundle)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    yield from _audited("audit of them in a bundle", [hortus, "audit", str(bundle)])


def _audited(what: str, command: list[str]) -> Rows:
    """Times a command; its processor time and memory are those of its helpers as well."""
    start, peak, done = time.perf_counter(), 0.0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not done:
        peak = max(peak, _megabytes(process.pid))
        time.sleep(0.05)
        done, status, used = os.wait4(process.pid, os.WNOHANG)
    # 4: the server has countersigned nothing of a ledger that was made up.
    if os.waitstatus_to_exitcode(status) not in (0, 4):
        raise SystemExit(f"{command} ended with {status}")
    yield what, time.perf_counter() - start, "s"
    yield f"{what}: processor time", used.ru_utime + used.ru_stime, "s"
    yield f"{what}: peak memory", peak, "MB"


def _megabytes(pid: int) -> float:
    """Proportional set size of a process and its children: what is shared counts once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    size = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return size / 1000 + sum(_megabytes(int(child)) for child in children)


def agreement(_: Path, histories: int = 200) -> Rows:
    """Heterogeneous histories with ε between 0.05 and 20."""
    apart, below, above = 0.0, 0, 0
    draw, done = random.Random(1), 0
    while done < histories:
        events = random_history(draw)
        charged = epsilon(events, DELTA)
        if not 0.05 <= charged <= 20:
            continue
        done += 1
        audited = recount(events, DELTA)
        apart = max(apart, abs(charged / audited - 1))
        below += min(charged, audited) < google(events, pessimistic=False)
        above += max(charged, audited) > google(events, pessimistic=True) * 1.001
    yield f"largest difference of two accountants on {histories} histories", 100 * apart, "%"
    yield "histories with either below Google's lower estimate", below, ""
    yield "histories with either above Google's upper estimate by 0.1 %", above, ""


def random_history(draw: random.Random) -> dict[GaussianEvent, int]:
    """Several rates, noises and numbers of releases."""
    events: dict[GaussianEvent, int] = {}
    for _ in range(draw.randint(1, 5)):
        rate = draw.choice([1.0, 0.3, 0.1, 0.03, 0.01])
        noise = draw.uniform(0.8, 3) * (1 + 30 * rate)
        events[GaussianEvent(rate, noise)] = draw.choice([1, 3, 10, 100, 1000])
    return events


def google(events: dict[GaussianEvent, int], *, pessimistic: bool) -> float:
    """ε by dp_accounting alone: its own composition, its own search."""
    composed = None
    for event, count in events.items():
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=1e-3,
            use_connect_dots=pessimistic,
            pessimistic_estimate=pessimistic,
        ).self_compose(count)
        composed = one if composed is None else composed.compose(one)
    return float(composed.get_epsilon_for_delta(DELTA)) if composed else 0.0


def kills(directory: Path, times: int = 1_000) -> Rows:
    """Children that charge until they are killed; a charge is told after its commit returned."""
    lost = torn = told = 0
    draw = random.Random(2)
    path = directory / "kills-0.sqlite"
    for number in range(times):
        if number % 50 == 0:
            path = directory / f"kills-{number}.sqlite"
            Ledger.open(path, SITE, time.time).close()
        announced = _charge_until_killed(
            path, f"{number:032x}", draw.uniform(0, 0.05), number % 4 > 0
        )
        told += len(announced)
        with closing(sqlite3.connect(path)) as raw:
            torn += raw.execute("PRAGMA integrity_check").fetchone() != ("ok",)
        ledger = Ledger.open(path, SITE, time.time)  # checks the chain and the last signature
        mine = [
            entry.hash
            for entry in ledger.entries()
            if isinstance(entry.body, Charged) and entry.body.charge.session == f"{number:032x}"
        ]
        # At most one was on disk and not told yet.
        lost += mine[: len(announced)] != announced or len(mine) > len(announced) + 1
        ledger.close()
    yield f"kill -9, {times} times: charges told", told, ""
    yield "lost or out of order", lost, ""
    yield "torn ledgers", torn, ""


def _charge_until_killed(
    path: Path, session: str, seconds: float, after_the_first: bool
) -> list[str]:
    """Kills a child so long after its start, or after its first charge; returns what it told."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        ledger = Ledger.open(path, SITE, time.time)
        for step in range(100_000):
            charge = replace(CHARGE, session=session, step=step)
            entry = ledger.commit(ledger.reserve(charge, BUDGET))
            os.write(write, f"{entry.hash}\n".encode())
            ledger.mark_sent(session, step, 0)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        first = told.readline() if after_the_first else ""
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return (first + told.read()).split()


def write_ledger(path: Path, entries: int, site: Identity = SITE) -> None:
    """Writes a ledger as charges would, in one transaction; between some, ε is interpolated."""
    Ledger.open(path, site, time.time).close()
    known: dict[int, float] = {}
    previous, after = GENESIS, 0.0
    with closing(sqlite3.connect(path)) as raw, raw:
        said = Approved(CHARGE.plan, "big", "Ada", CHARGE.unit, 1.0, DELTA)
        first = Entry.make(1, 1.8e9, said, previous, site)
        row = (first.seq, first.content, first.hash, first.signature)
        raw.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
        previous = first.hash
        for seq in range(2, entries + 1):
            charge = replace(CHARGE, step=seq, round=seq // 100)
            after = max(after, _interpolated(known, seq - 1))
            body = Charged(charge, charge.dataset, (), (Level(Scope.LIFETIME, "", after, 1e6),))
            entry = Entry.make(seq, 1.8e9 + seq, body, previous, site)
            row = (entry.seq, entry.content, entry.hash, entry.signature)
            raw.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
            raw.execute("INSERT INTO uses VALUES (?, ?, 0, 1.8e9)", (charge.session, seq))
            raw.execute("INSERT INTO sent VALUES (?, ?, 0, 1.8e9)", (charge.session, seq))
            previous = entry.hash


def _interpolated(known: dict[int, float], releases: int) -> float:
    """ε after so many releases, from the accountant's at neighbouring powers of 1.02."""

    def exact(count: int) -> float:
        if count not in known:
            known[count] = epsilon({EVENT: count}, DELTA)
        return known[count]

    if releases < 1_000:
        return exact(releases)
    exponent = math.floor(math.log(releases, 1.02))
    below, above = math.floor(1.02**exponent), math.ceil(1.02 ** (exponent + 1))
    share = (releases - below) / max(1, above - below)
    return (1 - share) * exact(below) + share * exact(above)


PARTS: dict[str, Callable[..., Rows]] = {
    "charges": charges,
    "audit": big_audit,
    "agreement": agreement,
    "kills": kills,
}


def main() -> None:
    """Measures what is asked for and writes it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--entries", type=int, default=100_000)
    options = parser.parse_args()
    sizes = {
        "audit": (options.entries,),
        "agreement": (options.histories,),
        "kills": (options.kills,),
    }
    with tempfile.TemporaryDirectory() as folder:
        found = [PARTS[name](Path(folder), *sizes.get(name, ())) for name in options.parts]
        rows = []
        for what, value, unit in chain.from_iterable(found):
            print(f"{what:64} {value:10.4g} {unit}", flush=True)
            rows.append((what, f"{value:.4g}", unit))
    if set(options.parts) == set(PARTS):
        commit = measured_commit()
        path = Path(__file__).parent / "results" / "ledger.csv"
        with path.open("w", newline="") as file:
            context = [
                ("commit", commit, ""),
                ("machine", f"{os.cpu_count()} x {platform.machine()}", ""),
            ]
            csv.writer(file).writerows([("what", "value", "unit"), *rows, *context])


if __name__ == "__main__":
    main()
