"""Files of records: CSV, JSON lines, Parquet, and folders of the datasets library."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
from conftest import LABELS
from fuzzing.mutation import of_bytes, of_json, of_lines, of_tree, of_zip, zipped
from fuzzing.parser import Documented, Parser, must
from fuzzing.setting import Maker, Setting

from hortus.learning.data.records import Records, read_records
from hortus.learning.tasks.classification import TextClassification
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


def _as_parquet(data: bytes, chance: Random) -> bytes:
    """Writes changed rows as Parquet; bytes that are Parquet already are changed as bytes."""
    if chance.random() < 0.4:
        return of_bytes(data, chance)
    rows = of_tree(_ROWS, chance)
    target = io.BytesIO()
    try:
        table = pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        pyarrow.parquet.write_table(table, target)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        return of_bytes(data, chance)
    return target.getvalue()


def parquet(setting: Setting) -> Parser:
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_ROWS), target)
    read = _reader(setting, "fuzzed.parquet")
    return Parser("Parquet", (target.getvalue(),), _as_parquet, read, 0.4)


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


RECORDS: tuple[Maker, ...] = (csv_file, json_lines, parquet, dataset_folder)
