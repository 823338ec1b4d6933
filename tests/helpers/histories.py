"""Random histories of a site, by the real ledger: what it releases, decides, refuses and survives.

Sites of one consortium, each with the server's record of its runs and the warnings that its history has
earned. Nothing in it is false: an audit must find nothing broken, and warn of nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from helpers.charges import make_content

from hortus.client.consent.approval import admitted, approval, consented, withdraw
from hortus.privacy.audit.evidence import Evidence, read_evidence
from hortus.privacy.audit.reconcile import AttemptRecord, ServerRecord
from hortus.privacy.gradients.clipping.adaptive import AdaptiveClipping
from hortus.privacy.ledger.charges import Charge
from hortus.privacy.ledger.decisions import Declined, Frozen, Granted, Unfrozen, Withdrawn
from hortus.privacy.ledger.marks import Content
from hortus.privacy.ledger.store import Ledger
from hortus.privacy.step import PrivateStep
from hortus.protocol.heads import Countersignature
from hortus.protocol.identity import Handover, Identity, Roster
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Budget, Every, PeriodBudget
from hortus.protocol.privacy import RECORD, Noise
from hortus.runtime.canonical import canonical_json
from hortus.runtime.errors import Refused
from hortus.runtime.names import SERVER
from hortus.strategies.base import Strategy
from hortus.strategies.fedavg import FedAvg
from hortus.strategies.fedsgd import FedSGD
from hortus.strategies.optimizers.torch_optim import SGD

SITE, OTHERS = "north", ("east", "south", "west")
OWN = Identity.generate(SERVER)
_KEYS = tuple(Identity.generate(SITE) for _ in range(3))
_OTHER_KEYS = {name: Identity.generate(name).public_key_bytes for name in OTHERS}
_START, _DAY = 1_790_000_000.0, 86_400.0
_COHORT, _DIMENSION = (SITE, *OTHERS), 5_000
_MOST_CHARGES = 8
DELTA = 1e-5

# What an operator or a clock does, and the warning that it earns.
CLOCK_BACK, CLOCK_WRONG, LIMIT, DELTAS = "older", "server countersigned", "policy.yaml", "at δ"
UNSEEN = "countersigned none"

Option = TypeVar("Option")
Draw = Callable[[int], int]  # a number below the one given


def pick(draw: Draw, options: Sequence[Option]) -> Option:
    return options[draw(len(options))]


def _contract(
    noise: str, rate: float, sigma: float | None, strategy: Strategy | None = None, **more: Any
) -> Contract:
    training = {"rounds": 40, "sampling_rate": rate, "nominal_units": 500} | more.pop(
        "training", {}
    )
    spare = None if sigma is None else 2
    privacy = {"noise": noise, "noise_multiplier": sigma, "spare_attempts": spare, "delta": DELTA}
    privacy |= more
    return Contract.model_validate(
        {
            "name": "study",
            "model": "model",
            "task": {"kind": "text-classification", "labels": ["a", "b"]},
            "adapter": {"kind": "lora"},
            "training": training,
            "strategy": strategy or FedSGD(),
            "privacy": privacy,
            "cohort": {"minimum": 3, "max_colluding": 1},
            "model_digest": "c" * 64,
        }
    )


PLANS = (
    _contract("distributed", 0.1, 1.5),
    _contract(
        "local",
        1.0,
        8.0,
        training={"local_steps": 2},
        strategy=FedAvg(local_optimizer=SGD()),
    ),
    _contract("distributed", 0.05, 0.9, training={"steps_per_round": 3}),
    _contract("local", 0.002, 4.0),
    _contract("local", 0.25, 3.0, clipping_norm=0.5, clipping=AdaptiveClipping()),
    _contract("unsafe_none", 0.1, None),
    _contract("distributed", 0.1, 2.0, unit="patient", max_records_per_unit=4, ring_bits=24),
)


def _noise(plan: Contract) -> float:
    """What the program itself charges, for so large a cohort and adapter."""
    event = PrivateStep.of(plan, _DIMENSION, len(_COHORT)).event
    return event.noise_multiplier if event else 0.0


_HASHES = tuple(plan.digest() for plan in PLANS)
_NOISE = tuple(map(_noise, PLANS))
CONTRACTS = {
    hash_: canonical_json(plan.model_dump(mode="json")).decode()
    for hash_, plan in zip(_HASHES, PLANS, strict=True)
}


@dataclass(frozen=True, slots=True)
class History:
    """What a site shows and the server recorded.

    Attributes:
        evidence: The site's.
        records: The server's, of each run.
        rotations: After how many entries the site changed its key.
        earned: Words of the warnings that are due.
    """

    evidence: Evidence
    records: tuple[ServerRecord, ...]
    rotations: tuple[int, ...]
    earned: frozenset[str]


def identity_after(heads: Sequence[tuple[int, str]]) -> Identity:
    """The site's identity after it changed its key behind each of these ledger heads."""
    identity = _KEYS[0]
    for head, following in zip(heads, _KEYS[1:], strict=False):
        handover = Handover.make(identity, following.public_key_bytes, *head)
        identity = Identity(SITE, following._key, (*identity.handovers, handover))
    return identity


