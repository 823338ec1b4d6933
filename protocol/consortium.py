"""The folders of a consortium: what lies where, and how they are first made.

DIR/authority/       ca.key, ca.crt: signs TLS certificates, nothing else
DIR/server/          server.yaml, roster.yaml, keys/ (0600), tls/, flower/SITE.pub
DIR/sites/SITE/      site.yaml, policy.yaml, roster.yaml, keys/ (0600), tls/, ledger.sqlite
"""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from pydantic import Field

from hortus.protocol.certificates import create_authority, create_flower_key, issue
from hortus.protocol.errors import UsageError
from hortus.protocol.files import write_atomic, write_private
from hortus.protocol.identity import SERVER, Roster, SiteIdentity
from hortus.protocol.plan import Schema
from hortus.protocol.policy import Policy


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end of a mutually authenticated connection."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def within(cls, directory: Path) -> "TlsFiles":
        """The files of a tls/ folder."""
        return cls(directory / "ca.crt", directory / "node.crt", directory / "node.key")


@dataclass(frozen=True, slots=True)
class SiteFiles:
    """Where everything of a site lies."""

    directory: Path

    @property
    def config(self) -> Path:
        """Addresses and data."""
        return self.directory / "site.yaml"

    @property
    def policy(self) -> Path:
        """What the site allows."""
        return self.directory / "policy.yaml"

    @property
    def roster(self) -> Path:
        """The pinned public keys of the server and all sites."""
        return self.directory / "roster.yaml"

    @property
    def ledger(self) -> Path:
        """Every release, signed."""
        return self.directory / "ledger.sqlite"

    @property
    def identity(self) -> Path:
        """Ed25519 signing key."""
        return self.directory / "keys" / "identity.pem"

    @property
    def dataset_key(self) -> Path:
        """Secret that keys the fingerprint of the records."""
        return self.directory / "keys" / "dataset.key"

    @property
    def flower_key(self) -> Path:
        """The SuperNode's authentication key; its public half lies beside it."""
        return self.directory / "keys" / "flower.pem"

    @property
    def tls(self) -> TlsFiles:
        """The site's certificate."""
        return TlsFiles.within(self.directory / "tls")


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where everything of the server lies."""

    directory: Path

    @property
    def config(self) -> Path:
        """Addresses."""
        return self.directory / "server.yaml"

    @property
    def roster(self) -> Path:
        """Names and public keys of the sites."""
        return self.directory / "roster.yaml"

    @property
    def identity(self) -> Path:
        """Ed25519 signing key; every site's roster has its public half."""
        return self.directory / "keys" / "identity.pem"

    @property
    def tls(self) -> TlsFiles:
        """The server's certificate."""
        return TlsFiles.within(self.directory / "tls")

    def flower_key(self, site: str) -> Path:
        """The public key that a site's SuperNode authenticates with."""
        return self.directory / "flower" / f"{site}.pub"


class SiteConfig(Schema):
    """site.yaml."""

    site: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="This site's name.")
    data: Path = Field(description="Its records: CSV, JSONL, Parquet or a `datasets` folder.")
    aggregation: str = Field(description="Host and port of the aggregation service.")
    superlink: str = Field(description="Host and port of the Flower SuperLink.")
    model: str | None = Field(None, description="Where the base model lies here, if elsewhere.")


class ServerConfig(Schema):
    """server.yaml."""

    aggregation: str = Field(description="Host and port that the aggregation service listens on.")
    superlink: str = Field(description="Host and port of the SuperLink's Fleet API.")


@dataclass(frozen=True, slots=True)
class Consortium:
    """The folders of all parties, as `hortus init` and the simulator lay them out."""

    directory: Path

    @property
    def server(self) -> ServerFiles:
        """The server's folder."""
        return ServerFiles(self.directory / "server")

    @property
    def sites(self) -> list[str]:
        """Names of all sites, sorted."""
        return sorted(path.name for path in (self.directory / "sites").iterdir())

    def site(self, name: str) -> SiteFiles:
        """A site's folder."""
        return SiteFiles(self.directory / "sites" / name)


def create_consortium(
    directory: Path,
    data: Mapping[str, Path],
    policies: Mapping[str, Policy],
    server: ServerConfig,
    now: datetime,
) -> Consortium:
    """Makes all folders, keys and certificates of a consortium at once.

    Args:
        directory: Where; must not exist yet.
        data: Each site's records.
        policies: Each site's policy.
        server: The server's addresses.
        now: Start of the certificates' validity.

    Raises:
        UsageError: The folder exists.
    """
    if directory.exists():
        raise UsageError(
            "the folder exists already", where=str(directory), remedy="Choose another."
        )
    # Under another name until it is whole: a consortium is there entirely or not at all.
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    consortium = Consortium(partial)
    authority = partial / "authority"
    create_authority(authority, now)
    _provide(consortium.server.tls, authority, "server", now, hosts=_hosts(server))
    _write_yaml(consortium.server.config, server)
    own = SiteIdentity.create(SERVER, consortium.server.identity)
    keys = {
        site: SiteIdentity.create(site, consortium.site(site).identity).public_key_bytes
        for site in sorted(data)
    }
    roster = Roster(sites=keys, server=own.public_key_bytes)
    roster.save(consortium.server.roster)
    for site, records in data.items():
        files = consortium.site(site)
        roster.save(files.roster)
        _provide(files.tls, authority, site, now, hosts=())
        write_private(files.dataset_key, secrets.token_bytes(32))
        public = create_flower_key(files.flower_key)
        consortium.server.flower_key(site).parent.mkdir(exist_ok=True)
        shutil.copy(public, consortium.server.flower_key(site))
        _write_yaml(files.policy, policies[site])
        config = SiteConfig(
            site=site, data=records, aggregation=server.aggregation, superlink=server.superlink
        )
        _write_yaml(files.config, config)
    partial.rename(directory)
    return Consortium(directory)


def _hosts(server: ServerConfig) -> tuple[str, ...]:
    """Returns what the server is dialled at, from this machine and from others."""
    addresses = (server.aggregation, server.superlink)
    told = {address.rpartition(":")[0].strip("[]") for address in addresses}
    return tuple(sorted(told | {"localhost", "127.0.0.1", "::1"}))


def _provide(
    files: TlsFiles, authority: Path, name: str, now: datetime, *, hosts: Sequence[str]
) -> None:
    """Issues a certificate, a server's where there are hosts, and puts the authority's beside it."""
    is_server = bool(hosts)
    issue(authority, name, files.certificate, files.key, now, server=is_server, hosts=hosts)
    shutil.copy(authority / "ca.crt", files.authority)


def _write_yaml(path: Path, model: Schema) -> None:
    fields = model.model_dump(mode="json", exclude_none=True)
    write_atomic(path, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).encode())
