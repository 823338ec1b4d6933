"""Real sites on loopback for the attacks: folders, keys, TLS, policies, ledgers, agents, a model."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from helpers.approvals import approve_everywhere
from numpy.typing import NDArray
from scipy.stats import chisquare

from hortus.client.agent import SiteAgent
from hortus.client.channel import dialling
from hortus.client.pace import Clock, RehearsalClock
from hortus.client.site.folder import Site
from hortus.client.trainer import Trainer, untimed
from hortus.parties.folders import Consortium, ServerConfig, TlsFiles
from hortus.parties.founding import create_consortium
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.decisions import Declined
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from hortus.privacy.step import PrivateStep
from hortus.protocol.certificates import certify, create_request
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import PROTOCOL_VERSION
from hortus.protocol.plan import Cohort, Contract
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.canonical import canonical_json
from hortus.runtime.names import SERVER
from hortus.server.sums.aggregator import Aggregator
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving

SITES = ("ash", "birch", "cedar", "dogwood")
SESSION = "2" * 32

# For each sample that is tested; the suite tests fewer than a hundred.
FALSE_FAILURE = 1e-9

# For attacks that no clock helps: nobody waits.
UNTIMED = RehearsalClock()


@dataclass(frozen=True, slots=True)
class World:
    """A consortium of four sites, all of which have approved one contract."""

    consortium: Consortium
    contract: Contract
    workbench: Workbench
    started: datetime
    opened: list[Site] = field(default_factory=list)

    @classmethod
    def create(
        cls,
        directory: Path,
        contract: Contract,
        workbench: Workbench,
        data: Mapping[str, Path],
        policy: Mapping[str, Any],
    ) -> "World":
        """Lays out the folders as the simulator does."""
        fields = {
            "budget": Budget(epsilon=1000, delta=1e-5),
            "min_cohort": 3,
            "min_honest": 2,
            "unsafe_seeded_noise": True,
        }
        policies = dict.fromkeys(data, Policy(**fields | dict(policy)))
        addresses = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
        started = datetime.now(UTC)
        consortium = create_consortium(directory, data, policies, addresses, started)
        if policies["ash"].auto_approve is None:
            approve_everywhere(consortium, contract, clock=lambda: 1.0)
        return cls(consortium, contract, workbench, started)

    def site(self, name: str) -> Site:
        """Opens a site's folder, as a (re)started agent does."""
        site = Site(self.consortium.site(name).directory, clock=lambda: 1.0)
        self.opened.append(site)
        return site

    def agent(self, site: Site, port: int, clock: Clock = UNTIMED) -> SiteAgent:
        """The real agent, which dials 127.0.0.1 with mutual TLS."""
        return self.agent_on(site, partial(dialling, f"127.0.0.1:{port}", site.files.tls), clock)

    def agent_on(
        self, site: Site, connect: Callable[..., Any], clock: Clock = UNTIMED
    ) -> SiteAgent:
        """The real agent, on the channel that `connect` opens."""
        return SiteAgent(site, lambda _: self.workbench, connect, untimed, clock)

    def descriptor(self, **changes: Any) -> Descriptor:
        """A session of all four sites, as an honest server would open it."""
        dimension = self.workbench.space.dimension
        cohort = tuple(changes.get("cohort", SITES))
        fields = {
            "run": "1" * 32,
            "session": SESSION,
            "contract": self.contract.digest(),
            "cohort": cohort,
            "first_round": 0,
            "dimension": dimension,
            "scale": PrivateStep.of(self.contract, dimension, len(cohort)).codec.scale,
        }
        return Descriptor(**fields | changes)

    def request(
        self, descriptor: Descriptor | None = None, contract: Contract | None = None
    ) -> wire.TakePartRequest:
        """What the relay hands to an agent."""
        contract, descriptor = contract or self.contract, descriptor or self.descriptor()
        session = canonical_json(descriptor.model_dump(mode="json"))
        return wire.TakePartRequest(
            protocol=PROTOCOL_VERSION,
            contract=canonical_json(contract.model_dump(mode="json")),
            descriptor=session,
            signature=self.server.sign("session", session),
        )

    def question(self, contract: Contract) -> wire.ConsiderRequest:
        """What the relay asks an agent before a session."""
        encoded = canonical_json(contract.model_dump(mode="json"))
        return wire.ConsiderRequest(
            protocol=PROTOCOL_VERSION,
            contract=encoded,
            signature=self.server.sign("contract", encoded),
        )

    @property
    def server(self) -> Identity:
        """The server's own key, which a hostile server has."""
        return Identity.load(self.consortium.server.identity, SERVER)

    def play(
        self,
        port: int,
        requests: Mapping[str, wire.TakePartRequest] | None = None,
        seconds: float = 60.0,
    ) -> dict[str, wire.TakePartReply]:
        """Lets sites take part, each in a thread of its name; returns what they answer the relay."""
        asked = requests or dict.fromkeys(SITES, self.request())
        replies: dict[str, wire.TakePartReply] = {}

        def take_part(name: str) -> None:
            replies[name] = self.agent(self.site(name), port).take_part(asked[name])

        run_all({name: partial(take_part, name) for name in asked}, seconds)
        return replies

    def charges(self, name: str) -> list[tuple[str, int, int]]:
        """What a site's ledger has charged: (session, step, attempt)."""
        bodies = [entry.body for entry in self.site(name).ledger.entries()]
        charged = [body.charge for body in bodies if isinstance(body, Charged)]
        return [(charge.session, charge.step, charge.attempt) for charge in charged]

    def refusals(self, name: str) -> list[Declined]:
        """What a site's ledger says that it refused."""
        bodies = [entry.body for entry in self.site(name).ledger.entries()]
        return [body for body in bodies if isinstance(body, Declined)]

    def vector(
        self,
        name: str,
        step: int,
        attempt: int,
        adapter: NDArray[np.float32],
        cohort: int = len(SITES),
    ) -> NDArray[np.int64]:
        """What a site with seeded noise adds to a sum: recomputed, not overheard."""
        site = self.site(name)
        records = site.records(self.contract)
        trainer = Trainer(
            PrivateStep.of(self.contract, self.workbench.space.dimension, cohort),
            self.workbench,
            self.workbench.loader.encode(records),
            UnsafeSeededRandomness(self.contract.seed, name),
            untimed,
        )
        return trainer.vector(adapter, step, attempt)

    def true_sum(
        self,
        names: Iterable[str],
        step: int,
        attempt: int,
        adapter: NDArray[np.float32],
        cohort: int = len(SITES),
    ) -> NDArray[np.uint32]:
        """The ring sum that a server is to get, and nothing else."""
        vectors = [self.vector(name, step, attempt, adapter, cohort) for name in names]
        return np.sum(vectors, axis=0).astype(np.uint32)

    @property
    def rules(self) -> Cohort:
        """The plan's deadlines and smallest cohort."""
        return self.contract.cohort


