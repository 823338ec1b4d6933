"""Keys are written safely, signatures hold for one purpose, and the roster names who is wrong."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hortus.protocol.identity import Identity, Roster, is_signed
from hortus.runtime.errors import HortusError, ProtocolError, UsageError
from hortus.runtime.files import write_atomic, write_private
from hortus.runtime.names import SERVER


def test_a_written_identity_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "identity.pem"
    created = Identity.create("clinic-a", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Identity.load(path, "clinic-a").public_key_bytes == created.public_key_bytes
    assert list(path.parent.iterdir()) == [path]  # no temporary file is left


def test_an_identity_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    Identity.create("clinic-a", path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not replaced"):
        Identity.create("clinic-a", path)
    assert path.read_bytes() == before


def test_the_private_key_is_not_in_its_repr() -> None:
    assert repr(Identity.generate("clinic-a")) == "Identity(site='clinic-a', handovers=())"


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff\x00"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a private key"):
        Identity.load(path, "clinic-a")


def test_a_missing_or_foreign_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Identity.load(tmp_path / "missing.pem", "clinic-a")
    other = generate_private_key(SECP256R1())
    path = tmp_path / "ec.pem"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="not an Ed25519 one"):
        Identity.load(path, "clinic-a")


def test_a_signature_holds_for_its_context_message_and_key_alone() -> None:
    identity = Identity.generate("clinic-a")
    signature = identity.sign("ledger", b"head")
    key = identity.public_key_bytes
    assert is_signed(key, "ledger", b"head", signature)
    assert not is_signed(key, "plan", b"head", signature)
    assert not is_signed(key, "ledger", b"tail", signature)
    assert not is_signed(Identity.generate("b").public_key_bytes, "ledger", b"head", signature)
    assert not is_signed(key, "ledger", b"head", signature[:-1])
    assert not is_signed(b"short", "ledger", b"head", signature)


SERVER_KEY = Identity.generate(SERVER).public_key_bytes


def test_the_roster_says_whose_signature_does_not_fit() -> None:
    a, b = Identity.generate("a"), Identity.generate("b")
    roster = Roster({"a": a.public_key_bytes, "b": b.public_key_bytes}, SERVER_KEY)
    roster.verify("a", "x", b"m", a.sign("x", b"m"))
    with pytest.raises(ProtocolError, match=r"^b: its signature of the x"):
        roster.verify("b", "x", b"m", a.sign("x", b"m"))
    with pytest.raises(ProtocolError, match=r"^c: .*not in the pinned roster"):
        roster.verify("c", "x", b"m", a.sign("x", b"m"))


def test_a_roster_reads_back(tmp_path: Path) -> None:
    roster = Roster(
        {name: Identity.generate(name).public_key_bytes for name in ("a", "b", "no")},
        SERVER_KEY,
    )
    roster.save(tmp_path / "roster.yaml")
    assert Roster.load(tmp_path / "roster.yaml") == roster


def test_a_key_of_digits_alone_reads_back_as_text(tmp_path: Path) -> None:
    roster = Roster({"a": b"\x12" * 32}, b"\x34" * 32)
    roster.save(tmp_path / "roster.yaml")
    assert Roster.load(tmp_path / "roster.yaml") == roster


def test_the_servers_signature_is_checked_against_its_own_key() -> None:
    server, site = Identity.generate(SERVER), Identity.generate("a")
    roster = Roster({"a": site.public_key_bytes}, server.public_key_bytes)
    roster.verify_server("x", b"m", server.sign("x", b"m"))
    with pytest.raises(ProtocolError, match=r"^server: its signature of the x"):
        roster.verify_server("x", b"m", site.sign("x", b"m"))
    with pytest.raises(ProtocolError, match="not in the pinned roster"):
        roster.verify(SERVER, "x", b"m", server.sign("x", b"m"))


def test_the_server_is_no_site_and_no_site_the_server() -> None:
    key = Identity.generate("a").public_key_bytes
    with pytest.raises(UsageError, match="the server's name"):
        Roster({SERVER: key}, SERVER_KEY)
    with pytest.raises(UsageError, match="a: the key is also server's"):
        Roster({"a": key}, key)


KEY_A, KEY_B = "aa" * 32, "bb" * 32
TOP = "server: " + "cc" * 32 + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("- a", "is a list"),
        ("sites: [a", "line 1: this is not YAML"),
        ("sites:\n  a: " + KEY_A + "\n  a: " + KEY_B, "line 3: .*comes twice"),
        (TOP + "sites:\n  a: " + KEY_A + "\n  b: " + KEY_A, "b: the key is also a's"),
        (TOP + "sites:\n  a: abcd", "sites.a: the public key is 'abcd'"),
        (TOP + "sites:\n  a: " + "12" * 32, "in quotes"),
        (TOP + "sites:\n  A: " + KEY_A, "'A' cannot name a site"),
        ("sites:\n  1: " + KEY_A, "line 2: .*put it in quotes"),
        ("server: abcd\nsites:\n  a: " + KEY_A, "server: the public key is 'abcd'"),
        (TOP + "sites: {}\nmore: 1", "a roster has `server`"),
        ("sites:\n  a: " + KEY_A, "a roster has `server`"),
        ("x: \x07", "line 1: this is not YAML"),
    ],
)
def test_a_wrong_roster_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "roster.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        Roster.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_utf8_is_located(tmp_path: Path) -> None:
    path = tmp_path / "roster.yaml"
    path.write_bytes(b"sites:\n  # B\xfchler\n")
    with pytest.raises(UsageError, match=r"line 2: byte 0xfc is not UTF-8"):
        Roster.load(path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Roster.load(tmp_path / "roster.yaml")


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a" * 64, "a\n", "ä"])
def test_names_that_cannot_name_a_site_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a site"):
        Identity.generate(name)


def test_a_write_replaces_the_file_whole_and_fails_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "folder").mkdir()
    with pytest.raises(HortusError, match="folder: it cannot be written"):
        write_atomic(tmp_path / "folder", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