def roster_of(identity: Identity) -> Roster:
    handovers = {SITE: identity.handovers} if identity.handovers else {}
    keys = {SITE: identity.public_key_bytes, **_OTHER_KEYS}
    return Roster(keys, OWN.public_key_bytes, handovers)


@dataclass
class _Site:
    """A site's operator, agent and clock."""

    draw: Draw
    path: Path
    true_time: float = _START
    offset: float = 0.0
    heads: list[tuple[int, str]] = field(default_factory=list)
    earned: set[str] = field(default_factory=set)
    records: list[ServerRecord] = field(default_factory=list)
    charges: int = 0
    frozen: str = ""
    exports: int = 1

    def __post_init__(self) -> None:
        self.numbers = count(1)
        self.budget = Budget(
            epsilon=pick(self.draw, (4.0, 60.0, 1000.0)),
            delta=DELTA,
            per_plan=pick(self.draw, (None, None, 90.0)),
            per_period=pick(
                self.draw, (None, *(PeriodBudget(epsilon=95.0, every=e) for e in Every))
            ),
        )
        self.open()

    def now(self) -> float:
        return self.true_time + self.offset

    def open(self) -> None:
        self.ledger = Ledger.open(self.path, identity_after(self.heads), self.now)

    def restart(self) -> None:
        """What a killed process leaves is what is on disk."""
        self.ledger.close()
        self.open()

    def hexadecimal(self, digits: int) -> str:
        return f"{next(self.numbers):0{digits}x}"

    def run(self) -> None:
        """A run of one plan: sessions, each of some sums, until the site refuses or fails."""
        plan = self.draw(len(PLANS))
        self.consent(plan)
        record = ServerRecord(self.hexadecimal(32), _HASHES[plan], {}, ())
        self.records.append(record)
        first_round = 0
        for _ in range(1 + self.draw(2)):
            session = self.hexadecimal(32)
            self.records[-1] = record = replace(
                self.records[-1], sessions={**self.records[-1].sessions, session: _COHORT}
            )
            self.take_up(PLANS[plan].privacy.unit)
            for step in range(1 + self.draw(3)):
                if not self.step(plan, record.run, session, first_round, step):
                    break
            first_round += 2

    def consent(self, plan: int) -> None:
        """The operator approves a plan, again after a withdrawal; or policy.yaml allows it unread."""
        said = self.ledger.consents().get(_HASHES[plan])
        if said is None and not self.draw(4) and PLANS[plan].privacy.noise_multiplier:
            self.ledger.admit(admitted(PLANS[plan], self.budget.delta))
        elif said is None or isinstance(said.body, Withdrawn):
            self.ledger.record(approval(PLANS[plan], self.budget.delta, "Ada"))

    def withdraw(self) -> None:
        """The operator takes something back; a step that is being computed is not charged then."""
        live = [one for one in consented(self.ledger) if not isinstance(one.said, Withdrawn)]
        if live:
            withdraw(self.ledger, pick(self.draw, live).said.plan, "Bob", "a doubt")

    def content(self, unit: str) -> Content:
        """A file of records that grows now and then, or one of patients, who are other people."""
        if unit == RECORD:
            return make_content(
                f"d{self.exports}" * 32, *(f"row {n}" for n in range(self.exports + 1))
            )
        return make_content("b" * 64, "Ada", "Bob", unit=unit)

    def take_up(self, unit: str) -> None:
        """Looks at the records, as an agent does first; the operator keeps the two files apart."""
        content, accounts = self.content(unit), self.ledger.accounts()
        units = {account.unit for account in accounts.values()}
        if units and unit not in units:
            self.ledger.state_disjoint(content, list(accounts), "Ada", "other people")
        self.ledger.follow(content)

    def step(self, number: int, run: str, session: str, first: int, step: int) -> bool:
        """Attempts at one sum; returns whether the site is still in the session."""
        plan = PLANS[number]
        sums = plan.training.steps_per_round
        paid, others = False, OTHERS
        for attempt in range(3):
            self.true_time += 1 + self.draw(2000)
            again = paid and plan.privacy.noise is not Noise.DISTRIBUTED
            fate = pick(self.draw, ("sent", "sent", "sent", "lost", "killed", "cut", "unsent"))
            charge = self.charge(number, run, session, first + step // sums, step, attempt)
            if not (self.resend(charge) if again else self.pay(charge, fate)):
                return False
            paid = True
            heard = fate in ("sent", "killed", "cut")
            if fate == "sent":
                self.ledger.mark_sent(session, step, attempt)
            complete = fate in ("sent", "killed") and (attempt == 2 or not self.draw(3))
            u = tuple(sorted((SITE, *others)))
            told = u if complete else tuple(name for name in u if heard or name != SITE)
            record, settles = self.records[-1], self.draw(12)  # else the server fails before that
            noted = AttemptRecord(
                session, step, attempt, u, told if settles else (), complete and bool(settles)
            )
            self.records[-1] = replace(record, attempts=(*record.attempts, noted))
            if not settles:
                return False
            if fate != "sent":
                self.restart()
                return False
            if self.draw(3):
                self.countersign()
            if complete:
                return True
            others = others[:-1]
        return False

    def charge(
        self, number: int, run: str, session: str, round_: int, step: int, attempt: int
    ) -> Charge:
        plan, privacy = PLANS[number], PLANS[number].privacy
        bare = privacy.noise is Noise.UNSAFE_NONE
        norms = (
            (0.25, 0.5, 1.0) if privacy.clipping.kind == "adaptive" else (privacy.clipping_norm,)
        )
        return Charge(
            run=run,
            session=session,
            round=round_,
            step=step,
            attempt=attempt,
            dataset=self.content(privacy.unit).dataset,
            unit=privacy.unit,
            mode=privacy.noise.value,
            mechanism="none" if bare else "discrete-gaussian",
            sampling_rate=plan.training.sampling_rate,
            noise_multiplier=_NOISE[number],
            clipping_norm=pick(self.draw, norms),
            releases=plan.training.local_steps,
            delta=self.budget.delta,
            plan=_HASHES[number],
        )

    def pay(self, charge: Charge, fate: str) -> bool:
        """Reserves, computes and charges; returns whether a vector may leave."""
        if self.charges == _MOST_CHARGES:
            return False
        budget = self.budget if charge.is_private else None
        try:
            held = self.ledger.reserve(charge, budget)
            if fate == "unsent" and not self.draw(2):
                self.restart()  # killed while it computed
                return False
            self.ledger.commit(held)
        except Refused as error:
            self.ledger.decline(
                Declined(charge.plan, charge.run, charge.round, charge.dataset, error.problem[:400])
            )
            return False
        self.charges += 1
        return True

    def resend(self, charge: Charge) -> bool:
        self.ledger.record_use(*charge.key)
        return True

    def countersign(self) -> None:
        head = self.ledger.signed_head()
        if head is not None:
            self.ledger.keep(Countersignature.make(OWN, head, self.true_time + 0.5))

    def decide(self) -> None:
        """The operator grants, freezes or unfreezes; or changes policy.yaml, clock or key."""
        match self.draw(12):
            case 0 | 1:
                dataset = pick(self.draw, ("*", "d1" * 32, "b" * 64))
                self.ledger.record(Granted(dataset, 1.0 + self.draw(3), "the board allows it"))
            case 2 | 3 if not self.frozen:
                self.frozen = pick(self.draw, ("*", "d1" * 32, "b" * 64))
                self.ledger.record(Frozen(self.frozen, "an incident"))
            case 2 | 3 | 4 if self.frozen:
                self.ledger.record(Unfrozen(self.frozen, "it was nothing"))
                self.frozen = ""
            case 5:
                self.budget = self.budget.model_copy(update={"epsilon": self.budget.epsilon + 5})
                self.earned.add(LIMIT)
            case 6 if not self.draw(4):
                self.budget = self.budget.model_copy(update={"delta": DELTA / 10})
                self.earned.add(DELTAS)
            case 7:
                self.offset -= 3 * _DAY
                self.earned |= {CLOCK_BACK, CLOCK_WRONG}
            case 8:
                self.offset += 40 * _DAY
                self.earned.add(CLOCK_WRONG)
            case 10 if self.exports < 9:
                self.exports += 1
            case 9 if len(self.heads) + 1 < len(_KEYS) and self.ledger.head()[0]:
                self.heads.append(self.ledger.head())
                self.restart()
            case _:
                self.true_time += self.draw(400) * _DAY
                self.ledger.decline(Declined("a" * 64, "", 0, "", "not approved here"))


def make_history(draw: Draw, path: Path) -> History:
    """Lets a site live.

    Args:
        draw: Draws a number below the one given.
        path: Where its ledger goes, in a folder of its own.
    """
    site = _Site(draw, path)
    for _ in range(2 + draw(5)):
        if draw(3):
            site.run()
        else:
            site.decide()
        if not draw(8):
            site.withdraw()
    if draw(2):
        site.countersign()
    identity = identity_after(site.heads)
    site.ledger.close()
    evidence = read_evidence(SITE, path, roster_of(identity), CONTRACTS)
    if not evidence.countersignatures:
        site.earned.add(UNSEEN)
    rotations = tuple(seq for seq, _ in site.heads)
    return History(evidence, tuple(site.records), rotations, frozenset(site.earned))