def issued(
    authority: Path, name: str, directory: Path, now: datetime, hosts: tuple[str, ...] = ()
) -> TlsFiles:
    """A key and a certificate of it, as an authority's owner can make for any name."""
    tls = TlsFiles.within(directory)
    request = create_request(name, tls.key)
    tls.certificate.write_bytes(certify(authority, request, name, now, hosts=hosts))
    tls.authority.write_bytes((authority / "ca.crt").read_bytes())
    return tls


def run_all(work: Mapping[str, Callable[[], object]], seconds: float) -> None:
    """Runs each in a thread of its name; none may be stuck after so many seconds."""
    threads = [threading.Thread(target=do, name=name, daemon=True) for name, do in work.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), f"{thread.name} hangs"


def uniformity(words: NDArray[np.uint32]) -> float:
    """Returns the smaller p-value, corrected for being two, of χ² on bytes and on top bytes.

    Small noise on a zero fills the low bytes evenly, but not the top ones.
    """
    octets = words.astype("<u4").view(np.uint8).reshape(-1, 4)
    samples = (octets, octets[:, 3])
    return 2 * min(chisquare(np.bincount(s.ravel(), minlength=256)).pvalue for s in samples)


def is_noise(words: NDArray[np.uint32]) -> bool:
    """Whether words look uniform; says no to uniform words with probability `FALSE_FAILURE`."""
    return bool(uniformity(words) > FALSE_FAILURE)


@contextmanager
def served(world: World, session_id: str = SESSION) -> Iterator[tuple[Aggregator, int]]:
    """The real service with an open session."""
    hub = Hub(Notary.open(world.consortium.server, lambda: 1.8e9))
    roster = Roster.load(world.consortium.server.roster)
    session = Aggregator(world.descriptor(session=session_id), world.rules, roster)
    hub.open(session)
    with serving(hub, world.consortium.server.tls, "127.0.0.1:0", len(SITES)) as port:
        try:
            yield session, port
        finally:
            session.close("the session is over")
