"""Each check is a function of what it looks at, and says what to do where something is wrong."""

import resource
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hortus.parties.checks import (
    Outcome,
    check_cards,
    check_certificates,
    check_disk,
    check_keys,
    check_listening,
    check_open_files,
    guarded,
    needed_files,
    of_reaching,
)
from hortus.parties.expiry import Expiry
from hortus.parties.reach import Reached
from hortus.protocol.identity import Roster
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
OK, WARNING, PROBLEM = Outcome.OK, Outcome.WARNING, Outcome.PROBLEM


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o100600, OK),
        (0o100400, OK),
        (0o100640, PROBLEM),
        (0o100604, PROBLEM),
        (0o100620, PROBLEM),
        (0o100777, PROBLEM),
    ],
)
def test_keys_are_for_their_owner_alone(mode: int, expected: Outcome) -> None:
    found = check_keys({Path("keys/a.pem"): 0o100600, Path("keys/b.pem"): mode})
    assert found.verdict is expected
    assert ("chmod go= keys/b.pem" in found.remedy) == (expected is PROBLEM)


@pytest.mark.parametrize(
    ("left", "expected", "said"),
    [
        (timedelta(days=400), OK, "valid until 2028-01-01"),
        (timedelta(days=59), WARNING, "ends in 59 days"),
        (timedelta(days=6), WARNING, "ends in 6 days"),
        (timedelta(seconds=-1), PROBLEM, "expired on 2026-11-27"),
    ],
)
def test_certificates_that_end_soon_are_told_with_the_command(
    left: timedelta, expected: Outcome, said: str
) -> None:
    expiry = Expiry("this site", Path("node.crt"), NOW + left, "hortus rotate tls north")
    (found,) = check_certificates([expiry], NOW)
    assert (found.verdict, found.said) == (expected, said)
    assert bool(found.remedy) == (expected is not OK)


@pytest.mark.parametrize(
    ("keys", "expected", "said"),
    [
        ({SERVER: b"s", "ash": b"a"}, OK, "have the keys that are pinned"),
        ({}, OK, "have the keys that are pinned"),
        ({SERVER: b"x"}, PROBLEM, "the card of server has a different key"),
        ({"ash": b"x", "birch": b"b"}, PROBLEM, "the card of ash has a different key"),
        ({"cedar": b"c"}, WARNING, "cedar has a card here, but is not pinned"),
    ],
)
def test_cards_are_of_the_keys_that_are_pinned(
    keys: dict[str, bytes], expected: Outcome, said: str
) -> None:
    roster = Roster({"ash": b"a" * 32, "birch": b"b" * 32}, b"s" * 32)
    found = check_cards(roster, {name: 32 * key for name, key in keys.items()})
    assert found.verdict is expected
    assert said in found.said


@pytest.mark.parametrize(
    ("free", "expected"), [(2**20, PROBLEM), (2**30, WARNING), (50 * 2**30, OK)]
)
def test_little_room_is_told(free: int, expected: Outcome) -> None:
    assert check_disk(free).verdict is expected


@pytest.mark.parametrize(
    ("hard", "expected"),
    [(256, PROBLEM), (1024, PROBLEM), (4096, OK), (resource.RLIM_INFINITY, OK)],
)
def test_a_low_limit_of_open_files_is_told(hard: int, expected: Outcome) -> None:
    found = check_open_files(hard, needed_files(60))
    assert found.verdict is expected
    assert ("LimitNOFILE" in found.remedy) == (expected is PROBLEM)


def test_a_port_that_another_program_has_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert check_listening("superlink", address, runs=False).verdict is PROBLEM
        assert check_listening("superlink", address, runs=True).verdict is OK
    assert check_listening("superlink", address, runs=False).verdict is OK
    assert check_listening("superlink", "203.0.113.7:1", runs=False).verdict is PROBLEM


def test_what_a_check_raises_is_a_line_as_well() -> None:
    def broken() -> None:
        raise UsageError("it is odd", where="site.yaml", remedy="Mend it.")

    def missing() -> None:
        Path("/no/such/file").read_bytes()

    found = guarded("config", broken)  # type: ignore[arg-type]
    assert (found.verdict, found.said, found.remedy) == (
        PROBLEM,
        "site.yaml: it is odd",
        "Mend it.",
    )
    found = guarded("keys", missing)  # type: ignore[arg-type]
    assert found.said == "/no/such/file: No such file or directory"


def test_what_was_found_on_the_way_is_put_beside_its_remedy() -> None:
    assert of_reaching("TLS", Reached("no", "do"), "good").remedy == "do"
    assert of_reaching("TLS", Reached(), "good").said == "good"
