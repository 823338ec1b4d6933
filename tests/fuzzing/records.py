"""Files of records: CSV, JSON lines, CoNLL, Parquet, Arrow, and folders of the datasets library."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.feather
import pyarrow.parquet
from conftest import LABELS
from fuzzing.mutation import Change, of_bytes, of_json, of_lines, of_tree, of_zip, zipped
from fuzzing.parser import Documented, Parser, must
from fuzzing.setting import Maker, Setting

from hortus.learning.data.records import Records, read_records
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.tasks.tagging import TokenClassification
from tests.helpers.labelled import labels_of, texts_of

_TASK = TextClassification(labels=LABELS, max_length=16)
_ROWS = [{"text": f"sky is {n}", "label": LABELS[n % 3], "patient": f"p{n // 2}"} for n in range(6)]


def _check(found: Records, again: Path) -> None:
    """Whatever is read reads the same from a file of lines."""
    must(
        len(texts_of(found)) == len(labels_of(found)) == len(found.rows) == len(found.units),
        "its sizes",
    )
    must(set(labels_of(found)) <= set(range(len(LABELS))), "a label that the plan lacks")
    must(all(text.strip() for text in texts_of(found)), "an empty text")
    rows = (
        {"text": text, "label": LABELS[label], "patient": unit}
        for text, label, unit in zip(texts_of(found), labels_of(found), found.units, strict=True)
    )
    again.write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = read_records(again, _TASK, "patient")
    must(texts_of(same) == texts_of(found) and same.units == found.units, "others, read again")


def _reader(setting: Setting, name: str) -> Callable[[bytes], None]:
    again = setting.folder / "again.jsonl"
    return setting.read_with(lambda path: _check(read_records(path, _TASK, "patient"), again), name)


def _csv_field(data: bytes, chance: Random) -> bytes:
    """Changes a field, sometimes into one with quotes, commas or line ends."""
    fields = data.split(b",")
    place = chance.randrange(len(fields))
    odd = (b'"', b'""', b'"a\nb"', b"\r", b"\x00", b",", b" 7.0 ", b"\xef\xbb\xbf")
    fields[place] = chance.choice(odd) if chance.random() < 0.4 else of_bytes(fields[place], chance)
    return b",".join(fields)


def csv_file(setting: Setting) -> Parser:
    lines = ["text,label,patient", *(",".join(row.values()) for row in _ROWS)]
    seeds = ("\n".join(lines).encode(), "\r\n".join(lines).encode())
    return Parser("CSV", seeds, of_lines(_csv_field), _reader(setting, "fuzzed.csv"), 0.6)


def json_lines(setting: Setting) -> Parser:
    seeds = ("\n".join(json.dumps(row) for row in _ROWS).encode(),)
    return Parser("JSON lines", seeds, of_lines(of_json), _reader(setting, "fuzzed.jsonl"), 0.6)


_Writer = Callable[[pyarrow.Table, io.BytesIO], None]


def _as_table(write: _Writer) -> Change:
    """Writes changed rows as a table; bytes that are one already are changed as bytes."""

    def change(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.4:
            return of_bytes(data, chance)
        rows = of_tree(_ROWS, chance)
        target = io.BytesIO()
        try:
            write(pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)]), target)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            return of_bytes(data, chance)
        return target.getvalue()

    return change


def _table(write: _Writer) -> bytes:
    target = io.BytesIO()
    write(pyarrow.Table.from_pylist(_ROWS), target)
    return target.getvalue()


def _write_parquet(table: pyarrow.Table, target: io.BytesIO) -> None:
    pyarrow.parquet.write_table(table, target)


def _write_file(table: pyarrow.Table, target: io.BytesIO) -> None:
    with pyarrow.ipc.new_file(target, table.schema) as writer:
        writer.write_table(table)


def _write_stream(table: pyarrow.Table, target: io.BytesIO) -> None:
    with pyarrow.ipc.new_stream(target, table.schema) as writer:
        writer.write_table(table, 2)


def _write_packed(table: pyarrow.Table, target: io.BytesIO) -> None:
    pyarrow.feather.write_feather(table, target, compression="zstd")


def parquet(setting: Setting) -> Parser:
    read = _reader(setting, "fuzzed.parquet")
    return Parser("Parquet", (_table(_write_parquet),), _as_table(_write_parquet), read, 0.4)


def arrow_file(setting: Setting) -> Parser:
    read = _reader(setting, "fuzzed.arrow")
    seeds = (_table(_write_file), _table(_write_packed))
    return Parser("Arrow file", seeds, _as_table(_write_file), read, 0.4)


def arrow_stream(setting: Setting) -> Parser:
    read = _reader(setting, "fuzzed.feather")
    return Parser("Arrow stream", (_table(_write_stream),), _as_table(_write_stream), read, 0.4)


_TAGGING = TokenClassification(entities=("Disease",), max_length=16)
_TAGGED = "# patient = p1\nred\tB-Disease\nrash\tI-Disease\n\n# patient = p2\nno\tO\n"


def _conll_line(line: bytes, chance: Random) -> bytes:
    """Changes a line, sometimes into one with other columns, a comment, or none at all."""
    odd = (
        b"",
        b"\t",
        b"a\tb\tO",
        b"# tags = x",
        b"#\tO",
        b"a O",
        b"\xff\tO",
        b"-DOCSTART-\tO",
        b"# patient = 7.0",
    )
    return chance.choice(odd) if chance.random() < 0.4 else of_bytes(line, chance)


def conll(setting: Setting) -> Parser:
    again = setting.folder / "again.jsonl"

    def check(path: Path) -> None:
        found = read_records(path, _TAGGING, "patient")
        must(all(len(one.words) == len(one.tags) > 0 for one in found.values), "words without tags")
        must(all(word.strip() for one in found.values for word in one.words), "a blank word")
        rows = (
            _TAGGING.row(value) | {"patient": unit}
            for value, unit in zip(found.values, found.units, strict=True)
        )
        again.write_text("".join(json.dumps(row) + "\n" for row in rows))
        must(read_records(again, _TAGGING, "patient").values == found.values, "others, read again")

    seeds = (_TAGGED.encode(), _TAGGED.replace("\t", " ").replace("# patient = ", "p ").encode())
    return Parser(
        "CoNLL", seeds, of_lines(_conll_line), setting.read_with(check, "fuzzed.conll"), 0.6
    )


def dataset_folder(setting: Setting) -> Parser:
    from datasets import Dataset  # noqa: PLC0415 - slow to import

    folder, again = setting.folder / "dataset", setting.folder / "again.jsonl"
    Dataset.from_list(_ROWS).save_to_disk(folder)
    seed = zipped([(path.name, path.read_bytes()) for path in sorted(folder.iterdir())])

    def read(data: bytes) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as bundle:
                members = [(one, bundle.read(one)) for one in bundle.namelist()]
        except Exception as error:
            raise Documented("no folder can be made of it") from error
        for name, content in members:
            (folder / (Path(name).name.replace("\x00", "").strip(".")[:60] or "x")).write_bytes(
                content
            )
        _check(read_records(folder, _TASK, "patient"), again)

    change = of_zip({"data": of_bytes, "": of_json})
    return Parser("datasets folder", (seed,), change, read, 0.05)


RECORDS: tuple[Maker, ...] = (
    csv_file,
    json_lines,
    conll,
    parquet,
    arrow_file,
    arrow_stream,
    dataset_folder,
)
