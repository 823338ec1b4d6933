"""Flower's SuperNode as a supervised child; it dials out and listens on loopback only."""

import json
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from hortus.client.relay_user import RelayUser
from hortus.protocol.consortium import SiteConfig, SiteFiles
from hortus.protocol.processes import ChildProcess, flower_environment, installed_script

_PROGRAMS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "flower-superexec": [installed_script("flower-superexec")],
        "flwr-clientapp": [sys.executable, "-m", "hortus.client.pinned_clientapp"],
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
        UsageError: The user can read what is the site's own, or cannot run this environment.
    """
    directory = files.directory / "flower"
    programs = _write_programs(directory / "bin")
    authority, key = files.tls.authority.resolve(), files.flower_key.resolve()
    if user is not None:
        home = directory.resolve() / "home"
        user.make_home(home)
        authority = user.take(home / "ca.crt", authority)
        key = user.take(home / "flower.pem", key)
        user.check_apart(site_secrets(files), needed=authority)
    command = [
        installed_script("flower-supernode"),
        *("--superlink", superlink),
        *("--root-certificates", str(authority)),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(_free_port())),
        *("--node-config", " ".join(f"{k}={json.dumps(v)}" for k, v in node_config.items())),
    ]
    environment = flower_environment(directory / "home")
    environment["PATH"] = str(programs)
    if user is None:
        return ChildProcess(command, environment, directory / "supernode.log")
    environment["HOME"] = environment["FLWR_HOME"]
    numbers = (user.uid, user.gid)
    return ChildProcess(command, environment, directory / "supernode.log", numbers)


def site_secrets(files: SiteFiles) -> list[Path]:
    """Returns what Flower's programs must not read: keys, ledger and records."""
    config = SiteConfig.load(files.config)
    keys = [files.identity, files.dataset_key, files.flower_key, files.tls.key]
    return [*keys, files.ledger, files.directory / config.data]


def _write_programs(directory: Path) -> Path:
    """Writes all that a SuperNode can start by name: its helper, and our own `flwr-clientapp`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, command in _PROGRAMS.items():
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return directory


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
