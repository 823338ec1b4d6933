"""What an audit reads: a site's ledger and what vouches for it, live or from one exported file.

Nothing in it depends on a record: entries, signatures, countersignatures, public keys and contracts.

A bundle is compressed lines of JSON, and is read line by line within fixed limits, since it comes from
whoever is audited: a head that names the site and its roster, then the contracts, entries,
countersignatures and sent attempts, each a line of its own, then the number of those lines.
"""

import gzip
import io
import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from hortus.parties.folders import SiteFiles
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import SIGNATURE_BYTES, Roster
from hortus.runtime.canonical import canonical_json
from hortus.runtime.databases import DAMAGED, read_snapshot
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.names import check_site_name

_FORMAT = "hortus/v2/evidence"
# Some 200,000 entries, which an audit holds in 1 GB of memory.
_MOST_BYTES = 2**28
_MOST_LINE = 2**21
_MOST_CONTRACTS = 10_000
_LATEST = 253_402_300_800.0  # the year 10000
_MOST_COUNT = 2**40
_HASH, _SESSION = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{32}")
# What reading a damaged or foreign file raises.
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, RecursionError)

Row = tuple[int, str, str, bytes]  # seq, content, hash, signature
Attempt = tuple[str, int, int]  # session, step, attempt


@dataclass(frozen=True, slots=True)
class Evidence:
    """A site's evidence.

    Attributes:
        site: The site.
        roster: As the site has pinned it.
        rows: The ledger's entries, as they are stored.
        countersignatures: What the server has countersigned.
        sent: Attempts whose vector the server has taken.
        contracts: Canonical JSON of the plans, by the hash that they were stored under.
    """

    site: str
    roster: Roster
    rows: tuple[Row, ...]
    countersignatures: tuple[Countersignature, ...]
    sent: frozenset[Attempt]
    contracts: Mapping[str, str]


def collect(files: SiteFiles, site: str) -> Evidence:
    """Reads a site's folder, beside an agent that may be running.

    Raises:
        UsageError: A file is missing.
        HortusError: The ledger cannot be read.
    """
    if not files.ledger.is_file():
        raise UsageError("the site has no ledger yet", where=str(files.ledger))
    evidence = read_evidence(site, files.ledger, Roster.load(files.roster), {})
    # A plan is stored before anything is charged to it, and so is read after the charges.
    contracts = {
        path.stem: path.read_text(encoding="utf-8")
        for path in sorted(files.contracts.glob("*.json"))
    }
    return Evidence(
        site, evidence.roster, evidence.rows, evidence.countersignatures, evidence.sent, contracts
    )


def read_evidence(
    site: str, ledger: Path, roster: Roster, contracts: Mapping[str, str]
) -> Evidence:
    """Reads a ledger as it was at one moment, though its agent may be writing to it.

    Raises:
        HortusError: It cannot be read.
    """
    try:
        return read_snapshot(ledger, partial(_read_tables, site, roster, contracts))
    except (*DAMAGED, OSError, ValueError, TypeError) as error:
        raise HortusError(f"the ledger cannot be read: {error}", where=str(ledger)) from error


def _read_tables(
    site: str, roster: Roster, contracts: Mapping[str, str], connection: sqlite3.Connection
) -> Evidence:
    rows = connection.execute("SELECT seq, content, hash, signature FROM entries ORDER BY seq")
    entries = tuple(_row(*row) for row in rows)
    signed = connection.execute(
        "SELECT seq, hash, time, signature FROM countersignatures ORDER BY seq, hash"
    )
    countersigned = tuple(_countersignature(site, *row) for row in signed)
    sent = connection.execute("SELECT session, step, attempt FROM sent")
    attempts = frozenset(_attempt(*row) for row in sent)
    return Evidence(site, roster, entries, countersigned, attempts, contracts)


