"""Thousands of secure sums with sites that leave and join: is every sum right, does anything grow?

    python benchmarks/soak.py [SUMS]

Five sites and a server in one process, each with its own folder, keys, ledger and socket, over mutual TLS
on loopback; what Flower carries is carried by a thread. After every few sums a site is stopped and started
again, or its connection is cut; a session ends when fewer than three are left, and the next one has all.
Each sum is compared with the vectors that its sites were about to mask, at the end each ledger is audited
and compared with the server's record. `results/soak.csv` gets a row each hundred sums: what the process and
its folder had come to. The last lines printed are the slopes, by least squares over the second half.
"allocated" is what malloc has given and not got back, "blocks" is Python's own small objects: what is resident
beyond them is free memory that the allocator keeps.
"""

import csv
import ctypes
import gc
import os
import platform
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from provenance import measured_commit
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT / "tests")  # not this folder, which has a faults.py of its own

from conftest import save_tiny_model, write_records, write_tiny_plan  # noqa: E402
from faults.harness import RelayGrid, relay  # noqa: E402
from helpers.approvals import approve_everywhere  # noqa: E402

from hortus.client.agent import SiteAgent  # noqa: E402
from hortus.client.agent_service import listening  # noqa: E402
from hortus.client.channel import GrpcChannel, dialling  # noqa: E402
from hortus.client.operate import WarmWorkbench  # noqa: E402
from hortus.client.pace import RehearsalClock  # noqa: E402
from hortus.client.site.folder import Site  # noqa: E402
from hortus.client.trainer import untimed  # noqa: E402
from hortus.learning.models.folder import model_digest  # noqa: E402
from hortus.learning.warm_model import WarmModel  # noqa: E402
from hortus.parties.folders import Consortium, ServerConfig, SiteFiles  # noqa: E402
from hortus.parties.founding import create_consortium  # noqa: E402
from hortus.planning.plan_file import load_plan  # noqa: E402
from hortus.privacy.audit.auditor import audit  # noqa: E402
from hortus.privacy.audit.evidence import collect  # noqa: E402
from hortus.privacy.audit.reconcile import omissions  # noqa: E402
from hortus.privacy.secure_sum.masks import MaskedVector, MaskGenerator, StepView  # noqa: E402
from hortus.protocol.identity import Identity, Roster  # noqa: E402
from hortus.protocol.plan import Cohort, Contract  # noqa: E402
from hortus.protocol.policy import Budget, Policy  # noqa: E402
from hortus.runtime.errors import CohortTooSmall  # noqa: E402
from hortus.runtime.names import SERVER  # noqa: E402
from hortus.server.evaluation import Evaluator  # noqa: E402
from hortus.server.grid_sites import GridSites  # noqa: E402
from hortus.server.round_loop import RoundLoop  # noqa: E402
from hortus.server.run.attendance import AttendanceBook  # noqa: E402
from hortus.server.run.records import read_record, read_run  # noqa: E402
from hortus.server.run.store import RunStore  # noqa: E402
from hortus.server.sums.aggregator import Aggregator, StepSum  # noqa: E402
from hortus.server.sums.notary import Notary  # noqa: E402
from hortus.server.sums.service import Hub, serving  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "soak.csv"
SITES = ("ash", "birch", "cedar", "dogwood", "elm")
STEPS_PER_ROUND = 10
SAMPLE_EVERY = 100
STOP_SECONDS = 10.0
HEADER = [
    "sums", "seconds", "sessions", "left", "cut", "wrong", "rss", "allocated", "blocks", "descriptors",
    "threads", "ledger bytes", "server's database bytes", "metrics bytes", "other bytes", "commit",
]  # fmt: skip
MEASURED = slice(6, -1)


