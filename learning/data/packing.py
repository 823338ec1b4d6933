"""Files as bytes: what they are by their first bytes, and unpacked on the way."""

import io
from pathlib import Path
from typing import BinaryIO

import pyarrow

from hortus.runtime.errors import UsageError

# No text in UTF-8 begins so: what a file is called need not say whether it is compressed.
_CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHERS = {
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV."),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "Save the sheet as CSV (UTF-8)."),
    b"BZh": ("compressed by bzip2", "Unpack it with bunzip2, or compress it with gzip or zstd."),
    b"\xfd7zXZ\0": ("compressed by xz", "Unpack it with unxz, or compress it with gzip or zstd."),
    b"7z\xbc\xaf": ("a 7z archive", "Unpack it."),
    b"PAR1": ("a Parquet file", "Give it a name that ends in .parquet."),
    b"ARROW1": ("an Arrow file", "Give it a name that ends in .arrow."),
    b"SQLite format 3\0": ("an SQLite database", "Export the table as CSV."),
}
_LONGEST_MAGIC = 16

PACKED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")
"""What may follow the suffix of a format, in any case."""


def open_bytes(path: Path) -> BinaryIO:
    """Opens a file for reading its bytes, unpacked where it is compressed."""
    codec = packed(path)
    if codec is None:
        return path.open("rb")
    return io.BufferedReader(pyarrow.input_stream(path, compression=codec))


def packed(path: Path) -> str | None:
    """Returns by what a file is compressed, gzip or zstd, whatever its name says."""
    with path.open("rb") as file:
        return _codec(file.read(_LONGEST_MAGIC))


def check_is_text(path: Path, head: bytes) -> None:
    """Raises UsageError where a file's first bytes, unpacked, are those of something else."""
    for magic, (what, remedy) in _OTHERS.items():
        if head.startswith(magic):
            raise UsageError(f"this is {what}, not text", where=str(path), remedy=remedy)
    if codec := _codec(head):
        raise UsageError(
            "it is compressed twice", where=str(path), remedy=f"Unpack it once, with {codec} -d."
        )


def unreadable(path: Path, error: OSError) -> UsageError:
    """Returns the explanation of a file that could not be read, or not be unpacked."""
    if error.errno is None:  # Arrow's own, of a compressed stream
        return UsageError(
            "it is compressed, and damaged or cut short",
            where=str(path),
            remedy="Copy or compress it again.",
        )
    return UsageError(f"it cannot be read: {error.strerror}", where=str(path))


def _codec(head: bytes) -> str | None:
    return next((codec for magic, codec in _CODECS.items() if head.startswith(magic)), None)
