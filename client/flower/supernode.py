"""Flower's SuperNode as a supervised child; it dials out and listens on loopback only."""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import hortus
from hortus.client.flower.relay_user import Guarded, RelayUser, hidden, may_be_changed, settled
from hortus.parties.folders import SiteConfig, SiteFiles, host_and_port
from hortus.runtime.errors import UsageError
from hortus.runtime.processes import (
    ChildProcess,
    flower_environment,
    installed_script,
    write_programs,
)
from hortus.runtime.proxies import proxy_for

_PROGRAMS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "flower-superexec": [installed_script("flower-superexec")],
        "flwr-clientapp": [sys.executable, "-m", "hortus.client.flower.pinned_clientapp"],
    }
)


def start_supernode(
    files: SiteFiles,
    superlink: str,
    node_config: Mapping[str, str],
    user: RelayUser | None = None,
) -> ChildProcess:
    """Starts a SuperNode that keeps trying until the SuperLink answers.

    Args:
        files: The site's folder, with its Flower key and the authority's certificate.
        superlink: Host and port of the SuperLink.
        node_config: What the ClientApp reads in `context.node_config`.
        user: Whom it runs as; None: the agent's own user.

    Raises:
        UsageError: The user can read what is the site's own, or cannot run this environment, or the
            environment names a proxy that is not one.
    """
    directory = files.directory / "flower"
    programs = write_programs(directory / "bin", _PROGRAMS)
    authority, key = files.tls.authority.resolve(), files.flower_key.resolve()
    if user is not None:
        home = directory.resolve() / "home"
        user.make_home(home)
        authority = user.take(home / "ca.crt", authority)
        key = user.take(home / "flower.pem", key)
        user.check_apart(protected(files, user), needed=authority)
    command = [
        installed_script("flower-supernode"),
        *("--superlink", superlink),
        *("--root-certificates", str(authority)),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(_free_port())),
        *("--node-config", " ".join(f"{k}={json.dumps(v)}" for k, v in node_config.items())),
    ]
    environment = flower_environment(
        directory / "home", proxy_for(host_and_port(superlink)[0], os.environ)
    )
    environment["PATH"] = str(programs)
    if user is None:
        return ChildProcess(command, environment, supernode_log(files))
    environment["HOME"] = environment["FLWR_HOME"]
    numbers = (user.uid, user.gid)
    return ChildProcess(command, environment, supernode_log(files), numbers)


def supernode_log(files: SiteFiles) -> Path:
    """Returns where Flower's SuperNode writes what it says."""
    return files.directory / "flower" / "supernode.log"


def protected(files: SiteFiles, user: RelayUser) -> list[Guarded]:
    """Returns what Flower's programs must not be able to do, beside the site's agent.

    Keys, ledger and records stay closed to them. What the agent believes (policy, roster, cards, addresses,
    its own program) they may look at, but change neither it nor the name of a folder above it.

    Raises:
        UsageError: The records are not there, so that nothing can be said of them.
    """
    directory = files.directory.resolve()
    own = SiteFiles(directory)
    config = SiteConfig.load(own.config)
    secrets = [*_existing_secrets(own), *_records(directory / config.data)]
    believed = [own.config, own.policy, own.roster, *directory.glob("*.card.yaml")]
    believed += [directory, *(path for path in directory.iterdir() if path.is_dir())]
    believed += [*_below(directory / "tls"), *_below(own.contracts), directory / "flower" / "bin"]
    believed += [Path(sys.executable).resolve(), Path(sys.prefix), Path(hortus.__file__).resolve()]
    believed += [directory / path for path in (config.anchor,) if path]
    there = [path.resolve() for path in believed if path.exists()]
    above = {folder for path in [*secrets, *there] for folder in path.parents}
    asked = [one for path in secrets for one in hidden(path)]
    asked += [one for path in there if path not in secrets for one in settled(path)]
    asked += [
        one for path in sorted(above) if may_be_changed(path, user.uid) for one in settled(path)
    ]
    return asked


def _existing_secrets(own: SiteFiles) -> list[Path]:
    """The site's keys and what they lie in, and the ledger with what SQLite writes beside it."""
    beside = [
        own.ledger.with_name(own.ledger.name + end) for end in ("", "-wal", "-shm", "-journal")
    ]
    keys = [own.identity.parent, *_below(own.identity.parent), own.tls.key, own.tls.next_key]
    return [path.resolve() for path in [*keys, *beside] if path.exists()]


def _records(path: Path) -> list[Path]:
    """The records; where they are a folder, nobody enters it, and links may lead elsewhere."""
    if not path.exists():
        raise UsageError(
            "the records are missing, so nobody can check who could read them", where=str(path)
        )
    whole = path.resolve()
    inside = (one.resolve() for one in _below(whole) if one.exists())
    return [whole, *(one for one in inside if not one.is_relative_to(whole))]


def _below(path: Path) -> list[Path]:
    return list(path.rglob("*")) if path.is_dir() else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