@dataclass(slots=True)
class Watch:
    """What was seen so far, and what the sites were about to mask."""

    wrong: int = 0
    sums: int = 0
    left: int = 0
    cut: int = 0
    sessions: set[str] = field(default_factory=set)
    vectors: dict[tuple[bytes, int, int], dict[str, NDArray[Any]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Running:
    """One site that can be stopped, started again and cut off while a run goes on."""

    def __init__(self, files: SiteFiles, port: int, sockets: Path) -> None:
        self._files, self._port, self._sockets = files, port, sockets
        self._agent: SiteAgent | None = None
        self._cleanup = ExitStack()
        self._dialled: ExitStack | None = None

    def start(self) -> None:
        self._cleanup = ExitStack()
        site = self._cleanup.enter_context(Site(self._files.directory, clock=time.time))
        self._agent = SiteAgent(
            site, WarmWorkbench(site), partial(self._dial, site), untimed, RehearsalClock()
        )
        self._cleanup.enter_context(listening(self._agent, self._sockets / site.name))

    @contextmanager
    def _dial(self, site: Site, rules: Cohort) -> Iterator[GrpcChannel]:
        with ExitStack() as stack:
            address = f"127.0.0.1:{self._port}"
            channel = stack.enter_context(dialling(address, site.files.tls, rules))
            self._dialled = stack
            yield channel

    def stop(self) -> None:
        if self._agent is not None:
            self._agent.stop(STOP_SECONDS)
        self._agent = None
        self._cleanup.close()

    def cut(self) -> None:
        """Closes its connection under whatever it does."""
        if self._dialled is not None:
            self._dialled.close()


def main() -> None:
    sums = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    watch = Watch()
    with TemporaryDirectory(prefix="hortus-soak-") as folder:
        contract, consortium = lay_out(Path(folder), sums)
        out = Path(folder) / "out"
        with RESULTS.open("w", encoding="utf-8", newline="", buffering=1) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            rows = soak(contract, consortium, out, watch, sums, writer.writerow)
        check_records(contract, consortium, out, watch)
    report(rows, watch)


def lay_out(folder: Path, sums: int) -> tuple[Contract, Consortium]:
    """Makes model, records, plan and the parties' folders."""
    model = save_tiny_model(folder / "model")
    written = write_tiny_plan(
        folder,
        model,
        training={"rounds": -(-sums // STEPS_PER_ROUND), "steps_per_round": STEPS_PER_ROUND},
        cohort={"minimum": 3, "max_colluding": 1, "join_deadline": 15, "step_deadline": 8},
        privacy={"epsilon": None, "noise_multiplier": 5.0},
    )
    contract = load_plan(written).contract(model_digest=model_digest(model), noise_multiplier=5.0)
    policy = Policy(
        budget=Budget(epsilon=1e6, delta=contract.privacy.delta),
        min_cohort=2,
        min_honest=2,
    )
    data = {
        site: write_records(folder / f"{site}.csv", 60, 7 * number)
        for number, site in enumerate(SITES)
    }
    addresses = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    policies = dict.fromkeys(SITES, policy)
    consortium = create_consortium(
        folder / "consortium", data, policies, addresses, datetime.now(UTC)
    )
    return contract, approve_everywhere(consortium, contract)


def soak(
    contract: Contract,
    consortium: Consortium,
    out: Path,
    watch: Watch,
    sums: int,
    write: Callable[[list[Any]], object],
) -> list[list[Any]]:
    """Runs the plan beside the churn; writes the rows as they come, and returns them."""
    rows: list[list[Any]] = []
    started, commit = time.monotonic(), measured_commit()

    def sampled() -> None:
        gc.collect()
        counts = (watch.sums, round(time.monotonic() - started), len(watch.sessions))
        found = (watch.left, watch.cut, watch.wrong, *process_state(), *disk(out, consortium))
        rows.append([*counts, *found, commit])
        write(rows[-1])
        print(*rows[-1], flush=True)

    with TemporaryDirectory(prefix="hortus-") as sockets, ExitStack() as stack:
        hub = Hub(Notary.open(consortium.server, time.time))
        tls = consortium.server.tls
        port = stack.enter_context(serving(hub, tls, "127.0.0.1:0", len(SITES)))
        sites = {site: Running(consortium.site(site), port, Path(sockets)) for site in SITES}
        for site in sites.values():
            site.start()
            stack.callback(site.stop)
        grid = RelayGrid({site: relay(Path(sockets) / site / "agent.sock") for site in SITES})
        stack.callback(grid.close)
        federation = round_loop(contract, consortium, out, hub, grid)
        over = threading.Event()
        churn = threading.Thread(target=let_churn, args=(sites, watch, over))
        with watching(watch, sampled):
            churn.start()
            try:
                while federation.store.next_round < contract.training.rounds:
                    with suppress(CohortTooSmall):  # the same command resumes
                        federation.run()
            finally:
                over.set()
                churn.join()
        assert watch.sums >= sums
        sampled()
    return rows


def round_loop(
    contract: Contract, consortium: Consortium, out: Path, hub: Hub, grid: RelayGrid
) -> RoundLoop:
    roster, store = Roster.load(consortium.server.roster), RunStore(out, contract)
    attendance = AttendanceBook(out, roster.sites, time.time, grid.names)
    reached = GridSites(
        grid=grid,
        identity=Identity.load(consortium.server.identity, SERVER),
        roster=lambda: roster,
        contract=contract,
        store=store,
        hub=hub,
        attendance=attendance,
    )
    evaluator = Evaluator(WarmModel(contract, Path(contract.model)), None)
    return RoundLoop(reached, contract, store, evaluator, attendance, lambda _: None)


@contextmanager
def watching(watch: Watch, sample: Callable[[], None]) -> Iterator[None]:
    """Compares each sum with what its sites were about to mask."""
    mask, add_up = MaskGenerator.mask, Aggregator.sum

    def noted_mask(self: MaskGenerator, values: NDArray[Any], view: StepView) -> MaskedVector:
        masked = mask(self, values, view)
        key = (self._descriptor_digest, view.step, view.attempt)
        with watch.lock:
            watch.vectors.setdefault(key, {})[self._site] = values
        return masked

    def checked_sum(self: Aggregator, step: int, adapter: NDArray[Any], *rest: object) -> StepSum:
        result = add_up(self, step, adapter, *rest)  # type: ignore[arg-type]
        with watch.lock:
            vectors = watch.vectors.get((self.descriptor.digest(), step, result.attempts - 1), {})
            watch.vectors.clear()
        addends = [vectors[site] for site in result.sites]
        expected = np.sum(addends, axis=0).astype(np.uint32)
        watch.wrong += not np.array_equal(result.total, expected)
        watch.sums += 1
        watch.sessions.add(self.descriptor.session)
        if watch.sums % SAMPLE_EVERY == 0:
            sample()
        return result

    MaskGenerator.mask, Aggregator.sum = noted_mask, checked_sum  # type: ignore[method-assign]
    try:
        yield
    finally:
        MaskGenerator.mask, Aggregator.sum = mask, add_up  # type: ignore[method-assign]


def let_churn(sites: dict[str, Running], watch: Watch, over: threading.Event) -> None:
    """Stops, starts and cuts off sites, one at a time, after every few sums."""
    choices = random.Random(7)
    due = 0
    while not over.is_set():
        if watch.sums < due:
            over.wait(0.05)
            continue
        site = sites[choices.choice(SITES)]
        if choices.random() < 0.5:
            site.stop()
            site.start()
            watch.left += 1
        else:
            site.cut()
            watch.cut += 1
        due = watch.sums + choices.randint(2, 20)


class _Malloc(ctypes.Structure):
    """The C library's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def process_state() -> tuple[int, int, int, int, int]:
    """Returns resident bytes, bytes allocated, Python's blocks, open descriptors and threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Malloc
    heap = mallinfo()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        heap.uordblks + heap.hblkhd,
        sys.getallocatedblocks(),
        descriptors,
        threading.active_count(),
    )


def disk(out: Path, consortium: Consortium) -> tuple[int, int, int, int]:
    """Returns the bytes of the ledgers, of the server's databases, of the metrics and of all else."""
    sizes: Counter[str] = Counter()
    for folder in (out, consortium.directory):
        for path in folder.rglob("*"):
            kind = next((k for k in ("ledger.sqlite", "run.sqlite") if path.name == k), "other")
            kind = "metrics" if path.name == "metrics.jsonl" else kind
            with suppress(FileNotFoundError):  # a temporary file, renamed meanwhile
                sizes[kind] += path.stat().st_size if path.is_file() else 0
    return sizes["ledger.sqlite"], sizes["run.sqlite"], sizes["metrics"], sizes["other"]


def check_records(contract: Contract, consortium: Consortium, out: Path, watch: Watch) -> None:
    """Audits the ledgers and compares them with the server's record."""
    roster = Roster.load(consortium.server.roster)
    audits = [audit(collect(consortium.site(site), site), roster) for site in SITES]
    for one in audits:
        assert one.first_broken is None, one.first_broken
    record = read_record(out)
    made = sum(one.complete for one in record.attempts)
    assert made == watch.sums, (made, watch.sums)
    assert len(read_run(out).rounds) == contract.training.rounds
    assert not (found := omissions(record, audits)), found
    print("audits sound; entries:", *(one.entries for one in audits))


def report(rows: list[list[Any]], watch: Watch) -> None:
    """Prints the slopes over the second half, with what they may be off by."""
    half = np.array([row[:-1] for row in rows[len(rows) // 2 :]], dtype=float)
    print(f"{watch.sums} sums, {len(watch.sessions)} sessions, {watch.wrong} wrong")
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    for name, values in zip(HEADER[MEASURED], half.T[MEASURED.start :], strict=True):
        line = stats.linregress(half[:, 0], values)
        off = stats.t.ppf(0.975, len(half) - 2) * line.stderr
        print(
            f"{name}: {1000 * line.slope:+,.0f} ± {1000 * off:,.0f} per 1,000 sums (95 %), "
            f"from {values.min():,.0f} to {values.max():,.0f}"
        )


if __name__ == "__main__":
    main()
