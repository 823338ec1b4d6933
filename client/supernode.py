"""Flower's SuperNode as a supervised child; it dials out and listens on loopback only."""

import json
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from hortus.protocol.consortium import SiteFiles
from hortus.protocol.processes import ChildProcess, flower_environment, installed_script


def start_supernode(
    files: SiteFiles, superlink: str, node_config: Mapping[str, str]
) -> ChildProcess:
    """Starts a SuperNode that keeps trying until the SuperLink answers.

    Args:
        files: The site's folder, with its Flower key and the authority's certificate.
        superlink: Host and port of the SuperLink.
        node_config: What the ClientApp reads in `context.node_config`.
    """
    directory = files.directory / "flower"
    command = [
        installed_script("flower-supernode"),
        *("--superlink", superlink),
        *("--root-certificates", str(files.tls.authority.resolve())),
        *("--auth-supernode-private-key", str(files.flower_key.resolve())),
        *("--host", "127.0.0.1", "--port", str(_free_port())),
        *("--node-config", " ".join(f"{k}={json.dumps(v)}" for k, v in node_config.items())),
    ]
    environment = flower_environment(directory / "home")
    environment["PATH"] = str(_write_programs(directory / "bin"))
    return ChildProcess(command, environment, directory / "supernode.log")


def _write_programs(directory: Path) -> Path:
    """Writes all that a SuperNode can start by name: its helper, and our own `flwr-clientapp`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, command in (
        ("flower-superexec", [installed_script("flower-superexec")]),
        ("flwr-clientapp", [sys.executable, "-m", "hortus.client.pinned_clientapp"]),
    ):
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        program.chmod(0o700)
    return directory


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
