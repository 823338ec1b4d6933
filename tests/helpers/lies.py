"""One lie about an honest history: what a liar of some kind would show instead.

A lie changes a claim that is held by something signed, by a plan or by the server's record. Liars differ in
what they can do:

    unsigned   edits what is stored, without the site's key
    stranger   chains and signs everything from the lie on with another key
    resigned   chains and signs everything from the lie on with the site's own keys, after the server has
               countersigned the truth
    patched    ran a program that lied from the beginning: chain, signatures and the server's
               countersignatures are of the lie, and only what it says can give it away

What no evidence speaks of (a dataset that was never the true one, noise that was never drawn, a freeze
that nobody wrote down) is no lie here.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from helpers.histories import CONTRACTS, OWN, SITE, Draw, History, identity_after, pick, roster_of

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.audit.evidence import Evidence, Row
from hortus.privacy.audit.reconcile import ServerRecord
from hortus.privacy.ledger.books import Tally
from hortus.privacy.ledger.charges import Charge, Charged, Level, Scope
from hortus.privacy.ledger.decisions import Admitted, Approved, Consent, Frozen, Granted, Withdrawn
from hortus.privacy.ledger.entries import GENESIS, Entry, content_hash
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity
from hortus.protocol.numbers import MOST_DELTA
from hortus.protocol.policy import Every, period_of
from hortus.runtime.canonical import canonical_json

STRANGER = Identity.generate("stranger")
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Lie:
    """What is shown instead of the truth.

    Attributes:
        kind: What is lied about, and by whom.
        evidence: The site's evidence then.
        records: The server's record, or what the auditor gets of it.
        anchor: A head of the true ledger that was kept elsewhere.
        breaks: Whether an audit must call it broken; a warning will do where an honest operator
            or clock may have done the same.
    """

    kind: str
    evidence: Evidence
    records: tuple[ServerRecord, ...]
    anchor: LedgerHead | None = None
    breaks: bool = True


@dataclass(frozen=True, slots=True)
class _Said:
    """An entry that is still to be chained and signed."""

    time: float
    body: Any


def _said(history: History) -> list[_Said]:
    entries = [Entry.parse(*row[1:]) for row in history.evidence.rows]
    return [_Said(entry.time, entry.body) for entry in entries]


def _patched(history: History, said: Sequence[_Said], *, removed: int = 0) -> Evidence:
    """The evidence of a program that said this from the beginning; `removed`: an entry left out."""
    heads: list[tuple[int, str]] = []
    rotations = [seq - (1 if removed and removed <= seq else 0) for seq in history.rotations]
    identity, previous, rows = identity_after(heads), GENESIS, list[Row]()
    for seq, one in enumerate(said, start=1):
        while len(heads) < len(rotations) and rotations[len(heads)] < seq:
            heads.append((seq - 1, previous))
            identity = identity_after(heads)
        entry = Entry.make(seq, one.time, one.body, previous, identity)
        rows.append((entry.seq, entry.content, entry.hash, entry.signature))
        previous = entry.hash
    while len(heads) < len(rotations):
        heads.append((len(rows), previous))
    countersignatures = []
    for one in history.evidence.countersignatures:
        seq = one.head.seq - (1 if removed and removed <= one.head.seq else 0)
        if seq and seq <= len(rows):
            head = LedgerHead(SITE, seq, rows[seq - 1][2], b"")
            countersignatures.append(Countersignature.make(OWN, head, one.time))
    return replace(
        history.evidence,
        roster=roster_of(identity_after(heads)),
        rows=tuple(rows),
        countersignatures=tuple(countersignatures),
    )


def _charges(said: Sequence[_Said]) -> list[int]:
    return [i for i, one in enumerate(said) if isinstance(one.body, Charged)]


@lru_cache(maxsize=100_000)
def _epsilon(history: frozenset[Any], delta: float) -> float:
    return epsilon(dict(history), delta)


def _reclaimed(said: Sequence[_Said]) -> list[_Said]:
    """The same entries with every ε what a true accountant would make of them."""
    tallies: defaultdict[tuple[str, Scope, str], Tally] = defaultdict(Tally)
    latest, told = -math.inf, list[_Said]()
    for one in said:
        latest = max(latest, one.time)
        if not isinstance(one.body, Charged):
            told.append(one)
            continue
        charge, levels = one.body.charge, []
        account = one.body.account
        for key in _scopes(account, charge, latest):
            tallies[key].add(charge)
        for level in one.body.levels:
            within = charge.plan if level.scope is Scope.PLAN else level.period
            tally = tallies[account, level.scope, within]
            cost = math.inf
            if not tally.is_bare:
                cost = _epsilon(frozenset(tally.history.items()), charge.delta)
            levels.append(replace(level, epsilon=cost))
        told.append(replace(one, body=replace(one.body, levels=tuple(levels))))
    return told


def _scopes(account: str, charge: Charge, time: float) -> list[tuple[str, Scope, str]]:
    periods = [(account, Scope.PERIOD, period_of(time, every)) for every in Every]
    plan = (account, Scope.PLAN, charge.plan)
    return [(account, Scope.LIFETIME, ""), plan, *periods]


def _with_charge(said: Sequence[_Said], index: int, **changes: Any) -> list[_Said]:
    body = said[index].body
    return [
        *said[:index],
        replace(said[index], body=replace(body, charge=replace(body.charge, **changes))),
        *said[index + 1 :],
    ]


def _with_level(said: Sequence[_Said], index: int, number: int, **changes: Any) -> list[_Said]:
    body = said[index].body
    levels = list(body.levels)
    levels[number] = replace(levels[number], **changes)
    return [
        *said[:index],
        replace(said[index], body=replace(body, levels=tuple(levels))),
        *said[index + 1 :],
    ]


# Lies of a patched program. Each returns None where there is nothing to lie about.

_Made = tuple[Evidence, bool] | None


def _claims(said: Sequence[_Said]) -> list[tuple[int, int, Level]]:
    """Every finite claim that is large enough to be lied about."""
    return [
        (i, n, level)
        for i in _charges(said)
        for n, level in enumerate(said[i].body.levels)
        if 1e-2 < level.epsilon < math.inf
    ]


def _epsilon_lower(draw: Draw, history: History, said: list[_Said]) -> _Made:
    claims = _claims(said)
    if not claims:
        return None
    index, number, level = pick(draw, claims)
    factor = pick(draw, (0.0, 0.3, 0.9, 0.98))
    return _patched(history, _with_level(said, index, number, epsilon=level.epsilon * factor)), True


def _epsilon_higher(draw: Draw, history: History, said: list[_Said]) -> _Made:
    claims = _claims(said)
    if not claims:
        return None
    index, number, level = pick(draw, claims)
    factor = pick(draw, (1.03, 1.5, 10.0))
    changed = min(level.epsilon * factor, level.limit)
    if changed < 1.03 * level.epsilon:
        return None
    return _patched(history, _with_level(said, index, number, epsilon=changed)), True


def _epsilon_from_here_on(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """A scope is begun anew in the middle, or all its claims are too low."""
    claims = _claims(said)
    if not claims:
        return None
    start, _, first = pick(draw, claims)
    factor = pick(draw, (0.5, 0.9, 0.98))
    for index, number, level in claims:
        if index >= start and level.scope is first.scope:
            said = _with_level(said, index, number, epsilon=level.epsilon * factor)
    return _patched(history, said), True


def _epsilon_finite(draw: Draw, history: History, said: list[_Said]) -> _Made:
    bare = [
        (i, n)
        for i in _charges(said)
        for n, level in enumerate(said[i].body.levels)
        if math.isinf(level.epsilon)
    ]
    if not bare:
        return None
    index, number = pick(draw, bare)
    return _patched(history, _with_level(said, index, number, epsilon=float(draw(9)))), True


def _number(name: str, *factors: float) -> Callable[[Draw, History, list[_Said]], _Made]:
    def lie(draw: Draw, history: History, said: list[_Said]) -> _Made:
        private = [i for i in _charges(said) if said[i].body.charge.is_private]
        if not private:
            return None
        index = pick(draw, private)
        true = getattr(said[index].body.charge, name)
        told = type(true)(true * pick(draw, factors))
        if told == true or (name == "sampling_rate" and told > 1):
            return None
        changed = _with_charge(said, index, **{name: told})
        return _patched(history, _reclaimed(changed) if draw(2) else changed), True

    return lie


def _clipping_norm(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """A larger C, so that the noise seems larger; where it adapts, one that the plan has no room for."""
    if not (charges := _charges(said)):
        return None
    index = pick(draw, charges)
    charge = said[index].body.charge
    return _patched(
        history, _with_charge(said, index, clipping_norm=charge.clipping_norm * 5000)
    ), True


def _delta(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """All that is released from a dataset, from some entry on, at a larger δ."""
    private = [i for i in _charges(said) if said[i].body.charge.is_private]
    if not private:
        return None
    start = pick(draw, private)
    larger = pick(draw, (1e-4, MOST_DELTA))
    for index in _charges(said):
        if index >= start and said[index].body.account == said[start].body.account:
            said = _with_charge(said, index, delta=larger)
    return _patched(history, _reclaimed(said)), False


def _delta_alone(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """Another δ beside an ε that does not belong to it."""
    claims = _claims(said)
    if not claims:
        return None
    index, _, level = pick(draw, claims)
    if level.epsilon < 0.3:
        return None
    return _patched(history, _with_charge(said, index, delta=pick(draw, (1e-7, 1e-9)))), True


def _mode(draw: Draw, history: History, said: list[_Said]) -> _Made:
    private = [i for i in _charges(said) if said[i].body.charge.is_private]
    if not private:
        return None
    index = pick(draw, private)
    mode = said[index].body.charge.mode
    told = "local" if mode == "distributed" else "distributed"
    return _patched(history, _with_charge(said, index, mode=told)), True


def _unit(draw: Draw, history: History, said: list[_Said]) -> _Made:
    if not (charges := _charges(said)):
        return None
    return _patched(history, _with_charge(said, pick(draw, charges), unit="household")), True


def _mechanism(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """Noise that can be subtracted, with the ε of noise that cannot."""
    private = [i for i in _charges(said) if said[i].body.charge.is_private]
    if not private:
        return None
    told = _with_charge(said, pick(draw, private), mechanism="seeded-discrete-gaussian")
    return _patched(history, told), True


def _heard(history: History, said: Sequence[_Said]) -> list[int]:
    """Charges of whose vector the server has something."""
    heard = {
        (one.session, one.step, one.attempt)
        for record in history.records
        for one in record.attempts
        if SITE in one.heard
    }
    return [i for i in _charges(said) if said[i].body.charge.key in heard]


def _attempt(draw: Draw, history: History, said: list[_Said]) -> _Made:
    if not (heard := _heard(history, said)):
        return None
    index = pick(draw, heard)
    charge = said[index].body.charge
    return _patched(history, _with_charge(said, index, attempt=charge.attempt + 3 + draw(3))), True


def _step(draw: Draw, history: History, said: list[_Said]) -> _Made:
    if not (heard := _heard(history, said)):
        return None
    index = pick(draw, heard)
    charge = said[index].body.charge
    return _patched(history, _with_charge(said, index, step=charge.step + 7)), True


def _session(draw: Draw, history: History, said: list[_Said]) -> _Made:
    if not (charges := _charges(said)):
        return None
    return _patched(history, _with_charge(said, pick(draw, charges), session="f" * 32)), True


def _run(draw: Draw, history: History, said: list[_Said]) -> _Made:
    if not (heard := _heard(history, said)):
        return None
    return _patched(history, _with_charge(said, pick(draw, heard), run="f" * 32)), True


def _plan(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """Charged by another plan: one that there is, or one that nobody can look up."""
    if not (charges := _charges(said)):
        return None
    index = pick(draw, charges)
    told = pick(draw, [*CONTRACTS, "f" * 64])
    if told == said[index].body.charge.plan:
        return None
    return _patched(history, _reclaimed(_with_charge(said, index, plan=told))), True


def _round(draw: Draw, history: History, said: list[_Said]) -> _Made:
    charges = _charges(said)
    sessions = [said[i].body.charge.session for i in charges]
    shared = [i for i in charges if sessions.count(said[i].body.charge.session) > 1]
    if not shared:
        return None
    index = pick(draw, shared)
    charge = said[index].body.charge
    return _patched(history, _with_charge(said, index, round=charge.round + 1 + draw(60))), False


def _account(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """One release is charged to an account of its own, as if it were other people's."""
    charges = _charges(said)
    accounts = [said[i].body.account for i in charges]
    shared = [i for i in charges if accounts.count(said[i].body.account) > 1]
    if not shared:
        return None
    index = pick(draw, shared)
    told = _with_charge(said, index, dataset="e" * 64)
    told[index] = replace(told[index], body=replace(told[index].body, account="e" * 64))
    return _patched(history, _reclaimed(told)), True


