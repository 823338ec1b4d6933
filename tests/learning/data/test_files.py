"""What a file is called, how it is packed, and which line of it is broken."""

import gzip
import io
import json
import random
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from hortus.learning.data import text as text_module
from hortus.learning.data.records import Records, read_records, record_bytes
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import texts_of

TASK = TextClassification(labels=("bread", "cake"))
TEXTS = ('rye, "dark"', "żółć\u2028\tnext", "two\nlines")
ROWS = [{"text": t, "label": "cake"} for t in TEXTS]


def rows_as(kind: str) -> bytes:
    if kind in {"csv", "tsv"}:
        comma = "," if kind == "csv" else "\t"
        lines = ['"' + t.replace('"', '""') + f'"{comma}cake\n' for t in TEXTS]
        return (f"text{comma}label\n" + "".join(lines)).encode()
    if kind == "parquet":
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
        return sink.getvalue()
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def pack(data: bytes, codec: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def read(folder: Path, name: str, data: bytes) -> Records:
    (folder / name).write_bytes(data)
    return read_records(folder / name, TASK)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("RECORDS.CSV", "csv"),
        ("records.Csv", "csv"),
        ("ward.2026-11.csv", "csv"),
        ("records.tsv", "tsv"),
        ("records.TSV", "tsv"),
        ("records.ndjson", "jsonl"),
        ("Records.JSONL", "jsonl"),
        ("r.Parquet", "parquet"),
        ("a b [bold]'x'.csv", "csv"),
        (".csv.csv", "csv"),
    ],
)
def test_a_format_goes_by_the_end_of_the_name(tmp_path: Path, name: str, kind: str) -> None:
    assert texts_of(read(tmp_path, name, rows_as(kind))) == TEXTS


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson"])
@pytest.mark.parametrize("end", ["", ".gz", ".GZ", ".zst", ".zstd"])
def test_a_packed_file_is_read_whatever_it_is_called(
    tmp_path: Path, codec: str, kind: str, end: str
) -> None:
    plain = read(tmp_path, f"plain.{kind}", rows_as(kind))
    packed = read(tmp_path, f"records.{kind}{end}", pack(rows_as(kind), codec))
    assert texts_of(packed) == TEXTS
    assert list(record_bytes(packed)) == list(record_bytes(plain))
    # A browser may have unpacked it and left the name.
    assert texts_of(read(tmp_path, f"open.{kind}{end}", rows_as(kind))) == TEXTS


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_packed_parts_one_after_another_are_one_file(tmp_path: Path, codec: str) -> None:
    whole = rows_as("csv")
    data = pack(whole[:30], codec) + pack(whole[30:], codec)
    assert texts_of(read(tmp_path, "records.csv.gz", data)) == TEXTS


