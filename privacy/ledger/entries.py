"""What a ledger's entries say, and how each is encoded, hashed and signed.

An entry's content is one canonical JSON object: what was recorded, its number, its time, and the
hash of the entry before. Its hash is the SHA-256 of those bytes, so what is stored is what is
signed. Floats are in C's hexadecimal notation, which is exact.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, ClassVar, Self

from hortus.privacy.accounting.events import GaussianEvent
from hortus.protocol.identity import Identity, is_signed
from hortus.protocol.plan import LEAST_DELTA, MOST_DELTA, Noise
from hortus.runtime.canonical import canonical_json

SIGNATURE_CONTEXT = "ledger entry"
GENESIS = "0" * 64
EVERY_DATASET = "*"

_FORMAT = "hortus/v4/ledger"
_MOST_REASON, _MOST_UNIT, _MOST_NAME = 500, 200, 100
_LATEST = 253_402_300_800.0  # the year 10000
# What float64 and SQLite count exactly, and what no plan asks for.
_MOST_COUNT, _MOST_ENTRIES, _MOST_RELEASES, _MOST_NOISE = 2**31, 2**40, 2**40, 1e7
_LEAST_RATE = 1e-12
_HEX = re.compile(r"[0-9a-f]+")
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
        mode: A value of `protocol.plan.Noise`.
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
        _check_hex("run", self.run, 32)
        _check_hex("session", self.session, 32)
        _check_hex("dataset", self.dataset, 64)
        _check_hex("plan", self.plan, 64)
        if not 1 <= len(self.unit) <= _MOST_UNIT:
            raise ValueError(f"unit: a unit has 1 to {_MOST_UNIT} characters")
        for name in ("round", "step", "attempt"):
            _check_range(name, getattr(self, name), 0, _MOST_COUNT)
        _check_range("releases", self.releases, 1, _MOST_RELEASES)
        _check_range("sampling_rate", self.sampling_rate, _LEAST_RATE, 1)
        _check_range("noise_multiplier", self.noise_multiplier, 0, _MOST_NOISE)
        _check_range("clipping_norm", self.clipping_norm, sys.float_info.min, sys.float_info.max)
        _check_range("delta", self.delta, LEAST_DELTA, MOST_DELTA)
        _check_member("mode", self.mode, Noise)
        _check_member("mechanism", self.mechanism, Added)
        adds_nothing = Added(self.mechanism) is Added.NOTHING
        if {adds_nothing, not self.noise_multiplier} != {Noise(self.mode) is Noise.UNSAFE_NONE}:
            raise ValueError(
                f"mode {self.mode}, mechanism {self.mechanism} and noise_multiplier "
                f"{self.noise_multiplier:g} do not belong together"
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
        limit: The largest ε that the site allowed then; infinite if none.
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
            _check_hex("account", name, 64)
        if len({self.account, *self.joins}) != 1 + len(self.joins):
            raise ValueError("an account is joined with others, each once")
        scopes = [level.scope for level in self.levels]
        if scopes[:1] != [Scope.LIFETIME] or len(set(scopes)) != len(scopes):
            raise ValueError("a charge has one level a scope, the lifetime's first")

    @property
    def epsilon_after(self) -> float:
        """ε of everything charged to the account, with this charge, at its δ."""
        return self.levels[0].epsilon


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
    """The operator took back what `Frozen` with the same dataset had forbidden."""

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
            _check_hex("dataset", name, 64)
        if not self.others or len({self.dataset, *self.others}) != 1 + len(self.others):
            raise ValueError("a content is disjoint from other accounts than its own, each once")
        _check_name("an operator's name", self.operator)
        _check_reason(self.reason)


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
        _check_name("an operator's name", self.operator)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The site takes part in a plan that nobody here has read: policy.yaml's `auto_approve` allows it.

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
        _check_hex("plan", self.plan, 64)
        _check_name("a plan's name", self.name)
        _check_name("an operator's name", self.operator)
        _check_reason(self.reason)


@dataclass(frozen=True, slots=True)
class Declined:
    """The site refused what the server asked for.

    Attributes:
        plan: Hash of the contract.
        run: The run, hexadecimal; empty where none was opened yet.
        round: Round of the run.
        dataset: Fingerprint; empty where no dataset was looked at.
        reason: As the server was told, and so without anything that a record could change.
    """

    kind: ClassVar[str] = "refusal"
    plan: str
    run: str
    round: int
    dataset: str
    reason: str

    def __post_init__(self) -> None:
        _check_hex("plan", self.plan, 64)
        _check_hex("run", self.run or "0" * 32, 32)
        _check_hex("dataset", self.dataset or "0" * 64, 64)
        _check_range("round", self.round, 0, _MOST_COUNT)
        _check_reason(self.reason)


Consent = Approved | Admitted | Withdrawn
Body = Charged | Granted | Frozen | Unfrozen | Disjoint | Consent | Declined


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger's entry, as it is stored.

    Attributes:
        seq: Number, from 1.
        time: Seconds since the epoch.
        body: What it records.
        previous_hash: Hash of the entry before; `GENESIS` for the first.
        content: Canonical JSON of everything above.
        hash: SHA-256 of `content`, hexadecimal.
        signature: The site's Ed25519 signature of the hash.
    """

    seq: int
    time: float
    body: Body
    previous_hash: str
    content: str
    hash: str
    signature: bytes

    def __post_init__(self) -> None:
        _check_range("seq", self.seq, 1, _MOST_ENTRIES)
        _check_range("time", self.time, 0, _LATEST)
        _check_hex("previous_hash", self.previous_hash, 64)
        _check_hex("hash", self.hash, 64)

    @classmethod
    def make(
        cls, seq: int, time: float, body: Body, previous_hash: str, identity: Identity
    ) -> Self:
        """Encodes and signs a new entry."""
        content = _content(seq, time, body, previous_hash)
        hash_ = content_hash(content)
        signature = identity.sign(SIGNATURE_CONTEXT, bytes.fromhex(hash_))
        return cls(seq, float(time), body, previous_hash, content, hash_, signature)

    @classmethod
    def parse(cls, content: str, hash_: str, signature: bytes) -> Self:
        """Reads what is stored; chain, hash and signature are checked elsewhere.

        Raises:
            ValueError: The content is not the encoding of an entry.
        """
        try:
            value = json.loads(content)
            if canonical_json(value).decode() != content:
                raise ValueError("the content is not in canonical form")
            body = _read_body(value)
            return cls(
                seq=_whole(value["seq"]),
                time=_number(value["time"]),
                body=body,
                previous_hash=_text(value["previous_hash"]),
                content=content,
                hash=_text(hash_),
                signature=bytes(signature),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"the content is not an entry: {error}") from error

    def is_signed_by(self, public_key: bytes) -> bool:
        """Returns whether the raw Ed25519 key signed the entry's hash."""
        try:
            message = bytes.fromhex(self.hash)
        except ValueError:
            return False
        return is_signed(public_key, SIGNATURE_CONTEXT, message, self.signature)