def _scope(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """The claims of two scopes change places."""
    several = []
    for i in _charges(said):
        levels = said[i].body.levels
        several += [
            (i, n)
            for n in range(1, len(levels))
            if math.isfinite(levels[0].epsilon)
            and levels[n].epsilon < 0.97 * levels[0].epsilon
            and levels[0].epsilon <= levels[n].limit
        ]
    if not several:
        return None
    index, number = pick(draw, several)
    levels = said[index].body.levels
    told = _with_level(said, index, 0, epsilon=levels[number].epsilon)
    return _patched(history, _with_level(told, index, number, epsilon=levels[0].epsilon)), True


def _period(draw: Draw, history: History, said: list[_Said]) -> _Made:
    periods = [
        (i, n, level)
        for i in _charges(said)
        for n, level in enumerate(said[i].body.levels)
        if level.scope is Scope.PERIOD
    ]
    if not periods:
        return None
    index, number, level = pick(draw, periods)
    changed = _with_level(
        said, index, number, period=str(int(level.period[:4]) + 1) + level.period[4:]
    )
    return _patched(history, _reclaimed(changed)), True


def _time(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """An entry is dated into another month, before or after the server saw it."""
    seen = [one.head.seq for one in history.evidence.countersignatures if one.head.seq <= len(said)]
    if not seen:
        return None
    index = draw(max(seen))
    told = list(said)
    shift = pick(draw, (-50 * _DAY, 50 * _DAY)) if index else 50 * _DAY
    moved = said[index].time + shift
    if shift < 0 and moved >= said[index - 1].time:
        return None
    signed = [one for one in history.evidence.countersignatures if one.head.seq > index]
    follows = index + 1 == len(said) or moved <= said[index + 1].time
    if shift > 0 and follows and moved <= min(one.time for one in signed) + 3700:
        return None  # nobody saw it before the time that it tells
    told[index] = replace(said[index], time=said[index].time + shift)
    return _patched(history, told), False


def _order(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """Two charges of a dataset change places, with their times and what they claim."""
    charges = _charges(said)
    pairs = [
        (i, j)
        for i in charges
        for j in charges
        if i < j and said[i].body.account == said[j].body.account and said[i].time < said[j].time
    ]
    if not pairs:
        return None
    one, other = pick(draw, pairs)
    told = list(said)
    told[one], told[other] = said[other], said[one]
    return _patched(history, told), False


def _omission(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """A release is not charged at all; every ε is right for what is left."""
    if not (heard := _heard(history, said)):
        return None
    index = pick(draw, heard)
    charge = said[index].body.charge
    if charge.mode != "distributed":
        # Another charge of the step would pay for the vector.
        same = [
            i
            for i in _charges(said)
            if (said[i].body.charge.session, said[i].body.charge.step)
            == (charge.session, charge.step)
        ]
        if len(same) > 1:
            return None
    left = _reclaimed([*said[:index], *said[index + 1 :]])
    evidence = _patched(history, left, removed=index + 1)
    hidden = evidence.sent - {charge.key} if draw(2) else evidence.sent
    return replace(evidence, sent=hidden), True


def _uncharged_attempt(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """The server took one more attempt of a sum that counts on the noise of others."""
    sums = [i for i in _charges(said) if said[i].body.charge.mode == "distributed"]
    if not sums:
        return None
    charge = said[pick(draw, sums)].body.charge
    evidence = _patched(history, said)
    return replace(evidence, sent=evidence.sent | {(charge.session, charge.step, 9)}), True


def _charged_twice(draw: Draw, history: History, said: list[_Said]) -> _Made:
    if not (charges := _charges(said)):
        return None
    return _patched(
        history, _reclaimed([*said, replace(said[pick(draw, charges)], time=said[-1].time)])
    ), True


def _frozen(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """The program ignored its operator's freeze."""
    charges = [i for i in _charges(said) if i not in history.rotations]
    if not charges or history.rotations:
        return None
    index = pick(draw, charges)
    freeze = _Said(said[index].time, Frozen("*", "an incident"))
    return _patched(history, [*said[:index], freeze, *said[index:]]), True


def _consents(said: Sequence[_Said]) -> list[int]:
    """Approvals and admissions that something is charged after, before anything else is said of the plan."""
    found = []
    for i, one in enumerate(said):
        if not isinstance(one.body, Approved | Admitted):
            continue
        for later in said[i + 1 :]:
            if isinstance(later.body, Charged) and later.body.charge.plan == one.body.plan:
                found.append(i)
                break
            if isinstance(later.body, Consent) and later.body.plan == one.body.plan:
                break
    return found


def _approval_left_out(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """The program took part in what nobody had approved."""
    if not (consents := _consents(said)):
        return None
    index = pick(draw, consents)
    left = [*said[:index], *said[index + 1 :]]
    return _patched(history, left, removed=index + 1), True


def _approval(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """Somebody is said to have approved another price, unit or name, or at another δ."""
    consents = [i for i, one in enumerate(said) if isinstance(one.body, Approved | Admitted)]
    if not consents:
        return None
    index = pick(draw, consents)
    body = said[index].body
    changes: list[dict[str, Any]] = [{"unit": "household"}, {"name": "another"}]
    if math.isfinite(body.epsilon):
        changes += [{"epsilon": body.epsilon * f} for f in (0.0, 0.5, 0.98, 1.03)]
        changes += [{"epsilon": math.inf}, {"delta": 1e-3}, {"delta": 1e-9}]
    else:
        changes += [{"epsilon": 3.0}]
    told = list(said)
    told[index] = replace(said[index], body=replace(body, **pick(draw, changes)))
    return _patched(history, told), True


def _withdrawal_ignored(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """The program went on after its operator had withdrawn."""
    charges = [i for i in _charges(said) if i not in history.rotations]
    if not charges or history.rotations:
        return None
    index = pick(draw, charges)
    plan = said[index].body.charge.plan
    withdrawal = _Said(said[index].time, Withdrawn(plan, "study", "Bob", "a doubt"))
    return _patched(history, [*said[:index], withdrawal, *said[index:]]), True


def _limit_below(draw: Draw, history: History, said: list[_Said]) -> _Made:
    claims = _claims(said)
    if not claims:
        return None
    index, number, level = pick(draw, claims)
    return _patched(history, _with_level(said, index, number, limit=level.epsilon * 0.9)), True


def _grant_left_out(draw: Draw, history: History, said: list[_Said]) -> _Made:
    """The limit was raised, and nobody signed for it."""
    charged: set[str] = set()
    grants = []
    for i, one in enumerate(said):
        if isinstance(one.body, Charged) and math.isfinite(one.body.levels[0].limit):
            charged.add(one.body.account)
        if isinstance(one.body, Granted):
            later = {
                said[j].body.account
                for j in _charges(said)
                if j > i and math.isfinite(said[j].body.levels[0].limit)
            }
            if charged & later & ({one.body.dataset} if one.body.dataset != "*" else later):
                grants.append(i)
    if not grants:
        return None
    index = pick(draw, grants)
    return _patched(history, [*said[:index], *said[index + 1 :]], removed=index + 1), False


PATCHED: Mapping[str, Callable[[Draw, History, list[_Said]], _Made]] = {
    "ε of one claim, lower": _epsilon_lower,
    "ε of one claim, higher": _epsilon_higher,
    "ε of a scope, from here on": _epsilon_from_here_on,
    "ε finite after a release without noise": _epsilon_finite,
    "σ": _number("noise_multiplier", 0.5, 1.05, 2.0),
    "q": _number("sampling_rate", 0.5, 2.0),
    "releases": _number("releases", 2.0, 3.0),
    "C": _clipping_norm,
    "δ, with its ε": _delta,
    "δ, with another's ε": _delta_alone,
    "mode": _mode,
    "unit": _unit,
    "mechanism": _mechanism,
    "attempt": _attempt,
    "step": _step,
    "session": _session,
    "run": _run,
    "plan": _plan,
    "round": _round,
    "account": _account,
    "scope": _scope,
    "period": _period,
    "time": _time,
    "order": _order,
    "omission": _omission,
    "attempt never charged": _uncharged_attempt,
    "charged twice": _charged_twice,
    "charged while frozen": _frozen,
    "limit below ε": _limit_below,
    "grant left out": _grant_left_out,
    "approval left out": _approval_left_out,
    "approval of another price": _approval,
    "withdrawal ignored": _withdrawal_ignored,
}


# Lies about what is stored.


def _altered(draw: Draw, row: Row) -> str:
    """An entry's content with one of its values changed to another of its kind."""
    value = json.loads(row[1])
    places = [
        path
        for path in _places(value)
        if path[-1] not in ("seq", "previous_hash", "format", "kind")
    ]
    return canonical_json(_changed(value, pick(draw, places))).decode()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict | list):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [place for key, item in items for place in _places(item, (*path, key))]


def _changed(value: Any, path: tuple[Any, ...]) -> Any:
    if path:
        copy = list(value) if isinstance(value, list) else dict(value)
        copy[path[0]] = _changed(value[path[0]], path[1:])
        return copy
    if isinstance(value, int):
        return value + 1
    if value.startswith("0x"):
        return (float.fromhex(value) * 0.75).hex()
    if value == "inf":
        return (1000.0).hex()
    return f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}" if value else "0" * 32


def _rechained(rows: Sequence[Row], start: int, sign: Callable[[int, bytes], bytes]) -> list[Row]:
    """Numbers, chains, hashes and signs the rows from an index on."""
    chained = list(rows[:start])
    for seq, row in enumerate(rows[start:], start=start + 1):
        previous = chained[-1][2] if chained else GENESIS
        content = json.loads(row[1]) | {"seq": seq, "previous_hash": previous}
        text = canonical_json(content).decode()
        hash_ = content_hash(text)
        chained.append((seq, text, hash_, sign(seq, bytes.fromhex(hash_))))
    return chained


def _tampered(draw: Draw, history: History) -> Lie | None:
    """Somebody changes what is stored: a value, the order, or what there is."""
    true = history.evidence.rows
    seen = max((one.head.seq for one in history.evidence.countersignatures), default=0)
    by = pick(draw, ("unsigned", "stranger", "resigned"))
    what = pick(draw, ("a value", "a value", "order", "omission", "insertion"))
    # Only what the server has countersigned binds whoever has the site's own keys.
    most = (seen if by == "resigned" else len(true)) - (what == "order")
    if most < 1:
        return None
    index = draw(most)
    if what == "omission" and index == len(true) - 1 and seen < len(true):
        return None  # an older copy, of which nobody has seen the end
    rows = _edited(draw, true, index, what)
    if by == "unsigned":
        rows = [(seq, *row[1:]) for seq, row in enumerate(rows, start=1)]
    else:
        keys = _keys(history) if by == "resigned" else lambda _: STRANGER
        rows = _rechained(rows, index, lambda seq, hash_: keys(seq).sign("ledger entry", hash_))
    if tuple(rows) == true:
        return None
    if by == "resigned" and tuple(rows[:seen]) == true[:seen]:
        return None  # a copy of the last entry that the server has seen, after it: a new entry of the site's own
    evidence = replace(history.evidence, rows=tuple(rows))
    return Lie(f"{what}, {by}", evidence, history.records if draw(2) else ())


def _edited(draw: Draw, true: Sequence[Row], index: int, what: str) -> list[Row]:
    rows = list(true)
    match what:
        case "a value":
            rows[index] = (rows[index][0], _altered(draw, rows[index]), *rows[index][2:])
        case "order":
            rows[index], rows[index + 1] = rows[index + 1], rows[index]
        case "omission":
            del rows[index]
        case _:
            rows.insert(index, rows[draw(len(rows))])
    return rows


def _keys(history: History) -> Callable[[int], Identity]:
    """The identity that signs an entry, by its number: a liar has kept every key."""
    heads = [
        (handover.last_entry, handover.head)
        for handover in history.evidence.roster.handovers.get(SITE, ())
    ]

    def of(seq: int) -> Identity:
        return identity_after([head for head in heads if head[0] < seq])

    return of


def _rolled_back(draw: Draw, history: History) -> Lie | None:
    """An older copy is shown, of which somebody has seen more."""
    evidence = history.evidence
    seen = max((one.head.seq for one in evidence.countersignatures), default=0)
    if len(evidence.rows) < 2 or history.rotations:
        return None
    kept = draw(len(evidence.rows) - 1) + 1
    older = replace(evidence, rows=evidence.rows[:kept])
    if draw(2) or seen <= kept:
        last = evidence.rows[-1]
        anchor = LedgerHead.sign(identity_after([]), last[0], last[2])
        countersigned = tuple(one for one in evidence.countersignatures if one.head.seq <= kept)
        return Lie(
            "rolled back, anchor", replace(older, countersignatures=countersigned), (), anchor
        )
    return Lie("rolled back, countersigned", older, ())


def _changed_plan(draw: Draw, history: History) -> Lie | None:
    """A plan was exchanged after it was approved."""
    charges = [one.body.charge for one in _said(history) if isinstance(one.body, Charged)]
    if not charges:
        return None
    plan = pick(draw, charges).plan
    text = CONTRACTS[plan].replace('"rounds":40', '"rounds":41')
    contracts = {**history.evidence.contracts, plan: text}
    return Lie("plan exchanged", replace(history.evidence, contracts=contracts), ())


def _made_up_countersignature(draw: Draw, history: History) -> Lie | None:
    """The server is said to have seen an entry, by who is not the server."""
    if not history.evidence.rows:
        return None
    row = pick(draw, history.evidence.rows)
    forged = Countersignature.make(STRANGER, LedgerHead(SITE, row[0], row[2], b""), 1.79e9)
    return Lie(
        "countersignature made up",
        replace(history.evidence, countersignatures=(forged,)),
        (),
        breaks=False,
    )


_OTHERS = (_rolled_back, _changed_plan, _made_up_countersignature)


def tell_lie(draw: Draw, history: History) -> Lie | None:
    """Returns one lie about a history; None where the history has nothing of the drawn kind."""
    choice = draw(8)
    if choice < 2:
        return _tampered(draw, history)
    if choice == 2:
        return pick(draw, _OTHERS)(draw, history)
    kind = pick(draw, tuple(PATCHED))
    said = _said(history)
    made = PATCHED[kind](draw, history, said) if said else None
    if made is None:
        return None
    evidence, breaks = made
    return Lie(f"{kind}, patched", evidence, history.records, breaks=breaks)
