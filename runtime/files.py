"""Files that must survive a crash: whole, or not there."""

import contextlib
import os
import secrets
from pathlib import Path

from hortus.runtime.errors import HortusError
from hortus.runtime.faults import Fault, reach


def write_private(path: Path, data: bytes) -> None:
    """Writes a secret: all of it or nothing, durable, readable by its owner alone (0600)."""
    _write(path, data, 0o600, 0o700)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file: all of it or nothing, durable, with the permissions that the umask leaves."""
    _write(path, data, 0o666, 0o777)


def write_passing(path: Path, data: bytes) -> None:
    """Writes a status file: all of it or nothing, but not durably.

    A full disk must not end a run: nothing is raised, and the previous file stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write(path: Path, data: bytes, mode: int, directory_mode: int) -> None:
    # A name of its own beside the target: O_EXCL, so nobody can have put a link there.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=directory_mode, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                reach(Fault.FILE_BEFORE_FSYNC)
                os.fsync(file.fileno())
            reach(Fault.FILE_BEFORE_RENAME)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        reach(Fault.FILE_BEFORE_DIRECTORY_FSYNC)
        sync_directory(path.parent)
        reach(Fault.FILE_DURABLE)
    except OSError as error:
        raise HortusError(f"it cannot be written: {error.strerror}", where=str(path)) from error


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
