"""A run's checkpoints: which files there are, and that each is the one that was written."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from hortus.runtime.errors import HortusError


def of_round(directory: Path, number: int) -> Path:
    """Adapter and optimiser after a round of the run in a folder.

    The argument counts rounds from 0, a file's name from 1 as people do.
    """
    return directory / "checkpoints" / f"round-{number + 1:05d}.safetensors"


def of_sums(directory: Path, number: int, sums: int) -> Path:
    """Adapter and optimiser after this many sums of a round, from 0 (in the name from 1), that is not finished."""
    return directory / "checkpoints" / f"sums-{number + 1:05d}-{sums:05d}.safetensors"


def read(path: Path, digest: str) -> bytes:
    """Returns a checkpoint.

    Args:
        path: Its file.
        digest: Its SHA-256 when it was written.

    Raises:
        HortusError: It is missing, or is not the one that was written.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise HortusError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    if hashlib.sha256(encoded).hexdigest() != digest:
        raise HortusError(
            "the checkpoint is damaged: it is not what was written",
            where=str(path),
            remedy="Restore the run's folder from a backup, or start over with another --out.",
        )
    return encoded


def forget_partial(directory: Path) -> None:
    """Removes what a crash has left of checkpoints that were being written."""
    for pattern in (".round-*", ".sums-*"):
        for path in (directory / "checkpoints").glob(pattern):
            path.unlink(missing_ok=True)


def forget_others(directory: Path, kept: Collection[Path]) -> None:
    """Removes all checkpoints but these."""
    for pattern in ("round-*", "sums-*"):
        for path in (directory / "checkpoints").glob(pattern):
            if path not in kept:
                path.unlink(missing_ok=True)
