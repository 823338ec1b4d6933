"""The folders of the parties of a consortium: what lies where.

The server:   server.yaml, roster.yaml, server.card.yaml, keys/ (0600), tls/,
              authority/ (signs TLS certificates, nothing else), issued/SITE.crt, flower/SITE.pub
A site:       site.yaml, policy.yaml, roster.yaml, SITE.card.yaml, server.card.yaml, keys/ (0600),
              tls/, ledger.sqlite
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER
from hortus.runtime.schema import SchemaFile


def host_and_port(address: str) -> tuple[str, int]:
    """Splits an address; the host of an IPv6 address has no brackets.

    Raises:
        ValueError: It is not an address.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise ValueError("it is not a host and port, such as 127.0.0.1:9443")
    return host.strip("[]"), int(port)


def _checked_address(address: str) -> str:
    host_and_port(address)
    return address


Name = Annotated[str, Field(min_length=1)]
Address = Annotated[str, AfterValidator(_checked_address)]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end of a mutually authenticated connection.

    `next_key` takes the place of `key` when there is a certificate for it.
    """

    authority: Path
    certificate: Path
    key: Path
    next_key: Path

    @classmethod
    def within(cls, directory: Path) -> "TlsFiles":
        """The files of a tls/ folder."""
        names = ("ca.crt", "node.crt", "node.key", "next.key")
        return cls(*(directory / name for name in names))


@dataclass(frozen=True, slots=True)
class SiteFiles:
    """Where everything of a site lies."""

    directory: Path

    @property
    def config(self) -> Path:
        """Addresses and data."""
        return self.directory / "site.yaml"

    def card(self, name: str) -> Path:
        """The public card of this site, to be given to the others; or the server's, as pinned."""
        return self.directory / f"{name}.card.yaml"

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
    def contracts(self) -> Path:
        """The plans that the site has taken part in, by hash: what an audit compares with."""
        return self.directory / "plans"

    def approved_model(self, plan: str) -> Path:
        """Says where the base model lay when a plan was approved that names it from its own folder."""
        return self.contracts / f"{plan}.model"

    @property
    def identity(self) -> Path:
        """Ed25519 signing key."""
        return self.directory / "keys" / "identity.pem"

    @property
    def next_identity(self) -> Path:
        """The key that takes its place once it has been handed over to."""
        return self.directory / "keys" / "identity.next.pem"

    @property
    def log(self) -> Path:
        """What the agent logs for its operator."""
        return self.directory / "logs" / "agent.log"

    @property
    def lock(self) -> Path:
        """Held by whatever signs with the identity for long: the agent, or its replacement."""
        return self.directory / "run" / "agent.lock"

    @property
    def connection(self) -> Path:
        """The state of the agent's connection to the server."""
        return self.directory / "run" / "connection.json"

    @property
    def dataset_key(self) -> Path:
        """Secret that keys the fingerprint of the records."""
        return self.directory / "keys" / "dataset.key"

    @property
    def flower_key(self) -> Path:
        """The SuperNode's authentication key."""
        return self.directory / "keys" / "flower.pem"

    @property
    def next_flower_key(self) -> Path:
        """The one that takes its place when the server has it."""
        return self.directory / "keys" / "flower.next.pem"

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
    def card(self) -> Path:
        """The server's public card, with all certificates that it has issued."""
        return self.directory / f"{SERVER}.card.yaml"

    @property
    def authority(self) -> Path:
        """The folder of the TLS authority."""
        return self.directory / "authority"

    @property
    def next_authority(self) -> Path:
        """The folder of the one that takes its place, while both are trusted."""
        return self.authority / "next"

    @property
    def is_changing_authority(self) -> bool:
        """Whether there is a next authority; its certificate is the last file of it."""
        return (self.next_authority / "ca.crt").exists()

    @property
    def roster(self) -> Path:
        """Names and public keys of the sites."""
        return self.directory / "roster.yaml"

    @property
    def identity(self) -> Path:
        """Ed25519 signing key; every site's roster has its public half."""
        return self.directory / "keys" / "identity.pem"

    @property
    def next_identity(self) -> Path:
        """The key that takes its place once it has been handed over to."""
        return self.directory / "keys" / "identity.next.pem"

    @property
    def lock(self) -> Path:
        """Held by whatever signs with the identity for long: the server, or its replacement."""
        return self.directory / "run" / "server.lock"

    @property
    def heads(self) -> Path:
        """The last head of each site's ledger that the server has countersigned."""
        return self.directory / "heads.sqlite"

    @property
    def tls(self) -> TlsFiles:
        """The server's certificate."""
        return TlsFiles.within(self.directory / "tls")

    def flower_key(self, site: str) -> Path:
        """The public key that a site's SuperNode authenticates with."""
        return self.directory / "flower" / f"{site}.pub"

    def issued(self, site: str) -> Path:
        """The TLS certificate that was issued for a site."""
        return self.directory / "issued" / f"{site}.crt"


