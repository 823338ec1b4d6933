"""A charge to a ledger, of which a test says only what it is about."""

from dataclasses import replace
from typing import Any

from hortus.privacy.ledger.charges import Charge
from hortus.privacy.ledger.decisions import Approved
from hortus.privacy.ledger.marks import Content
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.privacy import RECORD

_ANY = Charge(
    run="0" * 32,
    session="1" * 32,
    round=0,
    step=0,
    attempt=0,
    dataset="d" * 64,
    unit="record",
    mode="distributed",
    mechanism="discrete-gaussian",
    sampling_rate=1.0,
    noise_multiplier=4.0,
    clipping_norm=0.1,
    releases=1,
    delta=1e-5,
    plan="e" * 64,
)


def make_charge(**changes: Any) -> Charge:
    """Makes a charge of one release without sampling."""
    return replace(_ANY, **changes)


def make_approval(plan: str = _ANY.plan, **changes: Any) -> Approved:
    """Makes the approval of a plan that nobody can look up."""
    return replace(Approved(plan, "study", "Ada", RECORD, 1.0, _ANY.delta), **changes)


def approve(ledger: Ledger, plan: str = _ANY.plan) -> Ledger:
    """Has a plan approved, unless something was said of it before: an audit accuses who charges unasked."""
    if plan not in ledger.consents():
        ledger.record(make_approval(plan))
    return ledger


def make_content(dataset: str, *people: str, unit: str = RECORD) -> Content:
    """Makes records of these people, one each."""
    rows = [person.encode() for person in people]
    return Content.of(b"k" * 32, dataset, unit, rows, [] if unit == RECORD else people)
