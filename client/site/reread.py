"""What is read from disk and kept: read again once the files behind it have changed."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Content = TypeVar("Content")
Version = tuple[tuple[str, int, int, int, int], ...]

# A file system's clock may tick as seldom: two writes within a tick look like one.
_TICK_SECONDS = 2.0
_TRIES = 3


class Reread(Generic[Content]):
    """What a file, or a folder with all that is in it, holds now.

    Args:
        path: The file or folder.
        load: Reads it.
    """

    def __init__(self, path: Path, load: Callable[[Path], Content]) -> None:
        self._path = path
        self._load = load
        self._last: tuple[Version, Content] | None = None

    def __call__(self) -> Content:
        """Returns the content; loads it where a file was replaced, written to, added or removed.

        Raises:
            OSError: There is no such file.
        """
        version = file_version(self._path)
        if self._last is not None and self._last[0] == version:
            return self._last[1]
        for _ in range(_TRIES):
            read_at = time.time()
            content = self._load(self._path)
            before, version = version, file_version(self._path)
            if version == before:
                break
        # A file that keeps changing, or has just changed, is read again next time.
        is_settled = version == before and _newest(version) < (read_at - _TICK_SECONDS) * 1e9
        self._last = (version, content) if is_settled else None
        return content


def file_version(path: Path) -> Version:
    """Returns names, inodes, sizes and times of a file, or of all files in a folder, links followed.

    Raises:
        OSError: There is no such file.
    """
    if not path.is_dir():
        return (_one(path),)
    return tuple(
        _one(Path(folder) / name)
        for folder, _, names in sorted(os.walk(path))
        for name in sorted(names)
    )


def _one(path: Path) -> tuple[str, int, int, int, int]:
    state = path.stat()
    return (str(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _newest(version: Version) -> int:
    return max((max(mtime, ctime) for *_, mtime, ctime in version), default=0)
