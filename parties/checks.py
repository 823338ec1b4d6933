"""Checks of a party's folder and surroundings: each says one line, and what to do where something is wrong.

Each is a small function of what it looks at, so that it can be tried without a server or a network.
"""

import resource
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from hortus.parties.card import load_card
from hortus.parties.expiry import Expiry, Urgency, expiries
from hortus.parties.fingerprint import roster_words
from hortus.parties.folders import ServerConfig, ServerFiles, SiteFiles, host_and_port
from hortus.parties.reach import Reached, resolve
from hortus.protocol.certificates import is_certificate_of
from hortus.protocol.identity import Roster
from hortus.runtime.errors import HortusError
from hortus.runtime.locks import is_held
from hortus.runtime.names import SERVER

_FEW_BYTES, _LITTLE_BYTES = 200 * 2**20, 2 * 2**30
_FEW_FILES = 1024


class Outcome(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNTRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Check:
    """One line.

    Attributes:
        what: What was checked.
        verdict: The outcome.
        said: One sentence.
        remedy: What to do about it; empty if there is nothing to do.
    """

    what: str
    verdict: Outcome
    said: str
    remedy: str = ""


def of_reaching(what: str, found: Reached, good: str) -> Check:
    """Makes a line of how far one came on the way to a server."""
    if found.problem:
        return Check(what, Outcome.PROBLEM, found.problem, found.remedy)
    return Check(what, Outcome.OK, good)


def guarded(what: str, look: Callable[[], Check]) -> Check:
    """Makes a line of a check that may raise one of our errors."""
    try:
        return look()
    except HortusError as error:
        where = f"{error.where}: " if error.where else ""
        return Check(what, Outcome.PROBLEM, where + error.problem, error.remedy or "")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Check(what, Outcome.PROBLEM, where + (error.strerror or str(error)))


def check_keys(modes: Mapping[Path, int]) -> Check:
    """Only their owner can read the keys.

    Args:
        modes: Permission bits of each key's file, and of the folders that they lie in.
    """
    open_ = [path for path, mode in modes.items() if stat.S_IMODE(mode) & 0o077]
    if not open_:
        return Check("keys", Outcome.OK, "nobody else can read them")
    names = " ".join(map(str, open_))
    return Check(
        "keys",
        Outcome.PROBLEM,
        f"other users may read or change {', '.join(map(str, open_))}",
        f"chmod go= {names}; if somebody may have read a key, hortus rotate makes new ones.",
    )


def key_modes(files: SiteFiles | ServerFiles) -> dict[Path, int]:
    """Returns the permissions of a party's secret files."""
    folders = [files.identity.parent]
    secret = [path for folder in folders for path in folder.glob("*") if path.is_file()]
    secret += [files.tls.key, files.tls.next_key]
    if isinstance(files, ServerFiles):
        secret += list(files.authority.rglob("*.key"))
    return {path: path.stat().st_mode for path in secret if path.exists()}


def check_certificates(found: Iterable[Expiry], now: datetime) -> Iterator[Check]:
    """No certificate ends soon."""
    for expiry in found:
        what, urgency = f"certificate of {expiry.whose}", expiry.urgency(now)
        days = (expiry.expires - now).days
        if urgency is Urgency.EXPIRED:
            said = f"expired on {expiry.expires:%Y-%m-%d}"
            yield Check(what, Outcome.PROBLEM, said, expiry.remedy)
        elif urgency is Urgency.FAR:
            yield Check(what, Outcome.OK, f"valid until {expiry.expires:%Y-%m-%d}")
        else:
            yield Check(what, Outcome.WARNING, f"ends in {days} days", expiry.remedy)


def check_certificate(files: SiteFiles | ServerFiles) -> Check:
    """There is a certificate, and it belongs to the key beside it."""
    what = "TLS certificate"
    if not files.tls.certificate.exists():
        return Check(
            what,
            Outcome.PROBLEM,
            "the server has not issued one yet",
            f"It adds this site's card; then: hortus roster add {files.directory} server.card.yaml",
        )
    if not is_certificate_of(files.tls.certificate.read_bytes(), files.tls.key):
        return Check(
            what,
            Outcome.PROBLEM,
            "it does not belong to the key beside it: a renewal was interrupted",
            "Repeat it: hortus roster add (at a site), hortus rotate tls (at the server).",
        )
    return Check(what, Outcome.OK, "it belongs to the key beside it")


def check_roster(path: Path) -> Check:
    """Checks the roster, and shows it in words to compare with the others'."""
    if not path.exists():
        return Check(
            "roster",
            Outcome.PROBLEM,
            "nobody is pinned yet",
            "hortus roster add DIR with the others' cards.",
        )
    words = roster_words(Roster.load(path))
    return Check(
        "roster", Outcome.OK, f"the same words at every party with the same roster: {words}"
    )


def check_cards(roster: Roster, keys: Mapping[str, bytes]) -> Check:
    """Cards that lie in the folder are of the keys that are pinned.

    Args:
        roster: What is pinned.
        keys: The key on each party's card, by name.
    """
    pinned = {SERVER: roster.server, **roster.sites}
    other = sorted(name for name, key in keys.items() if pinned.get(name, key) != key)
    unknown = sorted(keys.keys() - pinned.keys())
    if other:
        return Check(
            "cards",
            Outcome.PROBLEM,
            f"the card of {', '.join(other)} has a different key than the roster",
            "Ask its owner, by telephone, which one is right; hortus roster add takes up a new card.",
        )
    if unknown:
        return Check(
            "cards",
            Outcome.WARNING,
            f"{', '.join(unknown)} has a card here, but is not pinned",
            "hortus roster add takes it up.",
        )
    return Check("cards", Outcome.OK, "those in the folder have the keys that are pinned")


def card_keys(directory: Path) -> dict[str, bytes]:
    """Returns the key on each card in a folder, by the name of its party."""
    cards = {path.name.removesuffix(".card.yaml"): path for path in directory.glob("*.card.yaml")}
    return {name: load_card(path).key for name, path in sorted(cards.items())}


def check_disk(free: int) -> Check:
    """There is room for a ledger, logs and a model's outputs.

    Args:
        free: Bytes that may still be written.
    """
    told = f"{free / 2**30:.1f} GiB free"
    if free < _FEW_BYTES:
        remedy = "Make room: a site that cannot write its ledger takes no part."
        return Check("disk", Outcome.PROBLEM, told, remedy)
    if free < _LITTLE_BYTES:
        return Check("disk", Outcome.WARNING, told, "Make room before a long run.")
    return Check("disk", Outcome.OK, told)


def free_bytes(directory: Path) -> int:
    """Returns the bytes that may still be written where a folder lies."""
    return shutil.disk_usage(directory).free


def check_open_files(hard: int, needed: int) -> Check:
    """A process may have enough files open; Hortus raises its own limit to the hard one.

    Args:
        hard: The hard limit; `resource.RLIM_INFINITY` without one.
        needed: Files that may be open at once.
    """
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return Check("open files", Outcome.OK, f"enough for {needed}")
    remedy = "Raise it: ulimit -Hn, or LimitNOFILE= of a service."
    return Check(
        "open files", Outcome.PROBLEM, f"{hard} are allowed, {needed} may be needed", remedy
    )


def open_files_limit() -> int:
    """Returns the hard limit of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def needed_files(sites: int) -> int:
    """Returns how many files a party of a consortium of this many sites may have open."""
    return _FEW_FILES + 8 * sites


def check_listening(what: str, address: str, *, runs: bool) -> Check:
    """The server can listen on its port, or already does."""
    if runs:
        return Check(what, Outcome.OK, f"{address}, where the server is running")
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        said = f"cannot listen on {address}: {error.strerror or error}"
        remedy = "Stop the program that listens there, or change the address in server.yaml."
        return Check(what, Outcome.PROBLEM, said, remedy)
    return Check(what, Outcome.OK, f"{address} is free")


def check_server(files: ServerFiles, now: datetime) -> Iterator[Check]:
    """Checks all of a server's folder that needs no plan.

    Raises:
        UsageError: server.yaml is not there or wrong.
    """
    config = ServerConfig.load(files.config)
    runs = is_held(files.lock)
    yield Check("server", Outcome.OK, "it runs" if runs else "it does not run")
    yield from check_party(files, now)
    for what, address in (("aggregation", config.aggregation), ("superlink", config.superlink)):
        yield guarded(what, lambda w=what, a=address: check_listening(w, a, runs=runs))  # type: ignore[misc]
        host, _ = host_and_port(config.dialled(address))
        found = resolve(host)
        yield of_reaching(f"name for {what}", found, f"{host} resolves to an address")
    roster = Roster.load(files.roster) if files.roster.exists() else None
    sites = roster.sites if roster else {}
    missing = [name for name in sites if not files.flower_key(name).exists()]
    if missing:
        remedy = f"hortus roster add {files.directory} with their cards."
        yield Check(
            "sites", Outcome.PROBLEM, f"the Flower keys of {', '.join(missing)} are missing", remedy
        )
    elif len(sites) < 2:
        remedy = f"hortus roster add {files.directory} CARD…"
        yield Check("sites", Outcome.WARNING, f"{len(sites)} in the roster", remedy)
    else:
        yield Check("sites", Outcome.OK, ", ".join(sites))
    yield check_open_files(open_files_limit(), needed_files(len(sites)))


def check_party(files: SiteFiles | ServerFiles, now: datetime) -> Iterator[Check]:
    """Checks what a site's folder and the server's have in common."""
    yield guarded("keys", lambda: check_keys(key_modes(files)))
    yield guarded("TLS certificate", lambda: check_certificate(files))
    try:
        yield from check_certificates(expiries(files), now)
    except HortusError as error:
        yield Check("certificates", Outcome.PROBLEM, str(error))
    yield guarded("roster", lambda: check_roster(files.roster))
    if files.roster.exists():
        roster, folder = files.roster, files.directory
        yield guarded("cards", lambda: check_cards(Roster.load(roster), card_keys(folder)))
    yield guarded("disk", lambda: check_disk(free_bytes(files.directory)))
