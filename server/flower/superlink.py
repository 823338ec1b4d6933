"""Flower's SuperLink as a supervised child: TLS, node authentication, and one app to run."""

import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hortus.parties.folders import TlsFiles, host_and_port
from hortus.runtime.errors import HortusError
from hortus.runtime.processes import (
    ChildProcess,
    flower_environment,
    run_to_end,
    write_programs,
)
from hortus.server.flower.guarded_flower import PROGRAMS, SECRET, THEN

_CONNECTION = "hortus"
_GUARDED = (sys.executable, "-m", "hortus.server.flower.guarded_flower")
_START_SECONDS = 60.0
_COMMAND_SECONDS = 90.0
_ENDED = "finished"
# An address to listen on, not one to dial: `flwr` on this machine dials loopback instead.
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only where server.yaml says so


class SuperLink:
    """A running SuperLink.

    Args:
        directory: Its Flower home, app and log; created again.
        tls: The server's certificate, which must name the address and, where that is 0.0.0.0 or
            [::], loopback.
        address: Host and port to listen on; all of Flower's interfaces share them.
    """

    def __init__(self, directory: Path, tls: TlsFiles, address: str) -> None:
        self._directory = directory
        self._tls = tls
        self._host, self._port = host_and_port(address)
        self._dialled = _ANY_HOST.get(self._host, self._host)
        self._environment = _environment(directory)
        self._child: ChildProcess | None = None

    def __enter__(self) -> Self:
        self._require_free_port()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._write_connection()
        write_programs(
            self._directory / "bin",
            {name: [*_GUARDED, name] for name in PROGRAMS},
        )
        command = [
            *(sys.executable, "-m", "hortus.server.flower.guarded_superlink"),
            *("--ssl-ca-certfile", str(self._tls.authority)),
            *("--ssl-certfile", str(self._tls.certificate)),
            *("--ssl-keyfile", str(self._tls.key)),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
            *("--host", self._host, "--port", str(self._port)),
        ]
        self.log = self._directory / "superlink.log"
        self._child = ChildProcess(command, self._environment, self.log)
        try:
            self._child.wait_until(self._accepts, _START_SECONDS)
        except BaseException:  # Ctrl-C as well: what it started would outlive it
            self._child.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            self._child.stop()

    def register(self, public_keys: Mapping[str, Path]) -> dict[int, str]:
        """Lets SuperNodes in, by the public keys of their sites; takes seconds, and little more for each.

        Args:
            public_keys: The file of each site's.

        Returns:
            The sites, by the numbers that Flower gives them.
        """
        told = self._ask(
            "node-id",
            *(
                ("supernode", "register", str(key), _CONNECTION, "--name", site)
                for site, key in public_keys.items()
            ),
        )
        return dict(zip(map(int, told), public_keys, strict=True))

    def submit(self, serverapp: str, clientapp: str, settings: Mapping[str, str]) -> str:
        """Starts a run of an app whose components are importable by name.

        Args:
            serverapp: `module:attribute`.
            clientapp: `module:attribute`.
            settings: The ServerApp's run configuration.

        Returns:
            The run's Flower id.
        """
        app = _write_app(self._directory / "app", serverapp, clientapp, settings)
        (run,) = self._ask("run-id", ("run", str(app), _CONNECTION))
        return str(run)

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self._child is not None and self._child.is_running

    def check(self) -> None:
        """Raises ProgramEnded, with the end of its log, if its process has ended; keeps that small."""
        if self._child is not None:
            self._child.check()
            self._child.keep_log_small()

    def is_running(self, run: str) -> bool:
        """Whether the run has not come to its end, by Flower's own word; takes seconds."""
        ((only,),) = self._ask("runs", ("list", _CONNECTION, "--run-id", run))
        return not str(only["status"]).startswith(_ENDED)

    def _ask(self, field: str, *commands: Sequence[str]) -> list[Any]:
        """Returns a field of what each command prints; a refusal is JSON too, and exits with 0."""
        if not commands:
            return []
        arguments = [part for one in commands for part in (*one, "--format", "json", THEN)][:-1]
        answers = []
        for told in _documents(self._flwr(arguments, _COMMAND_SECONDS * len(commands))):
            if field not in told:
                self.check()  # its end may be why
                raise HortusError(f"Flower does not report {field}", remedy=json.dumps(told)[:1000])
            answers.append(told[field])
        return answers

    def _flwr(self, arguments: Sequence[str], seconds: float) -> str:
        """Runs commands, each after the one before it, in one process: it takes seconds to start."""
        command = [*_GUARDED, "flwr", *arguments]
        try:
            return run_to_end(command, self._environment, seconds)
        except HortusError:
            self.check()  # its end may be why
            raise

    def _write_connection(self) -> None:
        home = self._directory / "home"
        home.mkdir(parents=True, mode=0o700)
        host = f"[{self._dialled}]" if ":" in self._dialled else self._dialled
        address = f"{host}:{self._port}"
        (home / "config.toml").write_text(
            f"[superlink]\ndefault = {json.dumps(_CONNECTION)}\n\n[superlink.{_CONNECTION}]\n"
            f"address = {json.dumps(address)}\n"
            f"root-certificates = {json.dumps(str(self._tls.authority.resolve()))}\n",
            encoding="utf-8",
        )

    def _require_free_port(self) -> None:
        """Else another program's answer would pass for the SuperLink's."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            socket.create_server((self._host, self._port), family=family).close()
        except OSError as error:
            raise HortusError(
                f"the SuperLink cannot listen on port {self._port}: {error.strerror}",
                where=self._host,
                remedy="Stop the program that listens there, or change `superlink` in server.yaml.",
            ) from error

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self._dialled, self._port), timeout=1.0).close()
        except OSError:
            return False
        return True


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects that a text consists of."""
    decoder, rest = json.JSONDecoder(), text.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        yield document
        rest = rest[end:].lstrip()


def _environment(directory: Path) -> dict[str, str]:
    """What the SuperLink and Flower's other programs run with: their own helpers, and a secret."""
    environment = flower_environment(directory / "home")
    environment["PATH"] = f"{(directory / 'bin').resolve()}{os.pathsep}{environment['PATH']}"
    return environment | {SECRET: secrets.token_urlsafe(32)}


def _write_app(
    directory: Path, serverapp: str, clientapp: str, settings: Mapping[str, str]
) -> Path:
    """Writes a Flower app that holds no code: its components live in the installed package."""
    directory.mkdir(parents=True)
    config = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (directory / "pyproject.toml").write_text(
        "[project]\n"
        'name = "hortus-run"\nversion = "1.0.0"\ndescription = "A Hortus run"\n'
        'license = "Apache-2.0"\ndependencies = ["flwr==1.41.0"]\n\n'
        '[tool.flwr.app]\npublisher = "hortus"\n\n'
        f"[tool.flwr.app.components]\nserverapp = {json.dumps(serverapp)}\n"
        f"clientapp = {json.dumps(clientapp)}\n\n[tool.flwr.app.config]\n{config}",
        encoding="utf-8",
    )
    return directory
