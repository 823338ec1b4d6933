"""Sequences that outgrow memory: beyond a size they lie in a file that has no name and ends with the process."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, Any, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from hortus.runtime.errors import HortusError

T = TypeVar("T")

_IN_MEMORY = 2**24  # bytes, as written; as objects, up to fifteen times as many
_WRITTEN_AT_ONCE = 2**20


class Codec(Protocol[T]):
    """How items are written: as data, so that reading one runs nothing."""

    def encode(self, item: T) -> bytes:
        """Returns an item as bytes."""
        ...

    def decode(self, data: bytes) -> T:
        """Returns the item that was written."""
        ...


def keep(items: Iterable[T], codec: Codec[T], in_memory: int = _IN_MEMORY) -> Sequence[T]:
    """Returns items as a tuple, or, where they are larger, as a sequence that reads each from disk.

    Args:
        items: Each is asked for once.
        codec: Writes and reads them.
        in_memory: Bytes, as written, up to which they stay in memory.

    Raises:
        HortusError: There is no room on the disk.
    """
    held: list[T] = []
    encoded: list[bytes] = []
    size, source = 0, iter(items)
    for item in source:
        held.append(item)
        encoded.append(codec.encode(item))
        size += len(encoded[-1])
        if size > in_memory:
            held.clear()
            try:
                return _written(encoded, source, codec)
            except OSError as error:
                raise HortusError(
                    f"records larger than memory should hold cannot be kept on disk: {error.strerror}",
                    where=tempfile.gettempdir(),
                    remedy="Make room there, or name a folder on a larger disk by TMPDIR.",
                ) from error
    return tuple(held)


class OnDisk(Sequence[T]):
    """Items in a file; `keep` makes it. Threads may read at once.

    Args:
        file: It has no name, so that nothing is left of it when the process ends.
        codec: Reads an item.
        ends: int64 (n + 1,), where each item begins, and where the last ends.
    """

    def __init__(self, file: IO[bytes], codec: Codec[T], ends: NDArray[np.int64]) -> None:
        self._file = file
        self._codec = codec
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        start, end = int(self._ends[place]), int(self._ends[place + 1])
        return self._codec.decode(os.pread(self._file.fileno(), end - start, start))


def picked(items: Sequence[T], indices: NDArray[np.int64]) -> Sequence[T]:
    """Returns some of the items; of those on disk, nothing is read yet."""
    if isinstance(items, OnDisk | _Picked):
        return _Picked(items, indices)
    return tuple(items[i] for i in indices.tolist())


class _Picked(Sequence[T]):
    def __init__(self, items: Sequence[T], indices: NDArray[np.int64]) -> None:
        self._items = items
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        chosen: Any = self._indices[index]
        if isinstance(index, slice):
            return tuple(self._items[i] for i in chosen.tolist())
        return self._items[int(chosen)]


def _written(encoded: list[bytes], rest: Iterable[T], codec: Codec[T]) -> OnDisk[T]:
    """Writes what is encoded already, and the rest; empties the list."""
    file = tempfile.TemporaryFile(buffering=_WRITTEN_AT_ONCE)  # noqa: SIM115 - it lives as long as what it holds
    sizes = [0, *map(file.write, encoded)]
    encoded.clear()
    sizes.extend(file.write(codec.encode(item)) for item in rest)
    file.flush()
    return OnDisk(file, codec, np.cumsum(np.array(sizes, np.int64)))
