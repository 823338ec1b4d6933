"""No ledger fools the audit, and no honest one is accused: random histories, and one lie about each.

`benchmarks/lies.py` shows the auditor tens of thousands of both.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.verdicts import HONEST, examine

_MEMORY = Path("/dev/shm")
_HISTORIES = 150


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        yield Path(name)


def test_every_honest_history_is_cleared_and_every_lie_about_it_is_found(folder: Path) -> None:
    right, wrong = examine(3, _HISTORIES, folder)
    assert not wrong, wrong[0]
    assert right[HONEST] >= _HISTORIES
    assert len(right) > 20
