"""Decisions: what a site's operator, or its policy, allowed and forbade."""

import math
from dataclasses import dataclass
from typing import ClassVar

from hortus.privacy.ledger.fields import (
    MOST_COUNT,
    check_hex,
    check_name,
    check_range,
    check_reason,
    check_unit,
)
from hortus.protocol.numbers import LEAST_DELTA, MOST_DELTA

EVERY_DATASET = "*"


@dataclass(frozen=True, slots=True)
class Granted:
    """The operator raised a lifetime budget.

    Attributes:
        dataset: An account, or `EVERY_DATASET`.
        epsilon: By how much.
        reason: Why, in the operator's words.
    """

    kind: ClassVar[str] = "grant"
    dataset: str
    epsilon: float
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", float(self.epsilon))
        if not 0 < self.epsilon < math.inf:
            raise ValueError("a grant is a positive, finite ε")
        _check_decision(self.dataset, self.reason)


@dataclass(frozen=True, slots=True)
class Frozen:
    """The operator forbade further releases.

    Attributes:
        dataset: An account, or `EVERY_DATASET`.
        reason: Why, in the operator's words.
    """

    kind: ClassVar[str] = "freeze"
    dataset: str
    reason: str

    def __post_init__(self) -> None:
        _check_decision(self.dataset, self.reason)


@dataclass(frozen=True, slots=True)
class Unfrozen:
    """The operator lifted what `Frozen` with the same dataset had forbidden."""

    kind: ClassVar[str] = "unfreeze"
    dataset: str
    reason: str

    def __post_init__(self) -> None:
        _check_decision(self.dataset, self.reason)


@dataclass(frozen=True, slots=True)
class Disjoint:
    """The operator stated that a content holds other people than the accounts so far.

    From it on, releases from that content may open an account of their own (parallel composition).

    Attributes:
        dataset: Fingerprint of the content.
        others: The accounts.
        operator: Name of whoever states it.
        reason: Why it is so, in the operator's words.
    """

    kind: ClassVar[str] = "disjoint"
    dataset: str
    others: tuple[str, ...]
    operator: str
    reason: str

    def __post_init__(self) -> None:
        for name in (self.dataset, *self.others):
            check_hex("dataset", name, 64)
        if not self.others or len({self.dataset, *self.others}) != 1 + len(self.others):
            raise ValueError("a content is disjoint from other accounts than its own, each once")
        check_name("an operator's name", self.operator)
        check_reason(self.reason)


@dataclass(frozen=True, slots=True)
class Approved:
    """The operator has read a plan, and the site takes part in it from this entry on.

    Attributes:
        plan: Hash of the contract.
        name: Its name, for whoever reads the ledger without the contract.
        operator: Name of whoever approves it.
        unit: The privacy unit.
        epsilon: What all its releases alone cost, spare attempts included; infinite without noise.
        delta: The δ of that ε: the site's.
    """

    kind: ClassVar[str] = "approval"
    plan: str
    name: str
    operator: str
    unit: str
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        _check_consent(self)
        check_name("an operator's name", self.operator)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The site takes part in a plan that nobody here has read, because policy.yaml's `auto_approve` allows it.

    Attributes:
        plan: Hash of the contract.
        name: Its name.
        unit: The privacy unit.
        epsilon: As of `Approved`.
        delta: As of `Approved`.
    """

    kind: ClassVar[str] = "admission"
    plan: str
    name: str
    unit: str
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        _check_consent(self)


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The operator took an approval or an admission back: nothing more is released for the plan.

    Attributes:
        plan: Hash of the contract.
        name: Its name.
        operator: Name of whoever withdraws it.
        reason: Why, in the operator's words.
    """

    kind: ClassVar[str] = "withdrawal"
    plan: str
    name: str
    operator: str
    reason: str

    def __post_init__(self) -> None:
        check_hex("plan", self.plan, 64)
        check_name("a plan's name", self.name)
        check_name("an operator's name", self.operator)
        check_reason(self.reason)


@dataclass(frozen=True, slots=True)
class Declined:
    """The site refused what the server asked for.

    Attributes:
        plan: Hash of the contract.
        run: The run, hexadecimal; empty where none was opened yet.
        round: Round of the run.
        dataset: Fingerprint; empty where no dataset was looked at.
        reason: As it was sent to the server, and so without anything that a record could change.
    """

    kind: ClassVar[str] = "refusal"
    plan: str
    run: str
    round: int
    dataset: str
    reason: str

    def __post_init__(self) -> None:
        check_hex("plan", self.plan, 64)
        check_hex("run", self.run or "0" * 32, 32)
        check_hex("dataset", self.dataset or "0" * 64, 64)
        check_range("round", self.round, 0, MOST_COUNT)
        check_reason(self.reason)


Consent = Approved | Admitted | Withdrawn


def _check_decision(dataset: str, reason: str) -> None:
    if dataset != EVERY_DATASET:
        check_hex("dataset", dataset, 64)
    check_reason(reason)


def _check_consent(consent: Approved | Admitted) -> None:
    for name in ("epsilon", "delta"):
        object.__setattr__(consent, name, float(getattr(consent, name)))
    check_hex("plan", consent.plan, 64)
    check_name("a plan's name", consent.name)
    check_unit(consent.unit)
    check_range("epsilon", consent.epsilon, 0, math.inf)
    check_range("delta", consent.delta, LEAST_DELTA, MOST_DELTA)
