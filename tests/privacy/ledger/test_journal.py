"""A site's entries are appended whole or not at all, chained and signed, by whichever process comes."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.charges import make_approval

from hortus.privacy.ledger.decisions import Frozen
from hortus.privacy.ledger.entries import GENESIS, Entry
from hortus.privacy.ledger.journal import Journal, explained
from hortus.protocol.heads import Countersignature
from hortus.protocol.identity import Identity
from hortus.runtime.errors import HortusError
from hortus.runtime.names import SERVER

ASH, SERVERS = Identity.generate("ash"), Identity.generate(SERVER)


def opened(path: Path, identity: Identity = ASH) -> Journal:
    return Journal.open(path, identity, lambda: 1.8e9)


def append(journal: Journal, reason: str = "an incident") -> Entry:
    with journal._transaction() as now:
        return journal._append(Frozen("*", reason), now)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(opened(path)) as journal:
        yield journal


def test_a_new_file_is_its_owners_alone_and_its_log_too(journal: Journal, path: Path) -> None:
    append(journal)
    for file in path.parent.glob("ledger.sqlite*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_entries_are_chained_and_the_head_is_the_last(journal: Journal) -> None:
    assert (journal.head(), journal.signed_head()) == ((0, GENESIS), None)
    first, second = append(journal), append(journal, "another")
    assert [entry.previous_hash for entry in (first, second)] == [GENESIS, first.hash]
    assert list(journal.entries()) == [first, second]
    assert journal.head() == (2, second.hash)
    head = journal.signed_head()
    assert head is not None
    assert head.is_signed_by(ASH.public_key_bytes)
    assert journal.contains(1, first.hash)
    assert not journal.contains(2, first.hash)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_is_interrupted_leaves_no_entry(journal: Journal, error: type[BaseException]) -> None:
    before = append(journal)

    def interrupted() -> None:
        with journal._transaction() as now:
            journal._append(make_approval(), now)
            raise error

    with pytest.raises(error):
        interrupted()
    assert journal.head() == (1, before.hash)
    after = append(journal)
    assert (after.seq, after.previous_hash) == (2, before.hash)


def test_two_processes_go_by_one_chain(journal: Journal, path: Path) -> None:
    with closing(opened(path)) as other:
        entries = [append(one, str(number)) for number, one in enumerate((journal, other) * 3)]
        assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
        assert list(journal.entries()) == list(other.entries()) == entries
        assert journal.head() == other.head()


def test_another_sites_ledger_is_not_opened(journal: Journal, path: Path) -> None:
    append(journal)
    with pytest.raises(HortusError, match="entry 1"):
        opened(path, Identity.generate("birch"))


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TRIGGER entries_remain; DELETE FROM entries WHERE seq = 2",
        "DROP TRIGGER entries_remain; DELETE FROM entries WHERE seq = 1",
        "DROP TRIGGER entries_stay; UPDATE entries SET content = replace(content, 'first', 'fifth')",
        "DROP TRIGGER entries_stay; UPDATE entries SET hash = upper(hash) WHERE seq = 1",
        "DROP TRIGGER entries_stay; UPDATE entries SET signature = x'00' WHERE seq = 3",
        "PRAGMA user_version = 99",
    ],
)
def test_a_ledger_that_was_altered_is_refused(path: Path, damage: str) -> None:
    with closing(opened(path)) as journal:
        for reason in ("first", "second", "third"):
            append(journal, reason)
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(damage)
    with pytest.raises(HortusError):
        opened(path)


def test_an_entry_that_vanishes_while_it_is_open_is_noticed(journal: Journal, path: Path) -> None:
    append(journal)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TRIGGER entries_remain")
        raw.execute("DELETE FROM entries")
    with pytest.raises(HortusError, match="entry 1 has disappeared"):
        journal.head()


def test_a_countersignature_is_kept_once_and_says_when_the_server_looked(journal: Journal) -> None:
    assert journal.last_countersigned() is None
    append(journal)
    head = journal.signed_head()
    assert head is not None
    for time in (1.8e9, 1.9e9):
        journal.keep(Countersignature.make(SERVERS, head, time))
    assert journal.last_countersigned() == 1.8e9, "the first sight of a head is what counts"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.OperationalError("database is locked"), "another process holds the ledger"),
        (sqlite3.DatabaseError("file is not a database"), "the ledger cannot be used"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "the ledger is damaged"),
        (PermissionError(13, "Permission denied"), "the ledger cannot be opened"),
    ],
)
def test_what_goes_wrong_below_is_said_in_one_sentence_with_the_file(
    path: Path, error: Exception, said: str
) -> None:
    with pytest.raises(HortusError, match=said) as caught, explained(path):
        raise error
    assert caught.value.where == str(path)
