"""What an audit reads: a site's ledger and what vouches for it, live or from one exported file.

Nothing in it depends on a record: entries, signatures, countersignatures, public keys and contracts.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hortus.protocol.canonical import canonical_json
from hortus.protocol.consortium import SiteFiles
from hortus.protocol.databases import DAMAGED, read_sqlite
from hortus.protocol.errors import HortusError, UsageError
from hortus.protocol.files import write_atomic
from hortus.protocol.heads import Countersignature, Head
from hortus.protocol.identity import Roster

_FORMAT = "hortus/v1/evidence"
# A zip file has no room for an earlier date; a bundle of the same ledger is the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
_MOST_BYTES = 2**31
# What zipfile raises for a damaged, encrypted or foreign member, and what reading its text does.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    yaml.YAMLError,
    OSError,
)

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
        raise UsageError("there is no ledger yet", where=str(files.ledger))
    rows, signed, sent = read_ledger(files.ledger)
    return Evidence(
        site=site,
        roster=Roster.load(files.roster),
        rows=tuple(rows),
        countersignatures=tuple(
            Countersignature(Head(site, seq, hash_, b""), time, signature)
            for seq, hash_, time, signature in signed
        ),
        sent=frozenset(sent),
        contracts={
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted(files.contracts.glob("*.json"))
        },
    )


def export(evidence: Evidence, path: Path) -> None:
    """Writes evidence to one file: a zip of text, the same bytes for the same evidence."""
    members = {
        "evidence.json": _json({"format": _FORMAT, "site": evidence.site}),
        "roster.yaml": yaml.safe_dump(evidence.roster.content()),
        "entries.jsonl": "".join(
            _json({"seq": seq, "content": content, "hash": hash_, "signature": signature.hex()})
            for seq, content, hash_, signature in evidence.rows
        ),
        "countersignatures.jsonl": "".join(
            _json(
                {
                    "seq": one.head.seq,
                    "hash": one.head.hash,
                    "time": one.time.hex(),
                    "signature": one.signature.hex(),
                }
            )
            for one in evidence.countersignatures
        ),
        "sent.jsonl": "".join(_json({"sent": list(one)}) for one in sorted(evidence.sent)),
        **{f"contracts/{name}.json": text for name, text in evidence.contracts.items()},
    }
    temporary = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(temporary, "w") as bundle:
        for name, text in members.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o600 << 16
            bundle.writestr(info, text.encode(), zipfile.ZIP_DEFLATED)
    write_atomic(path, temporary.read_bytes())
    temporary.unlink()


def load(path: Path) -> Evidence:
    """Reads what `export` wrote. It comes from somebody whom the auditor need not trust.

    Raises:
        UsageError: The file is no such bundle.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            if sum(member.file_size for member in bundle.infolist()) > _MOST_BYTES:
                raise UsageError("the bundle is larger than any ledger", where=str(path))
            return _parse(bundle)
    except _UNREADABLE as error:
        raise UsageError(f"this is no evidence bundle: {error}", where=str(path)) from error


def _parse(bundle: zipfile.ZipFile) -> Evidence:
    head = json.loads(bundle.read("evidence.json"))
    if head["format"] != _FORMAT:
        raise ValueError(f"format {head['format']!r} is unknown here")
    site = str(head["site"])
    return Evidence(
        site=site,
        roster=Roster.parse(yaml.safe_load(bundle.read("roster.yaml")), Path("roster.yaml")),
        rows=tuple(
            (int(e["seq"]), str(e["content"]), str(e["hash"]), bytes.fromhex(e["signature"]))
            for e in _objects(bundle, "entries.jsonl")
        ),
        countersignatures=tuple(
            Countersignature(
                Head(site, int(one["seq"]), str(one["hash"]), b""),
                float.fromhex(one["time"]),
                bytes.fromhex(one["signature"]),
            )
            for one in _objects(bundle, "countersignatures.jsonl")
        ),
        sent=frozenset(
            (str(s), int(step), int(attempt))
            for s, step, attempt in (one["sent"] for one in _objects(bundle, "sent.jsonl"))
        ),
        contracts={
            name.removeprefix("contracts/").removesuffix(".json"): bundle.read(name).decode()
            for name in bundle.namelist()
            if name.startswith("contracts/")
        },
    )


def _objects(bundle: zipfile.ZipFile, name: str) -> Iterator[Any]:
    """Yields what is on the lines of a member, which line feeds alone end: texts may hold others."""
    with bundle.open(name) as member:
        yield from map(json.loads, member)


def read_ledger(
    path: Path,
) -> tuple[list[Row], list[tuple[int, str, float, bytes]], list[Attempt]]:
    """Returns a ledger's entries, countersignatures (seq, hash, time, signature) and sent attempts.

    Raises:
        HortusError: It cannot be read.
    """
    try:
        with closing(read_sqlite(path)) as connection:
            rows = connection.execute(
                "SELECT seq, content, hash, signature FROM entries"
            ).fetchall()
            signed = connection.execute("SELECT seq, hash, time, signature FROM countersignatures")
            sent = connection.execute("SELECT session, step, attempt FROM sent")
            return sorted(rows), sorted(signed.fetchall()), sent.fetchall()
    except DAMAGED as error:
        raise HortusError(
            f"the ledger cannot be read: {error}",
            where=str(path),
            remedy="One of an older version is brought up to date by `hortus budget show SITE_DIR`.",
        ) from error


def _json(value: Mapping[str, object]) -> str:
    return canonical_json(value).decode() + "\n"
