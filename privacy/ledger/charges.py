"""Charges: what a site is about to release, and what its accounts come to."""

import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.fields import (
    MOST_COUNT,
    check_hex,
    check_member,
    check_range,
    check_unit,
)
from hortus.protocol.numbers import LEAST_DELTA, MOST_DELTA
from hortus.protocol.privacy import Noise

_MOST_RELEASES, _MOST_NOISE, _LEAST_RATE = 2**40, 1e7, 1e-12
_PERIOD = re.compile(r"[0-9]{4}(-Q[1-4]|-(0[1-9]|1[0-2]))?")


class Scope(StrEnum):
    """What a limit on ε is over."""

    LIFETIME = "lifetime"
    PLAN = "plan"
    PERIOD = "period"


class Added(StrEnum):
    """What was added to a vector before it was masked.

    `SEEDED` noise can be subtracted by whoever knows the seed: it protects nobody, and ε is infinite.
    `REHEARSED` noise is the same in a simulation, whose ε is what the plan would cost.
    """

    GAUSSIAN = "discrete-gaussian"
    REHEARSED = "rehearsed-discrete-gaussian"
    SEEDED = "seeded-discrete-gaussian"
    NOTHING = "none"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a site is about to release.

    Attributes:
        run: The run, hexadecimal.
        session: The session, hexadecimal.
        round: Round of the run.
        step: Secure sum of the session.
        attempt: Attempt at it.
        dataset: Fingerprint of the records as they are (`dataset_fingerprint`): of one content.
        unit: The privacy unit: neighbouring datasets differ by one of it.
        mode: A value of `protocol.privacy.Noise`.
        mechanism: A value of `Added`.
        sampling_rate: Poisson sampling rate q of a step.
        noise_multiplier: Standard deviation of the noise that is counted on, over sensitivity.
        clipping_norm: L2 bound C of one unit's contribution.
        releases: Compositions of the mechanism that this charge covers.
        delta: The δ that ε after it is computed at.
        plan: Hash of the contract.
    """

    run: str
    session: str
    round: int
    step: int
    attempt: int
    dataset: str
    unit: str
    mode: str
    mechanism: str
    sampling_rate: float
    noise_multiplier: float
    clipping_norm: float
    releases: int
    delta: float
    plan: str

    def __post_init__(self) -> None:
        for name in ("sampling_rate", "noise_multiplier", "clipping_norm", "delta"):
            # An integer would come back from the database as a float, with another hash.
            object.__setattr__(self, name, float(getattr(self, name)))
        check_hex("run", self.run, 32)
        check_hex("session", self.session, 32)
        check_hex("dataset", self.dataset, 64)
        check_hex("plan", self.plan, 64)
        check_unit(self.unit)
        for name in ("round", "step", "attempt"):
            check_range(name, getattr(self, name), 0, MOST_COUNT)
        check_range("releases", self.releases, 1, _MOST_RELEASES)
        check_range("sampling_rate", self.sampling_rate, _LEAST_RATE, 1)
        check_range("noise_multiplier", self.noise_multiplier, 0, _MOST_NOISE)
        check_range("clipping_norm", self.clipping_norm, sys.float_info.min, sys.float_info.max)
        check_range("delta", self.delta, LEAST_DELTA, MOST_DELTA)
        check_member("mode", self.mode, Noise)
        check_member("mechanism", self.mechanism, Added)
        adds_nothing = Added(self.mechanism) is Added.NOTHING
        if {adds_nothing, not self.noise_multiplier} != {Noise(self.mode) is Noise.UNSAFE_NONE}:
            raise ValueError(
                f"mode {self.mode}, mechanism {self.mechanism} and noise_multiplier "
                f"{self.noise_multiplier:g} do not go together"
            )

    @property
    def is_private(self) -> bool:
        """Whether ε after it can be finite."""
        return self.mechanism in _BOUNDED

    @property
    def event(self) -> GaussianEvent:
        """What one of its releases is to an accountant."""
        return GaussianEvent(self.sampling_rate, self.noise_multiplier)

    @property
    def key(self) -> tuple[str, int, int]:
        """Session, step and attempt: no two charges have the same."""
        return (self.session, self.step, self.attempt)


_BOUNDED = frozenset({Added.GAUSSIAN, Added.REHEARSED})


@dataclass(frozen=True, slots=True)
class Level:
    """What the releases within one scope have come to.

    Attributes:
        scope: All releases of the account, those of the charge's plan, or those of a period.
        period: The period, `2026` or `2026-11`; empty for other scopes.
        epsilon: ε of the releases in it, the charge included; infinite without privacy.
        limit: The largest ε that the site allowed then; infinite if it set no limit.
    """

    scope: Scope
    period: str
    epsilon: float
    limit: float

    def __post_init__(self) -> None:
        for name in ("epsilon", "limit"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (self.epsilon >= 0 and self.limit > 0):
            raise ValueError("ε is not negative, a limit is positive")
        is_period = self.scope is Scope.PERIOD
        if not (_PERIOD.fullmatch(self.period) if is_period else self.period == ""):
            raise ValueError(
                f"period: {self.period[:70]!r} does not belong to the scope {self.scope.value}"
            )

    @property
    def name(self) -> str:
        """The scope in words."""
        return self.period or ("its plan" if self.scope is Scope.PLAN else "its lifetime")


@dataclass(frozen=True, slots=True)
class Charged:
    """A release was charged; the lifetime's level comes first.

    Its first charge is what links a content to an account: an entry of its own would show, by its
    number, the day on which a site's records changed to whoever countersigns heads.

    Attributes:
        charge: The release.
        account: What it was charged to: the fingerprint of the first content of a lineage.
        joins: Accounts that are one with it from this entry on.
        levels: What it brought each scope of the account to.
    """

    kind: ClassVar[str] = "charge"
    charge: Charge
    account: str
    joins: tuple[str, ...]
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        for name in (self.account, *self.joins):
            check_hex("account", name, 64)
        if len({self.account, *self.joins}) != 1 + len(self.joins):
            raise ValueError("an account is joined with others, each once")
        scopes = [level.scope for level in self.levels]
        if scopes[:1] != [Scope.LIFETIME] or len(set(scopes)) != len(scopes):
            raise ValueError("a charge has one level a scope, the lifetime's first")

    @property
    def epsilon_after(self) -> float:
        """ε of everything charged to the account, with this charge, at its δ."""
        return self.levels[0].epsilon
