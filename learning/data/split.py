"""A share of a file held out, by a keyed hash of each record: the same whatever the order of the rows."""

import hashlib
import hmac
import json
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from hortus.learning.data.records import canonical_row
from hortus.learning.data.rows import read_rows
from hortus.learning.data.values import as_id
from hortus.runtime.errors import UsageError

_BYTES = 8


class Parts(NamedTuple):
    """What came of a split, in rows."""

    kept: int
    held_out: int


def is_held_out(identity: bytes, share: float, key: bytes) -> bool:
    """Whether what has an identity is held out.

    With another key another share is drawn, independently. With one key, a larger share holds all of a smaller one.

    Args:
        identity: Of a record or a unit.
        share: Of all, between 0 and 1.
        key: What the draw goes by.
    """
    drawn = hmac.digest(key, b"hortus/v1/split\x00" + identity, "sha256")[:_BYTES]
    return bool(int.from_bytes(drawn) < share * 2.0 ** (8 * _BYTES))


def split(
    path: Path, unit: str | None, share: float, key: str, kept: Path, held_out: Path
) -> Parts:
    """Writes a file's rows to two files of JSON lines; rows that are alike, or of one unit, stay together.

    Args:
        path: The file, in any format that is read.
        unit: The column that says whose a row is; None: each row is its own.
        share: Of units that are held out.
        key: Any text: the draw goes by it.
        kept: The new file of the others.
        held_out: The new file of those held out.

    Raises:
        UsageError: The file cannot be read, or a row does not say whose it is.
    """
    counts = [0, 0]
    with ExitStack() as stack:
        files = [stack.enter_context(one.open("wb")) for one in (kept, held_out)]
        for place, row in read_rows(path, (unit,) if unit else ()):
            if unit:
                identity = as_id(row[unit], f"{path}, {place}, column {unit!r}").encode()
            else:
                identity = hashlib.sha256(canonical_row(row)).digest()
            side = is_held_out(identity, share, key.encode())
            files[side].write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")
            counts[side] += 1
    if not all(counts):
        raise UsageError(
            f"all {sum(counts)} rows fall on one side",
            where=str(path),
            remedy="Choose another share.",
        )
    return Parts(*counts)
