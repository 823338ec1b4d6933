"""Records of labelled texts, as text classification reads them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hortus.learning.data.records import Records
from hortus.learning.tasks.texts import LabelledText


def labelled(
    texts: Sequence[str],
    labels: ArrayLike,
    rows: tuple[bytes, ...] = (),
    units: tuple[str, ...] = (),
) -> Records:
    """Returns records of texts with the numbers of their labels."""
    numbers = np.asarray(labels).tolist()
    return Records(tuple(map(LabelledText, texts, numbers)), rows, units)


def texts_of(records: Records) -> tuple[str, ...]:
    return tuple(value.text for value in records.values)


def labels_of(records: Records) -> list[int]:
    return [value.label for value in records.values]


def groups_of(records: Records) -> NDArray[np.int64]:
    return np.array(labels_of(records), np.int64)