def refusal(path: Path, data: bytes) -> UsageError:
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_records(path, TASK)
    assert "rye" not in str(caught.value)
    return caught.value


ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as archive:
    archive.writestr("records.csv", rows_as("csv"))


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.csv", ARCHIVE.getvalue(), "a ZIP archive or an Excel workbook"),
        (
            "a.csv.gz",
            gzip.compress(gzip.compress(rows_as("csv"), mtime=0), mtime=0),
            "compressed twice",
        ),
        ("a.csv", pack(rows_as("csv"), "bz2"), "bunzip2"),
        ("a.csv", rows_as("parquet"), "a name that ends in .parquet"),
        ("a.parquet", rows_as("csv"), "malformed Parquet"),
        ("a.parquet.gz", gzip.compress(rows_as("parquet"), mtime=0), "gzip -d"),
        ("a.parquet", rows_as("parquet")[:-20], "malformed Parquet"),
        ("a.csv.gz", gzip.compress(rows_as("csv"), mtime=0)[:-9], "damaged or cut short"),
        ("a.csv.zst", pack(rows_as("csv"), "zstd")[:-2], "damaged or cut short"),
        ("a.jsonl.gz", gzip.compress(rows_as("jsonl"), mtime=0) + b"more", "damaged or cut short"),
        ("a.gz", gzip.compress(rows_as("csv"), mtime=0), "no format"),
        ("a.xlsx", b"", "'.xlsx' are not read"),
        ("records", rows_as("csv"), "no format"),
    ],
)
def test_a_file_of_another_kind_is_told(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    assert told in str(refusal(tmp_path / name, data))


def test_a_spoiled_packed_file_is_read_or_refused(tmp_path: Path) -> None:
    """One byte changed, anywhere: never a traceback; and never other records, by gzip's checksum."""
    chance = random.Random(5)
    for codec in ("gzip", "zstd"):
        whole = pack(rows_as("csv"), codec)
        for _ in range(150):
            spoiled = bytearray(whole)
            spoiled[chance.randrange(len(whole))] = chance.randrange(256)
            with suppress(UsageError):
                texts = texts_of(read(tmp_path, "records.csv", bytes(spoiled)))
                assert codec == "zstd" or texts == TEXTS


def test_a_packed_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Columns that no plan asks for, 200 times what is kept, do not stay in memory."""
    path = tmp_path / "records.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"text,label,scan\n")
        for _ in range(2000):
            file.write(b"rye,bread," + b"x" * 50_000 + b"\n")
    tracemalloc.start()
    records = read_records(path, TASK)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 2000
    assert most < 20e6  # the file is 100 MB, unpacked


@pytest.mark.parametrize(
    "name", ["a.csv.gz", "a.jsonl.gz", "b.csv.gz"], ids=["line", "object", "open quote"]
)
def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "LONGEST_LINE", 10_000)
    monkeypatch.setattr("hortus.learning.data.rows.LONGEST_LINE", 10_000)
    start = {"a.csv.gz": b"text,label\n", "a.jsonl.gz": b'{"text": "', "b.csv.gz": b'text,label\n"'}
    more = b"x" * 99 + (b"\n" if name == "b.csv.gz" else b"x")
    error = refusal(tmp_path / name, gzip.compress(start[name] + more * 1000, mtime=0))
    assert "too long" in error.problem or "field larger" in error.problem
    assert error.where == f"{tmp_path / name}, line {1 if 'jsonl' in name else 2}"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'text,label\nrye,bread\n"said \\"rye\\", ok",cake\nrye,cake\n', 3),
        (b'text,label\n\n\nrye,bread\n"rye" now,cake\n', 5),
        (b'text,label\n"two\nlines",bread\nrye,cake,more\nrye,cake\n', 4),
        (b'text,label\n"two\nlines",bread\n"never closed,cake\nrye,cake\n', 4),
        (b'text,label\r\n"a\r\nb\r\nc",bread\r\nrye\r\n', 5),
        (b'text,label\r"a\rb",bread\rrye\r', 4),
        (b'text,label\n"starts\nhere" and breaks,cake\n', 2),
        (b'"text" no,label\nrye,cake\n', 1),
        (b'text,label\n"two\nlines",bread\n,cake\n', 4),
        (b'text,label\n"two\nlines",pie\n', 2),
    ],
)
def test_a_broken_row_is_named_by_the_line_it_starts_at(
    tmp_path: Path, data: bytes, line: int
) -> None:
    for name, content in (("a.csv", data), ("a.tsv", data.replace(b",", b"\t"))):
        where = refusal(tmp_path / name, content).where or ""
        assert where.split(", ")[1] == f"line {line}"


def test_json_lines_are_counted_with_the_blank_ones(tmp_path: Path) -> None:
    data = b'{"text": "a", "label": "cake"}\n\n\r\n{"text": "rye", "label": "pie"}\n'
    assert (refusal(tmp_path / "a.jsonl", data).where or "").split(", ")[1] == "line 4"


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path, told in (
        (tmp_path / "folder.csv", "not one of the datasets library"),
        (tmp_path / "none.csv", "no such file"),
        (Path("/dev/null"), "no regular file"),
    ):
        with pytest.raises(UsageError, match=told):
            read_records(path, TASK)
