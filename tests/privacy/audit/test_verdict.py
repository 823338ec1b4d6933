"""How far evidence reaches: what a bundle, a folder, an anchor and the server's record each can show."""

from contextlib import closing
from dataclasses import replace

import pytest
from helpers.charges import approve, make_approval, make_charge, make_content

from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import Evidence, read_evidence
from hortus.privacy.audit.findings import broken, grouped, warning
from hortus.privacy.audit.reconcile import AttemptRecord, Omission, ServerRecord, omissions
from hortus.privacy.audit.verdict import Outcome, Reach, Verdict, in_words, judge, overall
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.names import SERVER

SITE, OWN = Identity.generate("north"), Identity.generate(SERVER)
STRANGER, IMPOSTOR = Identity.generate("stranger"), Identity.generate(SERVER)
ROSTER = Roster({"north": SITE.public_key_bytes}, OWN.public_key_bytes)
CHARGES = tuple(make_charge(step=step, round=step) for step in range(5))
LAST = 1 + len(CHARGES)
START = 1_795_801_800.0  # 27 November 2026, 17:50 UTC
RECORD = ServerRecord(
    CHARGES[0].run,
    CHARGES[0].plan,
    {CHARGES[0].session: ("north", "south", "west")},
    tuple(
        AttemptRecord(c.session, c.step, 0, ("north", "south"), ("north", "south"), complete=True)
        for c in CHARGES
    ),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """An approval and five rounds, each of which the server has seen and taken."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    with closing(Ledger.open(path, SITE, lambda: START)) as ledger:
        approve(ledger)
        ledger.follow(make_content("d" * 64, "Dora"))
        for charge in CHARGES:
            ledger.charge(charge, None)
            ledger.mark_sent(*charge.key)
            head = ledger.signed_head()
            assert head is not None
            ledger.keep(Countersignature.make(OWN, head, START))
    return read_evidence("north", path, ROSTER, {})


def cut(evidence: Evidence, last: int) -> Evidence:
    """The evidence as it was when its ledger had so many entries."""
    rows = evidence.rows[:last]
    bodies = [Entry.parse(*row[1:]).body for row in rows]
    keys = {body.charge.key for body in bodies if isinstance(body, Charged)}
    seen = tuple(one for one in evidence.countersignatures if one.head.seq <= last)
    return replace(evidence, rows=rows, countersignatures=seen, sent=evidence.sent & keys)


def stripped(evidence: Evidence) -> Evidence:
    return replace(evidence, countersignatures=())


def anchor(evidence: Evidence, number: int) -> LedgerHead:
    return LedgerHead.sign(SITE, number, evidence.rows[number - 1][2])


def verdict_on(
    evidence: Evidence,
    kept: LedgerHead | None = None,
    *records: ServerRecord,
    is_live: bool = False,
    roster: Roster = ROSTER,
) -> Verdict:
    audited = audit(evidence, roster, kept)
    lacking = [one for record in records for one in omissions(record, [audited])]
    return judge(audited, Reach.of(audited, records, is_live=is_live), lacking)


def test_a_bundle_by_itself_holds_as_far_as_it_reaches_wherever_it_was_cut(whole: Evidence) -> None:
    """Cut back with its countersignatures, it is what was exported on that day."""
    for last in range(1, LAST + 1):
        for evidence in (cut(whole, last), stripped(cut(whole, last))):
            told = verdict_on(evidence)
            assert told.outcome is Outcome.SO_FAR
            assert told.outcome.exit_code == 4
            assert told.sentence == (
                f"holds up to entry {last}, 27 Nov 2026 17:50 UTC; nothing here shows what came later"
            )
            # Nor is the plan at hand that was charged from the second entry on.
            is_bare = last > 1 and not evidence.countersignatures
            assert (told.errors, told.warnings) == (0, int(last > 1) + int(is_bare))


def test_a_bundle_without_any_entry_says_so(whole: Evidence) -> None:
    told = verdict_on(cut(whole, 0))
    assert told.outcome is Outcome.SO_FAR
    assert told.sentence == "has no entry; nothing here shows what came later"


def test_somebody_else_has_to_have_kept_something(whole: Evidence) -> None:
    other = replace(RECORD, run="9" * 32, attempts=())
    for outcome, told in (
        (Outcome.HOLDS, verdict_on(whole, anchor(whole, LAST))),
        (Outcome.HOLDS, verdict_on(whole, None, RECORD)),
        (Outcome.HOLDS, verdict_on(whole, None, other, RECORD)),
        (Outcome.HOLDS, verdict_on(whole, is_live=True)),
        (Outcome.HOLDS, verdict_on(cut(whole, 1), is_live=True)),  # nothing was released yet
        (Outcome.SO_FAR, verdict_on(whole, anchor(whole, LAST - 1))),
        (Outcome.SO_FAR, verdict_on(whole, None, other)),
        (Outcome.SO_FAR, verdict_on(stripped(whole), is_live=True)),
        (Outcome.BROKEN, verdict_on(cut(whole, 3), anchor(whole, LAST))),
        (Outcome.BROKEN, verdict_on(cut(whole, 3), None, RECORD)),
        (Outcome.BROKEN, verdict_on(replace(whole, rows=whole.rows[:3]), is_live=True)),
    ):
        assert told.outcome is outcome, told
        assert bool(told.errors) == (outcome is Outcome.BROKEN)


def renumbered(evidence: Evidence) -> Evidence:
    rows = tuple((number, *row[1:]) for number, row in enumerate(evidence.rows, start=1))
    return replace(evidence, rows=rows)


def without(evidence: Evidence, *numbers: int) -> Evidence:
    return replace(evidence, rows=tuple(row for row in evidence.rows if row[0] not in numbers))


DROPPED = {
    "one": lambda whole: without(whole, 3),
    "the first": lambda whole: without(whole, 1),
    "two in a row": lambda whole: without(whole, 3, 4),
    "two apart": lambda whole: without(whole, 2, 4),
    "with its number given away": lambda whole: renumbered(without(whole, 3)),
    "two, renumbered": lambda whole: renumbered(without(whole, 2, 5)),
    "with its countersignature": lambda whole: replace(
        without(whole, 3),
        countersignatures=tuple(o for o in whole.countersignatures if o.head.seq != 3),
    ),
}


@pytest.mark.parametrize("kind", DROPPED)
def test_a_dropped_entry_is_not_called_a_roll_back(whole: Evidence, kind: str) -> None:
    evidence = DROPPED[kind](whole)
    for kept in (None, anchor(whole, LAST)):
        audited = audit(evidence, ROSTER, kept)
        assert audited.first_broken is not None
        told = " ".join(f"{one.problem} {one.meaning}" for one in audited.findings)
        assert "rolled back" not in told
        assert "countersigned" not in told, "what others have seen of it says nothing more"


WRONG = {
    "another server": Roster(ROSTER.sites, IMPOSTOR.public_key_bytes),
    "another key of the site": Roster({"north": STRANGER.public_key_bytes}, ROSTER.server),
    "both": Roster({"north": STRANGER.public_key_bytes}, IMPOSTOR.public_key_bytes),
    "no such site": Roster({"south": STRANGER.public_key_bytes}, ROSTER.server),
    "another consortium": Roster({"south": SITE.public_key_bytes}, IMPOSTOR.public_key_bytes),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_roster_does_not_contradict_itself(whole: Evidence, kind: str) -> None:
    roster = WRONG[kind]
    audited = audit(whole, roster)
    doubted = [one for one in audited.findings if "for nothing" in one.problem]
    is_other = roster.server != ROSTER.server
    assert len(doubted) == int(is_other), "all of them in one sentence"
    assert audited.countersigned == (0 if is_other else LAST)
    unseen = [one for one in audited.findings if "countersigned none" in one.problem]
    assert len(unseen) == int(is_other)
    told = verdict_on(whole, roster=roster)
    assert told.outcome is (Outcome.SO_FAR if kind == "another server" else Outcome.BROKEN)
    shown = grouped(audited.findings)
    assert len(shown) <= 3, "an entry after another for the same reason is one line"


HOLDS = Verdict(Outcome.HOLDS, "holds up to entry 3, then, where its folder ends now", 0, 0)
SO_FAR = Verdict(
    Outcome.SO_FAR, "holds up to entry 9, then; nothing here shows what came later", 0, 1
)
BROKEN = Verdict(Outcome.BROKEN, "does not hold: entry 5: it is missing", 2, 1)


@pytest.mark.parametrize(
    ("sites", "lacking", "expected"),
    [
        (
            [("a", HOLDS)],
            [],
            "HOLDS: a holds up to entry 3, then, where its folder ends now (0 errors, 0",
        ),
        ([("a", HOLDS), ("b", HOLDS)], [], "HOLDS: a, b (0 errors, 0 warnings)"),
        (
            [("a", SO_FAR)],
            [],
            "HOLDS SO FAR: a holds up to entry 9, then; nothing here shows what came",
        ),
        (
            [("a", HOLDS), ("b", SO_FAR)],
            [],
            "HOLDS SO FAR: a holds up to entry 3, then, where its folder ends now; b holds up to",
        ),
        (
            [("a", SO_FAR), ("b", BROKEN)],
            [],
            "DOES NOT HOLD: b: entry 5: it is missing (2 errors, 2",
        ),
        ([("a", HOLDS)], [Omission("c", "two differ")], "DOES NOT HOLD: c: two differ (1 error, 0"),
    ],
)
def test_several_ledgers_end_with_one_verdict(
    sites: list[tuple[str, Verdict]], lacking: list[Omission], expected: str
) -> None:
    told = overall(sites, lacking)
    assert in_words(told).startswith(expected)
    worst = max(
        (v.outcome for _, v in sites), key=lambda one: (one is Outcome.BROKEN, one.exit_code)
    )
    assert told.outcome is (Outcome.BROKEN if lacking else worst)


def test_findings_that_are_alike_are_one_line() -> None:
    one = [broken(n, "wrong key", "it is another's") for n in (1, 2, 3, 5)]
    other = [warning(6, "wrong key", "it is another's"), broken(0, "sent", "lost")]
    assert [(f.entry, last) for f, last in grouped([*one, *other])] == [
        (1, 3),
        (5, 5),
        (6, 6),
        (0, 0),
    ]


def test_an_approval_alone_needs_nobody_to_have_seen_it(whole: Evidence) -> None:
    assert Entry.parse(*whole.rows[0][1:]).body == make_approval()
    assert audit(stripped(cut(whole, 1)), ROSTER).findings == ()
