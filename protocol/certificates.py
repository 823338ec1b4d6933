"""A consortium's own certificate authority, for mutual TLS between sites and server.

TLS only says who is connected. Which keys the secure sum trusts is the pinned roster's business,
so whoever holds the authority's key can disturb a session, not read one.
"""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hortus.protocol.errors import UsageError
from hortus.protocol.files import write_atomic, write_private

_CLOCK_SKEW = timedelta(hours=1)
_LIFETIME = timedelta(days=825)
_AUTHORITY_LIFETIME = timedelta(days=3650)


def create_authority(directory: Path, now: datetime) -> None:
    """Makes a certificate authority: ca.crt and ca.key (EC P-384, ten years).

    Args:
        directory: Where to write; only the operator who issues certificates needs it.
        now: The time, with its zone.

    Raises:
        UsageError: There is one already: replacing it would lock every site out.
    """
    if (directory / "ca.key").exists():
        raise UsageError("there is an authority already", where=str(directory))
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("Hortus consortium authority")
    builder = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    write_private(directory / "ca.key", _pem(key))
    certificate = builder.sign(key, hashes.SHA384())
    write_atomic(directory / "ca.crt", certificate.public_bytes(Encoding.PEM))


def issue(
    authority_dir: Path,
    common_name: str,
    certificate: Path,
    key: Path,
    now: datetime,
    *,
    server: bool,
    hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
) -> None:
    """Issues a certificate and its key (EC P-256, 825 days).

    Args:
        authority_dir: Where `create_authority` wrote.
        common_name: The site's name, which the server sees as the caller; or the server's.
        certificate: Where to write the certificate, PEM.
        key: Where to write the private key, PKCS #8 PEM, mode 0600.
        now: The time, with its zone.
        server: Whether it proves a server. A site's certificate cannot, and the other way round.
        hosts: DNS names and IP addresses that a server is dialled at; a site needs none.

    Raises:
        UsageError: There is no usable authority in `authority_dir`, or a host is no host name.
    """
    authority, signing_key = _load_authority(authority_dir)
    private = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    names = [_host(host) for host in (hosts if server else [common_name])]
    builder = (
        _builder(authority.subject, _name(common_name), private.public_key(), now, _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    write_private(key, _pem(private))
    write_atomic(certificate, builder.sign(signing_key, hashes.SHA384()).public_bytes(Encoding.PEM))


def create_flower_key(path: Path) -> Path:
    """Makes the key that a SuperNode authenticates with to Flower's SuperLink (EC P-384, OpenSSH).

    Args:
        path: Where to write the private key, mode 0600.

    Returns:
        Path of the public key, beside it.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    public = path.with_suffix(".pub")
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_atomic(public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return public


def _load_authority(
    directory: Path,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        key = load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            "there is no usable certificate authority here: ca.crt and ca.key",
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
        raise UsageError(f"{host!r} is no host name and no IP address") from error


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