def export(evidence: Evidence, path: Path) -> None:
    """Writes evidence to one file: the same bytes for the same evidence."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        head, *lines = _lines(evidence)
        for line in (head, *lines, {"end": len(lines)}):
            file.write(canonical_json(line) + b"\n")
    write_atomic(path, packed.getvalue())


def _lines(evidence: Evidence) -> Iterator[Mapping[str, object]]:
    roster = evidence.roster.content()
    yield {"format": _FORMAT, "site": evidence.site, "roster": roster}
    for name, text in sorted(evidence.contracts.items()):
        yield {"contract": [name, text]}
    for seq, content, hash_, signature in evidence.rows:
        yield {"entry": [seq, content, hash_, signature.hex()]}
    for one in evidence.countersignatures:
        head = one.head
        yield {"countersignature": [head.seq, head.hash, one.time.hex(), one.signature.hex()]}
    for attempt in sorted(evidence.sent):
        yield {"sent": list(attempt)}


def load(path: Path) -> Evidence:
    """Reads what `export` wrote. It comes from somebody whom the auditor need not trust.

    Raises:
        UsageError: The file is no such bundle.
    """
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
            return _parse(_bounded_lines(unpacked))
    except UsageError as error:
        problem = f"this is not an evidence bundle: {error.problem}"
        raise UsageError(problem, where=str(path), remedy=error.remedy) from error
    except _UNREADABLE as error:
        raise UsageError(f"this is not an evidence bundle: {error}", where=str(path)) from error


def _bounded_lines(file: BinaryIO | gzip.GzipFile) -> Iterator[dict[str, Any]]:
    """Yields what is on the lines, which line feeds alone end: texts may hold others."""
    read = 0
    while line := file.readline(_MOST_LINE + 1):
        read += len(line)
        if len(line) > _MOST_LINE or read > _MOST_BYTES:
            raise ValueError("it is larger than any ledger's")
        value = json.loads(line, parse_constant=_no_number)
        if not isinstance(value, dict):
            raise TypeError(f"a line is a {type(value).__name__}, not an object")
        yield value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _parse(lines: Iterator[dict[str, Any]]) -> Evidence:
    head = next(lines, {})
    if head.keys() != {"format", "site", "roster"} or head["format"] != _FORMAT:
        raise ValueError(f"it does not begin as one of {_FORMAT}")
    site = _text(head["site"])
    check_site_name(site)
    if not isinstance(head["roster"], dict):
        raise TypeError("its roster is not a mapping")
    roster = Roster.parse(head["roster"], Path("roster"))
    found: dict[str, list[Any]] = {name: [] for name in (*_READERS, "end")}
    count = 0
    for count, line in enumerate(lines):
        ((name, value),) = line.items()
        if name not in found or found["end"]:
            raise ValueError(f"line {count + 2} does not belong to a bundle")
        found[name].append(value if name == "end" else _READERS[name](site, value))
        if len(found["contract"]) > _MOST_CONTRACTS:
            raise ValueError("it has more plans than any site")
    if found["end"] != [count]:
        raise ValueError("it is truncated")
    return Evidence(
        site,
        roster,
        tuple(found["entry"]),
        tuple(found["countersignature"]),
        frozenset(found["sent"]),
        dict(found["contract"]),
    )


def _row(seq: object, content: object, hash_: object, signature: object) -> Row:
    if not isinstance(signature, bytes):
        raise TypeError("a signature is not a byte string")
    # Of an entry that was tampered with the audit says more than that it cannot be read.
    return _whole(seq), _text(content), _text(hash_), signature


def _countersignature(
    site: str, seq: object, hash_: object, time: object, signature: object
) -> Countersignature:
    if not (isinstance(time, float) and 0 <= time < _LATEST):
        raise ValueError("a countersignature has no time of any calendar")
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a countersignature is not of {SIGNATURE_BYTES} bytes")
    head = LedgerHead(site, _whole(seq), _hexadecimal(_HASH, hash_), b"")
    return Countersignature(head, time, signature)


def _attempt(session: object, step: object, attempt: object) -> Attempt:
    return _hexadecimal(_SESSION, session), _whole(step), _whole(attempt)


def _contract(name: object, text: object) -> tuple[str, str]:
    return _hexadecimal(_HASH, name), _text(text)


_READERS: Mapping[str, Callable[[str, Iterable[Any]], Any]] = {
    "contract": lambda _, values: _contract(*values),
    "entry": lambda _, values: _row(*_unhexed(values)),
    "countersignature": lambda site, values: _countersignature(site, *_timed(_unhexed(values))),
    "sent": lambda _, values: _attempt(*values),
}


def _unhexed(values: Iterable[Any]) -> list[Any]:
    *others, last = values
    return [*others, bytes.fromhex(last)]


def _timed(values: list[Any]) -> list[Any]:
    seq, hash_, time, signature = values
    return [seq, hash_, float.fromhex(time), signature]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} was found where a text was expected")
    value.encode()  # half of a surrogate pair cannot be shown
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MOST_COUNT:
        raise ValueError("a number is not whole, or larger than any in a ledger")
    return value


def _hexadecimal(pattern: re.Pattern[str], value: object) -> str:
    text = _text(value)
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:70]!r} is not {pattern.pattern}")
    return text
