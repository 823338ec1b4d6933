"""A consortium's own certificate authority, for mutual TLS between sites and server.

TLS only says who is connected. Which keys the secure sum trusts is the pinned roster's business,
so whoever holds the authority's key can disturb a session, not read one.
"""

import datetime
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hortus.protocol.errors import UsageError
from hortus.protocol.files import write_atomic, write_private

# Seconds since the epoch.
Clock = Callable[[], float]

_CLOCK_SKEW = datetime.timedelta(hours=1)
_LIFETIME = datetime.timedelta(days=825)
_AUTHORITY_LIFETIME = datetime.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The TLS files in a directory.

    Attributes:
        directory: Where they lie.
    """

    directory: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.crt"

    @property
    def authority_key(self) -> Path:
        """The authority's private key; only where certificates are issued."""
        return self.directory / "ca.key"

    @property
    def certificate(self) -> Path:
        """The holder's certificate."""
        return self.directory / "tls.crt"

    @property
    def key(self) -> Path:
        """The holder's private key."""
        return self.directory / "tls.key"


def create_authority(directory: Path, clock: Clock) -> TlsFiles:
    """Makes a certificate authority: ca.crt and ca.key (EC P-384, ten years).

    Raises:
        UsageError: There is one already: replacing it would lock every site out.
    """
    files = TlsFiles(directory)
    if files.authority_key.exists():
        raise UsageError("there is an authority already", where=str(files.authority_key))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("Hortus consortium authority")
    builder = (
        _builder(name, name, key.public_key(), clock, _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    write_private(files.authority_key, _pem(key))
    write_atomic(files.authority, builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))
    return files


def issue(
    authority_dir: Path,
    common_name: str,
    *,
    hosts: Sequence[str],
    directory: Path,
    server: bool,
    clock: Clock,
) -> TlsFiles:
    """Issues a certificate: tls.crt, tls.key and a copy of ca.crt (EC P-256, 825 days).

    Args:
        authority_dir: Where `create_authority` wrote.
        common_name: The site's name, which the server sees as the caller; or the server's.
        hosts: DNS names and IP addresses that a server is dialled at; none for a site.
        directory: Where to write.
        server: Whether it proves a server. A site's certificate cannot.
        clock: Seconds since the epoch.

    Raises:
        UsageError: There is no usable authority in `authority_dir`, or a host is no host name.
    """
    certificate, signing_key = _load_authority(TlsFiles(authority_dir))
    files = TlsFiles(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    builder = (
        _builder(certificate.subject, _name(common_name), key.public_key(), clock, _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(authority_id, critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_host(h) for h in hosts or [common_name]]), critical=False
        )
    )
    write_private(files.key, _pem(key))
    issued = builder.sign(signing_key, hashes.SHA384())
    write_atomic(files.certificate, issued.public_bytes(Encoding.PEM))
    write_atomic(files.authority, certificate.public_bytes(Encoding.PEM))
    return files


def _load_authority(files: TlsFiles) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(files.authority.read_bytes())
        key = load_pem_private_key(files.authority_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            "there is no usable certificate authority here: ca.crt and ca.key",
            where=str(files.directory),
        ) from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise UsageError("ca.key does not belong to ca.crt", where=str(files.directory))
    return certificate, key


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    clock: Clock,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    start = datetime.datetime.fromtimestamp(int(clock()), tz=datetime.UTC) - _CLOCK_SKEW
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
