"""Why a SuperNode has no connection stands in the agent's log, once, and where `hortus status` looks."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hortus.client.site.connection import (
    ConnectionBook,
    Link,
    end_of,
    read_connection,
    said_by_supernode,
)
from hortus.parties.folders import SiteFiles
from hortus.parties.reach import Reached

SERVER = "hub.example:9092"
NOW = datetime(2026, 11, 27, tzinfo=UTC)
# What Flower 1.41 writes, colours and all.
START = (
    "\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode\nINFO:     Started server process [7]\n"
)
UP = START + "\x1b[92mINFO \x1b[0m:      SuperNode ID: 8548300627478712328\n"
FAILS = "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.38 seconds\n"
BACK = "INFO :      Connection successful after 3.20 seconds and 4 tries.\n"


def ended(reason: str) -> str:
    return (
        f"{START}\x1b[91mERROR \x1b[0m:     Exit Code: 305\n"
        f"Failed to initialize the connection to the SuperLink.\n{reason}\n"
        "The SuperNode could not establish a connection to the SuperLink.\n"
    )


VERIFY = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "


@pytest.mark.parametrize(
    ("log", "link", "told"),
    [
        ("", Link.TRYING, ""),
        (START, Link.TRYING, ""),
        (UP, Link.UP, ""),
        (START + FAILS, Link.TRYING, "the connection to hub.example:9092 fails"),
        (UP + FAILS, Link.TRYING, "the connection to hub.example:9092 was lost"),
        (UP + FAILS + BACK, Link.UP, ""),
        (
            ended(f"{VERIFY}unable to get local issuer certificate (_ssl.c:1006)"),
            Link.DOWN,
            "presents a certificate from a different authority",
        ),
        (
            ended(f"{VERIFY}Hostname mismatch, certificate is not valid for 'vm'. (_ssl.c:1006)"),
            Link.DOWN,
            "for another name or address",
        ),
        (
            ended(f"{VERIFY}certificate is not yet valid (_ssl.c:1006)"),
            Link.DOWN,
            "is not valid yet, and this machine's clock says 2026-11-27",
        ),
        (
            ended("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
            Link.DOWN,
            "does not use TLS as the server does: wrong version number",
        ),
        (
            ended("[code: 2004] Failed to activate SuperNode."),
            Link.DOWN,
            "has not let this site in",
        ),
        # What an earlier start said is over.
        (ended("[code: 2004] Failed to activate SuperNode.") + UP, Link.UP, ""),
        (UP + ended(f"{VERIFY}certificate has expired (_ssl.c:1006)"), Link.DOWN, "has expired"),
    ],
)
def test_a_supernodes_log_is_put_into_words(log: str, link: Link, told: str) -> None:
    found_link, found = said_by_supernode(log, SERVER, NOW)
    assert found_link is link
    assert told in found.problem
    assert bool(found.problem) == bool(told) == bool(found.remedy)


def test_a_reason_is_said_once_and_kept_until_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, time = SiteFiles(tmp_path), iter(range(1, 100))
    book = ConnectionBook(files, SERVER, lambda: float(next(time)))
    down = Reached("nothing listens at hub.example, port 9092", "Start it.")
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            book.note(Link.DOWN, down)
            book.note(Link.TRYING, Reached())  # each new SuperNode begins by saying nothing
        assert caplog.messages == ["Nothing listens at hub.example, port 9092. Start it."]
        kept = read_connection(files)
        assert kept is not None
        assert (kept.link, kept.problem, kept.since) == (Link.DOWN, down.problem, 2.0)
        assert book.reason() == down.problem
        book.note(Link.UP, Reached())
        book.note(Link.UP, Reached())
    assert caplog.messages[1:] == ["is connected to the server at hub.example:9092"]
    assert book.reason() is None
    found = read_connection(files)
    assert found is not None
    assert (found.link, found.problem) == (Link.UP, "")


def test_a_file_that_cannot_be_read_or_written_stops_nothing(tmp_path: Path) -> None:
    files = SiteFiles(tmp_path)
    assert read_connection(files) is None
    book = ConnectionBook(files, SERVER, lambda: 1.0)
    for damaged in (b"", b"{", b'{"link": "odd"}', b"\xff"):
        files.connection.write_bytes(damaged)
        assert read_connection(files) is None
    files.connection.unlink()
    files.connection.parent.rmdir()
    book.note(Link.UP, Reached())
    assert book.reason() is None
    assert end_of(tmp_path / "none.log") == ""
    (tmp_path / "long.log").write_bytes(b"a" * 50_000 + b"\xffend")
    assert end_of(tmp_path / "long.log").endswith("\N{REPLACEMENT CHARACTER}end")
