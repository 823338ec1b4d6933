"""Child processes that are watched while they run and that end with their parent."""

import contextlib
import ctypes
import os
import secrets
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hortus.runtime.errors import HortusError
from hortus.runtime.proxies import Proxy, child_environment

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_ORPHAN_SECONDS = 3.0
_TAIL_LINES = 15
_TAIL_BYTES = 2**16
_LOG_BYTES = 10 * 2**20
_MARK = "HORTUS_STARTED_BY"

# Flower sends telemetry, looks for updates and installs what an app asks for, unless told not to.
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
)


def installed_script(name: str) -> str:
    """Returns the path of a console script of this Python environment."""
    return str(Path(sys.executable).with_name(name))


def flower_environment(home: Path, proxy: Proxy | None = None) -> dict[str, str]:
    """Returns a minimal environment for Flower's programs, with a Flower home of their own.

    Args:
        home: The Flower home.
        proxy: What they dial anything but this machine through.
    """
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # Flower finds its own helpers by name, and the environment may not be activated.
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | child_environment(proxy) | _QUIET | {"FLWR_HOME": str(home)}


def write_programs(directory: Path, programs: Mapping[str, Sequence[str]]) -> Path:
    """Writes programs by name, for a PATH: all that a program of Flower's can then start by these names.

    Args:
        directory: Where to; it is made.
        programs: Commands by name; they get the arguments that the program is started with.

    Returns:
        `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, command in programs.items():
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return directory


class ProgramEnded(HortusError):  # noqa: N818
    """A program that should still be running has exited."""


class ChildProcess:
    """A running program; leaving the `with` block ends it and everything that it started.

    On Linux it also ends with the thread that started it, so start it from one that lasts.

    Args:
        command: Program and arguments.
        environment: The whole environment.
        log: File that its output is appended to.
        user: Number of the user and of the group that it runs as; None: this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        user: tuple[int, int] | None = None,
    ) -> None:
        self._name = Path(command[0]).name
        self._log = log
        # All that the program starts inherits it, and keeps it when the program itself has died.
        self._mark = secrets.token_hex(16)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                command,
                env={**environment, _MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user[0] if user else None,
                group=user[1] if user else None,
                extra_groups=[] if user else None,
                preexec_fn=dying_with_parent(),  # noqa: PLW1509
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Waits for a condition while the program is running.

        Raises:
            ProgramEnded: The program ended; with the end of its log.
            HortusError: The time ran out.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise HortusError(
                    f"{self._name} was not ready within {seconds:g} s",
                    where=str(self._log),
                    remedy=tail(self._log),
                )
            time.sleep(_POLL_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether the program is still running."""
        return self._process.poll() is None

    def check(self) -> None:
        """Makes sure that the program is still running.

        Raises:
            ProgramEnded: It has ended; with the end of its log.
        """
        if not self.is_running:
            raise ProgramEnded(
                f"{self._name} ended with exit code {self._process.returncode}",
                where=str(self._log),
                remedy=tail(self._log),
            )

    def keep_log_small(self) -> None:
        """Moves a log of more than 10 MiB aside, to its name and .1: other parties decide its length."""
        if self._log.stat().st_size > _LOG_BYTES:
            aside = self._log.with_name(f"{self._log.name}.1")
            aside.write_bytes(_last_bytes(self._log, _LOG_BYTES))
            os.truncate(self._log, 0)  # the program appends, and continues from here

    def stop(self) -> None:
        """Ends the program and everything that it started, first with SIGTERM, then with SIGKILL."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, signal_number)
                self._process.wait(_GRACE_SECONDS)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        # Flower's helpers leave the process group, and outlive the program for a while.
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while time.monotonic() < deadline + _GRACE_SECONDS:
            if not (left := _marked(f"{_MARK}={self._mark}".encode())):
                break
            for handle in left:
                if not _ended(handle, max(0.0, deadline - time.monotonic())):
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                    _ended(handle, _GRACE_SECONDS)
                os.close(handle)


def run_to_end(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    """Runs a short command.

    Returns:
        What it printed.

    Raises:
        HortusError: It failed or took too long; with what it printed.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HortusError(f"{' '.join(command[:3])} took more than {seconds:g} s") from error
    if done.returncode:
        raise HortusError(
            f"{' '.join(command[:3])} failed", remedy=(done.stdout + done.stderr).strip()[-1500:]
        )
    return done.stdout


def tail(log: Path) -> str:
    """Returns the last lines of a log."""
    text = _last_bytes(log, _TAIL_BYTES).decode(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


def _last_bytes(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - number))
        return file.read(number)


def _marked(mark: bytes) -> list[int]:
    """Opens a handle on each process with a mark in its environment; a handle is never reused."""
    handles: list[int] = []
    if sys.platform == "linux":
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError), contextlib.ExitStack() as unless_marked:
                handle = os.pidfd_open(int(process.name))
                unless_marked.callback(os.close, handle)
                if mark in (process / "environ").read_bytes():
                    unless_marked.pop_all()
                    handles.append(handle)
    return handles


def _ended(handle: int, seconds: float) -> bool:
    """Waits for a process; its handle becomes readable when it has ended."""
    poll = select.poll()  # unlike select(), for any number of open files
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(1000 * max(0.0, seconds)))


def dying_with_parent() -> Callable[[], None] | None:
    """Returns what a new child is to call so that it gets a SIGTERM when its parent dies."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)  # loaded before the fork
    return lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