class SiteConfig(SchemaFile):
    """site.yaml."""

    site: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="This site's name.")
    data: Path = Field(
        description="Its records: CSV, JSON lines, Parquet, Arrow, CoNLL or a `datasets` folder."
    )
    columns: dict[str, Name] = Field(
        default_factory=dict,
        description="The file's own columns by the plans' names for them, such as `{text: query}`.",
    )
    mask_identifiers: bool | dict[str, JsonValue] = Field(
        False,
        description="Whether what identifies somebody is masked before anything learns from it; or by which finder.",
    )
    aggregation: Address | None = Field(
        None,
        description="Host and port of the aggregation service, if they differ from the server's card.",
    )
    superlink: Address | None = Field(
        None,
        description="Host and port of the Flower SuperLink, if they differ from the server's card.",
    )
    model: str | None = Field(
        None, description="Folder of the base model at this site, if not where the plan says."
    )
    anchor: Path | None = Field(
        None,
        description="File with a head of the ledger from `hortus budget anchor`, preferably on another "
        "machine's disk. An agent whose ledger does not contain the head does not start.",
    )
    monitoring: Address | None = Field(
        None,
        description="Host and port at which to serve health checks and metrics, such as 127.0.0.1:9465. Not "
        "served if absent.",
    )
    relay_user: str | None = Field(
        None,
        description="User as which Flower's programs run beside the agent. Root must then start the agent.",
    )


class ServerConfig(SchemaFile):
    """server.yaml."""

    aggregation: Address = Field(
        description="Host and port that the aggregation service listens on."
    )
    superlink: Address = Field(description="Host and port of the SuperLink's Fleet API.")
    host: str | None = Field(
        None,
        description="Name or address at which sites dial both, if it is not the address that the server listens on.",
    )
    monitoring: Address | None = Field(
        None,
        description="Host and port at which to serve health checks and metrics, such as 127.0.0.1:9464. Not "
        "served if absent.",
    )

    report_to: tuple[str | dict[str, JsonValue], ...] = Field(
        (),
        description="Trackers that each round is reported to: `tensorboard`, `mlflow` or `wandb`, or one with its "
        "values, such as `{kind: mlflow, uri: …}`.",
    )

    def dialled(self, address: str) -> str:
        """Returns the address at which sites dial what listens on `address`."""
        host, port = host_and_port(address)
        return f"{_in_brackets(self.host or host)}:{port}"


def _in_brackets(host: str) -> str:
    """Writes an IPv6 address as it is written before a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


@dataclass(frozen=True, slots=True)
class Consortium:
    """The folders of all parties, as `hortus init trial` and the simulator lay them out."""

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


def open_party(directory: Path) -> SiteFiles | ServerFiles:
    """Returns the files of the site or server whose folder this is.

    Raises:
        UsageError: It is neither's.
    """
    if SiteFiles(directory).config.exists():
        return SiteFiles(directory)
    if ServerFiles(directory).config.exists():
        return ServerFiles(directory)
    raise UsageError(
        "this is neither a site's folder (with site.yaml) nor the server's (with server.yaml)",
        where=str(directory),
        remedy="Make one: hortus init site NAME, or hortus init server HOST.",
    )
