"""A consortium's own certificate authority, for mutual TLS between sites and server.

TLS only shows who is connected. Which keys the secure sum trusts is the pinned roster's business,
so whoever holds the authority's key can disturb a session, not read one.
"""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hortus.protocol import lifetimes
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic, write_private

_CLOCK_SKEW = timedelta(hours=1)
# What `cryptography` raises for keys, requests and certificates that are damaged, encrypted or exotic.
UNREADABLE = (
    ValueError,
    TypeError,
    NotImplementedError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
)


def create_authority(directory: Path, now: datetime) -> None:
    """Makes a certificate authority: ca.crt and ca.key (EC P-384, ten years).

    Args:
        directory: Where to write; only the operator who issues certificates needs it.
        now: The time, with its zone.

    Raises:
        UsageError: The folder has one already; a replacement would lock every site out.
    """
    if (directory / "ca.key").exists():
        raise UsageError("the folder already has a certificate authority", where=str(directory))
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("Hortus consortium authority")
    builder = (
        _builder(name, name, key.public_key(), now, lifetimes.AUTHORITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    write_private(directory / "ca.key", _pem(key))
    certificate = builder.sign(key, hashes.SHA384())
    write_atomic(directory / "ca.crt", certificate.public_bytes(Encoding.PEM))


def create_request(common_name: str, key: Path) -> str:
    """Makes a TLS key (EC P-256) and asks for a certificate of it.

    Args:
        common_name: The site's name, which the server sees as the caller; or the server's.
        key: Where to write the private key, PKCS #8 PEM, mode 0600; it never goes anywhere else.

    Returns:
        The certificate signing request, PEM.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    write_private(key, _pem(private))
    return renew_request(common_name, key)


def renew_request(common_name: str, key: Path) -> str:
    """Returns a certificate signing request, PEM, for a key that `create_request` made.

    Raises:
        UsageError: The file is no such key.
    """
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, *UNREADABLE) as error:
        raise UsageError("this is not a private key in PEM", where=str(key)) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise UsageError("this is a private key, but not for an elliptic curve", where=str(key))
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name))
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def check_request(request: str, common_name: str) -> bytes:
    """Checks that a request is whole, and signed with the key that it is for.

    Returns:
        The public key that asks, DER.

    Raises:
        UsageError: It is not, or asks for another name.
    """
    return _public_der(_requested_key(request, common_name))


def certify(
    authority_dir: Path,
    request: str,
    common_name: str,
    now: datetime,
    *,
    hosts: Sequence[str] = (),
) -> bytes:
    """Issues a certificate for `lifetimes.CERTIFICATE`. Of the request, only name and key are taken over.

    Args:
        authority_dir: Where `create_authority` wrote.
        request: A certificate signing request, PEM.
        common_name: The name that it must ask for.
        now: The time, with its zone.
        hosts: DNS names and IP addresses that a server is dialled at. A certificate with any of them proves a server's
            identity, one without proves a site's; neither can stand in for the other.

    Returns:
        The certificate, PEM.

    Raises:
        UsageError: There is no usable authority in `authority_dir`, the request is not what it
            should be, or a host is not a valid host name.
    """
    return _issue(authority_dir, _requested_key(request, common_name), common_name, now, hosts)


def certify_again(
    authority_dir: Path, certificate: bytes, common_name: str, now: datetime
) -> bytes:
    """Issues a site's certificate, PEM, for the key in one that it has; see `certify`.

    Raises:
        UsageError: There is no usable authority in `authority_dir`, or this is not a certificate.
    """
    key = _key_in(certificate, common_name)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError("its certificate is not for an elliptic curve key", where=common_name)
    return _issue(authority_dir, key, common_name, now, ())


def _issue(
    authority_dir: Path,
    public: ec.EllipticCurvePublicKey,
    common_name: str,
    now: datetime,
    hosts: Sequence[str],
) -> bytes:
    authority, signing_key = _load_authority(authority_dir)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    names = [_host(host) for host in hosts or [common_name]]
    builder = (
        _builder(authority.subject, _name(common_name), public, now, lifetimes.CERTIFICATE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(signing_key, hashes.SHA384()).public_bytes(Encoding.PEM)


def is_certificate_of(certificate: bytes, key: Path) -> bool:
    """Returns whether a certificate, PEM, is for the private key in a file."""
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
        public = _key_in(certificate, str(key))
    except (OSError, UsageError, *UNREADABLE):
        return False
    return _public_der(public) == _public_der(private.public_key())


def load_certificate(certificate: bytes, where: str) -> x509.Certificate:
    """Reads a certificate, PEM.

    Raises:
        UsageError: It is not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(certificate)
    except UNREADABLE as error:
        raise UsageError("this is not a certificate in PEM", where=where) from error


def certified_key(certificate: bytes, where: str) -> bytes:
    """Returns the public key, DER, of a certificate, PEM."""
    return _public_der(_key_in(certificate, where))


def _key_in(certificate: bytes, where: str) -> CertificatePublicKeyTypes:
    loaded = load_certificate(certificate, where)
    try:
        return loaded.public_key()
    except UNREADABLE as error:
        raise UsageError("its certificate is for a key that cannot be used", where=where) from error


def create_flower_key(path: Path) -> str:
    """Makes the key that a SuperNode authenticates with to Flower's SuperLink (EC P-384, OpenSSH).

    Args:
        path: Where to write the private key, mode 0600.

    Returns:
        The public key, one line.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return flower_public_key(path)


def flower_public_key(path: Path) -> str:
    """Returns the public half, one line, of a key that `create_flower_key` made.

    Raises:
        UsageError: The file is no such key.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, *UNREADABLE) as error:
        raise UsageError("this is not an OpenSSH private key", where=str(path)) from error
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _requested_key(request: str, common_name: str) -> ec.EllipticCurvePublicKey:
    try:
        loaded = x509.load_pem_x509_csr(request.encode())
        key = loaded.public_key()
        is_signed = loaded.is_signature_valid
    except UNREADABLE as error:
        raise UsageError(
            "this is not a certificate signing request in PEM", where=common_name
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not is_signed:
        raise UsageError(
            "its certificate signing request is not signed by the key that it is for",
            where=common_name,
        )
    if loaded.subject != _name(common_name):
        raise UsageError(
            f"its certificate signing request is for {loaded.subject.rfc4514_string()!r}",
            where=common_name,
        )
    return key


def _load_authority(
    directory: Path,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        key = load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    except (OSError, *UNREADABLE) as error:
        raise UsageError(
            "the folder has no usable certificate authority (ca.crt and ca.key)",
            where=str(directory),
        ) from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise UsageError("ca.key does not belong to ca.crt", where=str(directory))
    return certificate, key


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    start = now - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise UsageError(f"{host!r} is neither a host name nor an IP address") from error


def _public_der(key: CertificatePublicKeyTypes | PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
