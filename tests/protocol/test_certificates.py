"""Certificates of the consortium: two ends shake hands, and no certificate does another's work."""

import base64
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import NameOID

from hortus.protocol.certificates import (
    certify,
    create_authority,
    create_flower_key,
    create_request,
    is_certificate_of,
)
from hortus.runtime.errors import UsageError

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    create_authority(tmp_path / "authority", NOW)
    return tmp_path / "authority"


def pem(kind: str, der: bytes | bytearray) -> str:
    text = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n"


def _context(purpose: ssl.Purpose, authority: Path, node: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=str(authority / "ca.crt"))
    context.load_cert_chain(node / "node.crt", node / "node.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _issue(authority: Path, name: str, *, server: bool) -> Path:
    node = authority.parent / name
    request = create_request(name, node / "node.key")
    hosts = ("localhost", "127.0.0.1") if server else ()
    certificate = certify(authority, request, name, NOW, hosts=hosts)
    (node / "node.crt").write_bytes(certificate)
    assert is_certificate_of(certificate, node / "node.key")
    return node


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """Returns the common name that the server sees."""
    ours, theirs = socket.socketpair()
    seen: list[str] = []

    def serve() -> None:
        try:
            with ours, server.wrap_socket(ours, server_side=True) as end:
                end.recv(1)
                certificate = end.getpeercert()
                assert certificate is not None
                seen.append(dict(part[0] for part in certificate["subject"])["commonName"])  # type: ignore[misc]
                end.send(b"!")
        except (ssl.SSLError, OSError):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with theirs, client.wrap_socket(theirs, server_hostname=host) as end:
            end.send(b"?")
            if not end.recv(1):
                raise ssl.SSLError("closed")
    finally:
        thread.join()
    return seen[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_site_and_the_server_shake_hands(authority: Path, host: str) -> None:
    server = _context(ssl.Purpose.CLIENT_AUTH, authority, _issue(authority, "server", server=True))
    client = _context(ssl.Purpose.SERVER_AUTH, authority, _issue(authority, "site-a", server=False))
    assert _shake_hands(server, client, host) == "site-a"


def test_a_site_cannot_pass_for_the_server(authority: Path) -> None:
    impostor = _context(
        ssl.Purpose.CLIENT_AUTH, authority, _issue(authority, "localhost", server=False)
    )
    client = _context(ssl.Purpose.SERVER_AUTH, authority, _issue(authority, "site-a", server=False))
    with pytest.raises(ssl.SSLError):
        _shake_hands(impostor, client, "localhost")


def test_a_certificate_of_another_authority_is_refused(authority: Path, tmp_path: Path) -> None:
    create_authority(tmp_path / "other" / "authority", NOW)
    foreign = _issue(tmp_path / "other" / "authority", "site-a", server=False)
    server = _context(ssl.Purpose.CLIENT_AUTH, authority, _issue(authority, "server", server=True))
    client = _context(ssl.Purpose.SERVER_AUTH, authority, foreign)
    with pytest.raises((ssl.SSLError, OSError)):
        _shake_hands(server, client, "localhost")


def test_validity_and_modes_are_as_documented(authority: Path) -> None:
    node = _issue(authority, "site-a", server=False)
    certificate = x509.load_pem_x509_certificate((node / "node.crt").read_bytes())
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW - timedelta(hours=1) + timedelta(days=825)
    for key in (node / "node.key", authority / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_authority_is_not_replaced_and_must_be_whole(authority: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already"):
        create_authority(authority, NOW)
    with pytest.raises(UsageError, match="no usable certificate authority"):
        _issue(tmp_path / "nowhere", "site-a", server=False)
    create_authority(tmp_path / "second", NOW)
    (authority / "ca.key").write_bytes((tmp_path / "second" / "ca.key").read_bytes())
    with pytest.raises(UsageError, match="does not belong"):
        _issue(authority, "site-a", server=False)


def test_a_request_that_was_altered_or_asks_for_another_name_is_refused(
    authority: Path, tmp_path: Path
) -> None:
    request = create_request("site-a", tmp_path / "a.key")
    with pytest.raises(UsageError, match=r"^site-b: .* is for 'CN=site-a'"):
        certify(authority, request, "site-b", NOW)
    der = bytearray(x509.load_pem_x509_csr(request.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(UsageError, match="signed by the key"):
        certify(authority, pem("CERTIFICATE REQUEST", der), "site-a", NOW)
    with pytest.raises(UsageError, match="not a certificate signing request"):
        certify(authority, request[:200], "site-a", NOW)


def test_a_certificate_takes_nothing_but_name_and_key_from_its_request(
    authority: Path, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site-a")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("server")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    request = greedy.public_bytes(Encoding.PEM).decode()
    issued = x509.load_pem_x509_certificate(certify(authority, request, "site-a", NOW))
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["site-a"]


def test_a_flower_key_is_what_flower_reads(tmp_path: Path) -> None:
    private = tmp_path / "flower.pem"
    public = create_flower_key(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    key = load_ssh_private_key(private.read_bytes(), None)
    assert load_ssh_public_key(public.encode()) == key.public_key()
