"""Tables as Apache Arrow reads them: Parquet, Arrow's own files, and folders of the `datasets` library."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hortus.learning.data.packing import packed, unreadable
from hortus.learning.data.row import Row, check_distinct
from hortus.runtime.errors import UsageError

_BATCH_ROWS = 1024
_FILE = b"ARROW1"
_OLD_FEATHER = b"FEA1"

Classes = Mapping[str, Sequence[str]]
"""The names of the classes that a column holds as numbers, alone or in lists."""


def read_parquet(path: Path) -> Iterator[Row]:
    """Yields the rows of a Parquet file."""
    with (
        _explained(path, "Parquet", "Parquet compresses its own columns"),
        pyarrow.parquet.ParquetFile(path) as parquet,
    ):
        schema = parquet.schema_arrow
        check_distinct(schema.names, str(path))
        yield from _rows(path, parquet.iter_batches(_BATCH_ROWS), _stated_classes(schema))


def read_arrow(path: Path) -> Iterator[Row]:
    """Yields the rows of an Arrow file, also called Feather, or of an Arrow stream."""
    with _explained(path, "Arrow", "Arrow compresses its own batches"):
        with path.open("rb") as file:
            head = file.read(len(_FILE))
        if head.startswith(_OLD_FEATHER):
            raise UsageError(
                "this is Feather, version 1",
                where=str(path),
                remedy="Write it again with a later pyarrow, or as Parquet.",
            )
        with pyarrow.OSFile(str(path)) as source:
            if head == _FILE:
                found = pyarrow.ipc.open_file(source)
                batches = map(found.get_batch, range(found.num_record_batches))
            else:
                found = batches = pyarrow.ipc.open_stream(source)
            check_distinct(found.schema.names, str(path))
            yield from _rows(path, _slices(path, batches), _stated_classes(found.schema))


def read_datasets(path: Path) -> Iterator[Row]:
    """Yields the rows of a folder that the `datasets` library has saved."""
    try:
        from datasets import DatasetDict, load_from_disk  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(
            "reading a folder needs the datasets library",
            where=str(path),
            remedy="pip install datasets",
        ) from None
    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # noqa: BLE001 - whatever the library says of a damaged folder
        raise UsageError(
            f"the folder is not one of the datasets library: {type(error).__name__}",
            where=str(path),
            remedy="Make it with Dataset.save_to_disk.",
        ) from None
    if isinstance(dataset, DatasetDict):
        raise UsageError(
            f"the folder holds several datasets: {', '.join(dataset)}",
            where=str(path),
            remedy=f"Name one of them: {path / next(iter(dataset), '')}",
        )
    # As Arrow: nothing is decoded, images and sound least of all.
    tables = dataset.with_format("arrow").iter(_BATCH_ROWS)
    yield from _rows(path, tables, _classes(dataset.features.to_dict()))


@contextmanager
def _explained(path: Path, what: str, why_packed: str) -> Iterator[None]:
    """Says what is wrong with a file in our own words."""
    try:
        if codec := packed(path):
            raise UsageError(
                f"it is compressed by {codec}, not {what}",
                where=str(path),
                remedy=f"Unpack it with {codec} -d: {why_packed}.",
            )
        yield
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise UsageError(f"malformed {what}: {type(error).__name__}", where=str(path)) from None
    except OSError as error:
        if error.errno is None:
            raise UsageError(f"malformed {what}: damaged or cut short", where=str(path)) from None
        raise unreadable(path, error) from None


def _slices(path: Path, batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    """Cuts batches of whatever size: of their rows only so many become Python objects at once."""
    number = 0
    for batch in batches:
        _check(path, batch, number)  # whole: offsets of one slice may point into another
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)
        number += batch.num_rows


def _rows(
    path: Path, tables: Iterable[pyarrow.Table | pyarrow.RecordBatch], classes: Classes
) -> Iterator[Row]:
    number = 0
    for table in tables:
        _check(path, table, number)
        try:
            rows: list[dict[str, Any]] = table.to_pylist()
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            raise _malformed(path, error, number) from None
        for row in rows:
            number += 1
            named = {name: _named(row[name], classes[name]) for name in classes if name in row}
            yield f"row {number}", row | named


def _check(path: Path, table: pyarrow.Table | pyarrow.RecordBatch, number: int) -> None:
    try:
        table.validate(full=True)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise _malformed(path, error, number) from None


def _malformed(path: Path, error: Exception, number: int) -> UsageError:
    return UsageError(
        f"malformed values: {type(error).__name__}", where=f"{path}, after row {number}"
    )


def _stated_classes(schema: pyarrow.Schema) -> Classes:
    """Returns the classes that the `datasets` library states in the schema of what it writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return _classes(features)
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _classes(features: object) -> Classes:
    found: dict[str, Sequence[str]] = {}
    if not isinstance(features, Mapping):
        return found
    for column, feature in features.items():
        inner = feature
        while isinstance(inner, Mapping) and isinstance(inner.get("feature"), Mapping):
            inner = inner["feature"]  # of a list
        names = inner.get("names") if isinstance(inner, Mapping) else None
        is_class = isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel"
        if is_class and isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[column] = names
    return found


def _named(value: Any, names: Sequence[str]) -> Any:  # noqa: ANN401 - a number, or lists of them
    """Returns the name of a class; None where there is none: -1 is the library's "unknown"."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if value is None or isinstance(value, str):
        return value
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