def content_hash(content: str) -> str:
    """Returns the SHA-256 of an entry's content, hexadecimal."""
    return hashlib.sha256(content.encode()).hexdigest()


def _content(seq: int, time: float, body: Body, previous_hash: str) -> str:
    value = {
        "format": _FORMAT,
        "seq": seq,
        "time": float(time).hex(),
        "kind": body.kind,
        body.kind: _encode(body),
        "previous_hash": previous_hash,
    }
    return canonical_json(value).decode()


def _encode(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
    return value


def _read_body(value: Mapping[str, Any]) -> Body:
    kind = value["kind"]
    _only(value, {"format", "seq", "time", "kind", kind, "previous_hash"})
    if value["format"] != _FORMAT or kind not in _READERS:
        raise ValueError(f"format {value['format']!r}, kind {kind!r} is unknown here")
    body: Body = _READERS[kind](value[kind])
    return body


def _read_charged(value: Mapping[str, Any]) -> Charged:
    _only(value, {"charge", "account", "joins", "levels"})
    return Charged(
        _decode(Charge, value["charge"]),
        _text(value["account"]),
        _texts(value["joins"]),
        tuple(_decode(Level, level) for level in value["levels"]),
    )


def _decode(kind: type[Any], value: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of that kind
    """Reads a dataclass of texts, whole numbers, floats and scopes."""
    readers = _FIELDS[kind]
    _only(value, readers.keys())
    return kind(*[read(value[name]) for name, read in readers.items()])


# Kinds whose fields are texts, whole numbers, floats and lists of texts.
_FLAT = (Granted, Frozen, Unfrozen, Disjoint, Approved, Admitted, Withdrawn, Declined)
_READERS: Mapping[str, Any] = {
    Charged.kind: _read_charged,
    **{kind.kind: lambda value, kind=kind: _decode(kind, value) for kind in _FLAT},
}


def _only(value: Mapping[str, Any], names: Set[str]) -> None:
    if value.keys() != names:
        raise ValueError(f"fields {sorted(value.keys() ^ names)} are missing or unknown")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} stands where a text is due")
    # A run's entries share most of their texts: a long ledger's fit in memory once.
    return sys.intern(value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(_text, value))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a {type(value).__name__} stands where a whole number is due")
    return value


# Most numbers of a run are the same in every entry.
@lru_cache(maxsize=4096)
def _number(value: object) -> float:
    number = float.fromhex(_text(value))
    if number.hex() != value:
        raise ValueError(f"{value!r} is not the exact form of a number")
    return number


def _check_hex(name: str, value: str, digits: int) -> None:
    if len(value) != digits or not _HEX.fullmatch(value):
        raise ValueError(f"{name}: {value[:70]!r} is not {digits} hexadecimal digits")


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # nor is NaN
        raise ValueError(f"{name}: {value!r:.40} is not from {least:g} to {most:g}")


def _check_member(name: str, value: str, kind: type[StrEnum]) -> None:
    if value not in [member.value for member in kind]:
        raise ValueError(f"{name}: {value[:70]!r} is not among {', '.join(kind)}")


def _check_decision(dataset: str, reason: str) -> None:
    if dataset != EVERY_DATASET:
        _check_hex("dataset", dataset, 64)
    _check_reason(reason)


def _check_consent(consent: Approved | Admitted) -> None:
    for name in ("epsilon", "delta"):
        object.__setattr__(consent, name, float(getattr(consent, name)))
    _check_hex("plan", consent.plan, 64)
    _check_name("a plan's name", consent.name)
    if not 1 <= len(consent.unit) <= _MOST_UNIT:
        raise ValueError(f"unit: a unit has 1 to {_MOST_UNIT} characters")
    _check_range("epsilon", consent.epsilon, 0, math.inf)
    _check_range("delta", consent.delta, LEAST_DELTA, MOST_DELTA)


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name.strip()) <= _MOST_NAME:
        raise ValueError(f"{what} has 1 to {_MOST_NAME} characters")


def _check_reason(reason: str) -> None:
    if not 1 <= len(reason.strip()) <= _MOST_REASON:
        raise ValueError(f"a reason has 1 to {_MOST_REASON} characters")


_PARSERS: Mapping[Any, Callable[[Any], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    tuple[str, ...]: _texts,
    Scope: Scope,
}
_FIELDS: Mapping[type[Any], Mapping[str, Callable[[Any], Any]]] = {
    kind: {field.name: _PARSERS[field.type] for field in fields(kind)}
    for kind in (Charge, Level, *_FLAT)
}
